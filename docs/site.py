"""Makes the static site: executed notebooks, tables, overlay, documents and the public names of the library.

    python docs/site.py                   # after `make study`; --help lists the paths

The pages need no network. An executed notebook whose cells differ from the committed ones is refused.
"""

import argparse
import html
import inspect
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from latex2mathml.converter import convert as mathml
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import ttilib as tti
from ttilib.files import write_text
from ttilib.results.export import read_table, to_markdown

ROOT = Path(__file__).resolve().parent.parent
# Committed notebook, executed copy in the run folder. Of the evaluations, the first task of the sweep.
COPIES = {
    "01_data": "01_data.ipynb", "02_train": "02_train-f0.ipynb", "03_episode": "03_episode.ipynb",
    "04_evaluate": "tasks/*.ipynb", "05_tables": "05_tables-mini.ipynb", "06_your_video": "06_your_video.ipynb",
    "07_frozen_encoder": "07_frozen_encoder.ipynb",
}  # fmt: skip
OPTIONAL = {"06_your_video": " -p headless True", "07_frozen_encoder": ""}  # not run by the study: their parameters
TABLES = {
    "mini": ["shots", "method", "episodes", "mIoU", "precision", "recall", "J", "F", "VC_3", "VC_5", "s/episode"],
    "mini-paired": ["shots", "method", "mIoU", "mIoU low", "mIoU high", "better", "worse"],
}
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "GLOSSARY.md", ROOT / "CONTRIBUTING.md",
             ROOT / "CHANGELOG.md", ROOT / "lists" / "README.md"]  # fmt: skip
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: light-dark(#0b57d0, #8ab4f8); }
body { margin: 0 auto; max-width: 72rem; padding: 0 1rem 4rem; font: 16px/1.55 system-ui, sans-serif; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 1rem 0; border-bottom: 1px solid var(--line); }
a { color: var(--link); }
img, video { max-width: 100%; height: auto; }
img { background: white; }
table { border: 0; border-collapse: collapse; font-size: .9em; display: block; overflow-x: auto; margin: 1rem 0; }
.output_html :is(th, td) { white-space: nowrap; }
.dataframe td { text-align: right; }
tr:not(:has(> :not(:empty))) { display: none; }
th, td { padding: .25rem .7rem; border: solid var(--line); border-width: 0 0 1px; text-align: left; }
pre { overflow-x: auto; padding: .7rem 1rem; background: var(--soft); border-radius: 4px; font-size: .85em; }
code { font-size: .9em; } pre code { font-size: 1em; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1.2rem; }
.cards a { border: 1px solid var(--line); border-radius: 6px; padding: .8rem; text-decoration: none; color: inherit; }
.cards img { height: 11rem; width: 100%; object-fit: cover; object-position: left top; }
.anchor-link, .prompt { display: none; }
math[display="block"] { margin: 1rem 0; overflow: auto hidden; }
dt { margin-top: 1.5rem; }
dd pre { white-space: pre-wrap; }
.whole { white-space: nowrap; }
"""


def page(title: str, body: str, up: str = "") -> str:
    """A complete page; `up` leads to the folder of the site."""
    links = {"Overview": "index", "README": "README", "Method": "docs/method", "Results": "docs/results", "API": "api"}
    menu = "".join(f'<a href="{up}{target}.html">{name}</a>' for name, target in links.items())
    return (
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="{up}style.css">'
        f"<nav>{menu}</nav><main>{body}</main></html>\n"
    )


def with_formulas(text: str) -> str:
    """Markdown whose LaTeX formulas are MathML; code stays as it is."""

    def formula(found: re.Match[str]) -> str:
        code, block, inline = found.groups()
        return code or mathml(block or inline, display="block" if block else "inline")

    pattern = r"(```.*?```|`[^`\n]+`)|\$\$(.+?)\$\$|(?<![\w$])\$([^$\n]+)\$(?![\w$])"
    return re.sub(pattern, formula, text, flags=re.DOTALL)


# ---- notebooks -----------------------------------------------------------------------------------------


def executed(run: Path, name: str) -> nbformat.NotebookNode:
    """The executed copy of a notebook; of one that the study does not run, else the committed one, which says so.
    Raises FileNotFoundError, or ValueError if the committed one is another.
    """
    paths, committed = sorted(run.glob(COPIES[name])), nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    if not paths and name in OPTIONAL:
        command = f"python -m ttilib run notebooks/{name}.ipynb {run / COPIES[name]}{OPTIONAL[name]}"
        note = f"*Not run by `make study`.* For its figures: `{command}`, then `make site`."
        committed.cells.insert(1, nbformat.v4.new_markdown_cell(note))
        return committed
    if not paths:
        raise FileNotFoundError(f"{run / COPIES[name]}: no executed notebook; run make study first")
    copy = nbformat.read(paths[0], as_version=4)
    copy.cells = [cell for cell in copy.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.source for cell in copy.cells] != [cell.source for cell in committed.cells]:
        raise ValueError(f"{paths[0]}: made from another version of notebooks/{name}.ipynb; run make study again")
    return copy


def notebook_body(notebook: nbformat.NotebookNode) -> str:
    """The cells with their outputs as HTML."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_formulas(cell.source)
        # Progress bars and warnings are of the run, not of the result.
        cell.get("outputs", [])[:] = [o for o in cell.get("outputs", []) if o.get("name") != "stderr"]
    return HTMLExporter(template_name="basic").from_notebook_node(notebook)[0]


def first_lines(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    """Title and first two sentences of a notebook."""
    title, _, text = notebook.cells[0].source.partition("\n")
    return title.strip("# "), " ".join(re.split(r"(?<=\.)\s", text.strip())[:2])


def thumbnail(notebook: nbformat.NotebookNode) -> str:
    """The largest image of a notebook as an <img>, or nothing."""
    images = [output.data["image/png"] for cell in notebook.cells for output in cell.get("outputs", [])
              if "image/png" in output.get("data", {})]  # fmt: skip
    return f'<img alt="" src="data:image/png;base64,{max(images, key=len)}">' if images else ""


# ---- documents and names -------------------------------------------------------------------------------


def document_body(path: Path, out: Path) -> str:
    """A document as HTML; what it links to is copied into the site."""
    body = markdown2html(with_formulas(path.read_text(encoding="utf-8")))
    anchors = r'(<h\d id="|class="anchor-link" href="#)([^"]+)'  # as GitHub makes them, which links expect
    body = re.sub(anchors, lambda found: found[1] + re.sub(r"[^\w-]", "", html.unescape(found[2]).lower()), body)
    whole = r"(?<=[\s>])(--?[a-z][\w-]*|\d{4}-\d\d-\d\d)"  # options and dates, which browsers would break at a hyphen
    return linked(re.sub(whole, r'<span class="whole">\1</span>', body), path, out, "href|src")


def linked(body: str, path: Path, out: Path, kinds: str) -> str:
    """The HTML made from a file of the repository, with links (attributes `kinds`) to the site's copies."""
    here = path.relative_to(ROOT).parent

    def link(found: re.Match[str]) -> str:
        kind, target, anchor = found.groups()
        if re.match(r"\w+:", target) or not target:
            return found[0]
        file = (path.parent / target).resolve()
        if not file.is_relative_to(ROOT) or not file.exists():
            raise FileNotFoundError(f"{path}: {target} is linked and not there; correct the link")
        name = "/".join([*[".."] * len(here.parts), site_name(file, out)])
        return f'{kind}="{name}{anchor or ""}"'

    return re.sub(rf'({kinds})="([^"#]*)(#[^"]*)?"', link, body)


def site_name(file: Path, out: Path) -> str:
    """Path in the site of a file of the repository: a page for documents, folders, Python, notebooks; else a copy."""
    name = PurePosixPath(file.relative_to(ROOT).as_posix())
    if file in DOCUMENTS:
        return f"{name.with_suffix('.html')}"
    if name.parent.name == "notebooks" and name.stem in COPIES:
        return f"notebooks/{name.stem}.html"
    if file.is_dir():
        listed = "".join(f"<li><code>{html.escape(each.name)}</code>" for each in sorted(file.glob("[!_.]*")))
        body, up = f"<h1>{name}</h1><ul>{listed}</ul>", "../" * (len(name.parts) + 1)
        write_text(out / "source" / name / "index.html", page(str(name), body, up))
        return f"source/{name}/index.html"
    if name.suffix == ".py":
        code = highlight(file.read_text(encoding="utf-8"), PythonLexer(), HtmlFormatter())
        write_text(out / "source" / f"{name}.html", page(str(name), f"<h1>{name}</h1>{code}", "../" * len(name.parts)))
        return f"source/{name}.html"
    target = out / "source" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target)
    return f"source/{name}"


class Shown(str):
    """A text that `inspect` shows without quotes."""

    __repr__ = str.__str__


def signature(thing: Any) -> str:
    """The parameters of a function or class, with annotations as in the source, without their bounds."""

    def shown(annotation: Any) -> Any:
        plain = re.sub(r"Annotated\[(\w+), Meta\([^)]*\)\]", r"\1", str(annotation))
        return annotation if annotation is inspect.Parameter.empty else Shown(plain)

    found, parameters = inspect.signature(thing), []
    for each in found.parameters.values():
        default = Shown(each.default.__name__) if inspect.isfunction(each.default) else each.default
        parameters.append(each.replace(annotation=shown(each.annotation), default=default))
    returned = inspect.Parameter.empty if inspect.isclass(thing) else shown(found.return_annotation)
    return str(found.replace(parameters=parameters, return_annotation=returned))


def names_body() -> str:
    """Signature and docstring of every public name of the library."""
    entries = []
    for name in tti.__all__:
        thing: Any = getattr(tti, name)
        text = ", ".join(thing) if isinstance(thing, dict) else inspect.getdoc(thing) or ""
        about = html.escape(signature(thing)) if callable(thing) else ""
        entries.append(f'<dt id="{name}"><code><b>tti.{name}</b>{about}</code><dd><pre>{html.escape(text)}</pre>')
    return f"<h1>Public names</h1><p><code>import ttilib as tti</code></p><dl>{''.join(entries)}</dl>"


# ---- the site ------------------------------------------------------------------------------------------


def overview(run: Path, out: Path, notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """Tables, overlay, gallery, and a card for each notebook and document."""

    def table(name: str) -> str:
        return markdown2html(to_markdown(read_table(run / "tables" / f"{name}.csv")[TABLES[name]]))

    cards = []
    for name, notebook in notebooks.items():
        title, sentences = first_lines(notebook)
        text = f"<h3>{html.escape(title)}</h3>{markdown2html(with_formulas(sentences))}"
        cards.append(f'<a href="notebooks/{name}.html">{thumbnail(notebook)}{text}</a>')
    overlay = next(iter(sorted(run.glob("overlay.*"))))
    gallery = run / "figures" / "05_mini-gallery.png"
    for file in (overlay, gallery):
        shutil.copy(file, out / file.name)
    headings = {path: path.read_text(encoding="utf-8").partition("\n")[0].strip("# ") for path in DOCUMENTS}
    links = (f'<li><a href="{site_name(path, out)}">{text}</a>' for path, text in headings.items())
    documents = "".join(links).replace("`", "")
    return (
        "<h1>Few-shot video segmentation by temporal transductive inference</h1>"
        "<p>Computed on the synthetic dataset by <code>make study</code>; notebooks 6 and 7 by their own commands.</p>"
        f'<h2>One episode</h2><video controls loop muted src="{overlay.name}"></video>'
        "<p>Mask of TTI and ground truth.</p>"
        f"<h2>Results</h2><p>Percent, mean over classes, runs and folds.</p>{table('mini')}"
        f"<p>Differences of two methods on the same episodes, with the ends of 95% intervals.</p>{table('mini-paired')}"
        f'<h2>Notebooks</h2><div class="cards">{"".join(cards)}</div>'
        f'<h2>Best, median and worst episodes</h2><img alt="gallery" src="{gallery.name}">'
        f"<h2>Documents</h2><ul>{documents}</ul>"
    )


def pages(run: Path, out: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every page."""
    notebooks = {name: executed(run, name) for name in COPIES}
    yield "index.html", page("ttilib", overview(run, out, notebooks))
    for name, notebook in notebooks.items():
        body = linked(notebook_body(notebook), ROOT / "notebooks" / f"{name}.ipynb", out, "href")
        yield f"notebooks/{name}.html", page(first_lines(notebook)[0], body, "../")
    for path in DOCUMENTS:
        name = site_name(path, out)
        yield name, page(path.name, document_body(path, out), "../" * name.count("/"))
    yield "api.html", page("Public names", names_body())


def make_site(run: Path, out: Path) -> Path:
    """Write the site of a run of the study into `out`, in place of an earlier site, and return its first page."""
    if out.exists() and not (out / "style.css").is_file() and any(out.iterdir()):
        raise FileExistsError(f"{out}: holds other files than a site; give an empty folder")
    shutil.rmtree(out, ignore_errors=True)
    code = "".join(
        f"@media (prefers-color-scheme: {scheme}) {{{HtmlFormatter(style=style).get_style_defs('.highlight')}}}"
        for scheme, style in (("light", "default"), ("dark", "github-dark"))
    )
    write_text(out / "style.css", STYLE + code)
    for name, text in pages(run, out):
        write_text(out / name, text)
    return out / "index.html"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="outputs/mini", type=Path, help="run folder of the study")
    parser.add_argument(
        "--out", default="outputs/site", type=Path, help="folder of the site; an earlier one is replaced"
    )
    options = parser.parse_args()
    try:
        print(make_site(options.run, options.out))
    except (OSError, ValueError) as error:
        print(f"site: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
