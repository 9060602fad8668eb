"""Rules of the repository: import direction, sizes, words, clean notebooks."""

import ast
import json
import re
from pathlib import Path

import pytest

import ttilib
from ttilib.sweep.tasks import notebook_parameters

REPOSITORY = Path(__file__).resolve().parent.parent
LIBRARY = REPOSITORY / "ttilib"

# A module may import only modules above it. The first rows are the paper; they import nothing of the rest.
PACKAGES = (
    ("", "files images"),
    ("datasets", "transforms base masks pascal youtube_vis sequences coco catalog"),
    ("episodes", "sampling episode benchmarks clips"),
    ("encoders", "external pspnet layers pretrained checkpoints feature_cache"),
    ("solver", "task classifier losses settings objective solver edges extraction methods"),
    ("results", "metrics records evaluation tables statistics export"),
    ("synthetic", "outlines shapes scenery scenes dataset"),
    ("", "synthetic"),
    ("networks", "imagenet"),
    ("plots", "style overlays curves comparisons gallery video browser draw"),
    ("training", "config distributed data model validation log run train"),
    ("tools", "doctor_checks doctor"),
    ("sweep", "tables tasks clusters expand driver"),
    ("", "segment"),
)
ORDER = [f"{package}.{module}".strip(".") for package, modules in PACKAGES for module in modules.split()]
PAPER = {"files", "images", "datasets", "episodes", "encoders", "solver", "results"}
FORBIDDEN = (
    ".cuda(", "argparse", "hasattr(", "print(", "os.environ", "np.random.seed", "torch.manual_seed(", "pickle.load",
)  # fmt: skip
MODULES = sorted(LIBRARY.rglob("*.py"))
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "lists" / "README.md"])
SCRIPTS = sorted(REPOSITORY.glob("perf/*.py"))


def name_of(path):
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Names of ttilib modules that a module imports, at any place, resolved to modules of ORDER."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name.removeprefix("ttilib.") in ORDER else node.module for name in full}
    return {name.removeprefix("ttilib.") for name in found if name.startswith("ttilib.")}


def test_imports_go_one_way_and_the_paper_imports_nothing_of_the_rest():
    for path in MODULES:
        name, imports = name_of(path), imports_of(path)
        if path.name == "__init__.py" and name not in ORDER:
            assert name == "" or not imports, f"{name}/__init__.py imports {imports}"
        elif name != "__main__":
            assert name in ORDER, f"{name} is not in PACKAGES"
            wrong = {other for other in imports if other not in ORDER[: ORDER.index(name)]}
            assert not wrong, f"{name} imports {wrong}, which are below it in PACKAGES or not in it"
            if name.split(".")[0] in PAPER:
                assert {other.split(".")[0] for other in imports} <= PAPER


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_are_short_and_public_ones_described(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 450 and ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 45, f"{node.name} is too long"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), "a bare except hides errors"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
    for call in set(FORBIDDEN) - ({"argparse", "print("} if name_of(path) == "__main__" else set()):
        assert not re.search(rf"(?<![\w.]){re.escape(call)}" if call[0].isalpha() else re.escape(call), text), call


# Words of an earlier, private vocabulary; GLOSSARY.md has the field's. A pattern starts at the start of a word.
OLD_WORDS = (
    "pictur", "mend", "nobody", "laid", "told", "so many", "manieth", "corpora", "embedded corpus", "asked about",
    "unjudged", "nought", "likeness", r"rooms?\b", r"lends?\b", r"lent\b", r"shel[fv]",
)  # fmt: skip
INTERFACES = ("-mended", "_mended")  # names that people type or files contain


def words_of(path: Path) -> str:
    """The text of a file; of a notebook its cells."""
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


@pytest.mark.parametrize("path", [*MODULES, *NOTEBOOKS, *DOCUMENTS, *SCRIPTS], ids=lambda path: path.stem)
def test_words_are_those_of_the_field(path):
    text = words_of(path)
    for name in INTERFACES:
        text = text.replace(name, "")
    found = re.findall(rf"(?i)(?<![a-z])(?:{'|'.join(OLD_WORDS)}).*", text)
    assert not found, found


def test_there_are_few_names_at_the_top_and_each_is_used_in_readme_or_notebooks():
    assert len(ttilib.__all__) <= 24
    shown = (REPOSITORY / "README.md").read_text() + "".join(path.read_text() for path in NOTEBOOKS)
    assert not [name for name in ttilib.__all__ if f"tti.{name}" not in shown]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean_and_parameters_are_annotated_literals_with_a_meaning(path):
    notebook, text = json.loads(path.read_text()), words_of(path)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert sum(len("".join(cell["source"]).splitlines()) for cell in code) <= 150
    assert not re.search(r"[\"'](/|[A-Z]:\\)", text), "an absolute path"
    assert not re.search(r"\bOutput\(|\binteract", text), "Output and interact can hang a headless run"
    assert notebook["cells"][0]["cell_type"] == "markdown" and "?" in "".join(notebook["cells"][0]["source"])
    assert "**What we saw.**" in "".join(notebook["cells"][-1]["source"])
    (lines,) = ["".join(c["source"]).splitlines() for c in code if "parameters" in c["metadata"].get("tags", [])]
    for line in lines:
        assert re.fullmatch(r"\w+: (int|float|str|bool|list) = .+  # .+", line), line
        ast.literal_eval(line.split(" = ", 1)[1].rsplit("  # ", 1)[0])
    named = [line.split(":")[0] for line in lines]
    assert list(notebook_parameters(path)) == named, "papermill cannot read a line; no '=' or quotes in its comment"


def test_data_and_outputs_are_ignored_but_for_the_tables():
    ignored = (REPOSITORY / ".gitignore").read_text()
    assert "/data/" in ignored and "/outputs/*" in ignored and "!/outputs/tables/" in ignored
