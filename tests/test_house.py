"""Rules of the repository: import direction, sizes, words that do not belong in the library, clean notebooks."""

import ast
import json
import re
from pathlib import Path

import pytest

from ttilib.sweep.tasks import notebook_parameters

REPOSITORY = Path(__file__).resolve().parent.parent
LIBRARY = REPOSITORY / "ttilib"

# A module may import only modules above it. The first rows are the paper; they import nothing of the rest.
PACKAGES = (
    ("", "files images"),
    ("datasets", "transforms base masks pascal youtube_vis vspw davis coco catalog"),
    ("episodes", "sampling episode benchmarks clips"),
    ("encoders", "external pspnet layers checkpoints feature_cache"),
    ("solver", "task classifier losses settings objective solver edges extraction methods"),
    ("results", "metrics records evaluation tables statistics export"),
    ("synthetic", "outlines shapes scenery scenes dataset"),
    ("", "synthetic"),
    ("networks", "imagenet"),
    ("plots", "style overlays curves comparisons gallery video browser"),
    ("training", "config distributed data model validation log run train"),
    ("tools", "doctor_checks doctor"),
    ("sweep", "tables tasks clusters expand driver study"),
    ("", "segment"),
)
ORDER = [f"{package}.{module}".strip(".") for package, modules in PACKAGES for module in modules.split()]
PAPER = {"files", "images", "datasets", "episodes", "encoders", "solver", "results"}
FORBIDDEN = (
    ".cuda(", "argparse", "hasattr(", "print(", "os.environ", "np.random.seed", "torch.manual_seed(", "pickle.load",
)  # fmt: skip
MODULES = sorted(LIBRARY.rglob("*.py"))
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def name_of(path):
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Names of ttilib modules that a module imports, at any place, resolved to modules of ORDER."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("ttilib.")}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ttilib":
            base = ".".join(node.module.split(".")[1:])
            for alias in node.names:
                full = f"{base}.{alias.name}".strip(".")
                found.add(full if full in ORDER else base)
    return found - {""}


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p) not in ("", "__main__")], ids=name_of)
def test_imports_go_one_way(path):
    name = name_of(path)
    if name not in ORDER:
        assert path.name == "__init__.py" and not imports_of(path), f"{name} has no place in the order of modules"
        return
    place = ORDER.index(name)
    for other in imports_of(path):
        assert other in ORDER, f"{name} imports {other}, which has no place in the order of modules"
        assert ORDER.index(other) < place, f"{name} imports {other}, which lies below it"


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).split(".")[0] in PAPER], ids=name_of)
def test_the_paper_imports_nothing_of_the_rest(path):
    assert {other.split(".")[0] for other in imports_of(path)} <= PAPER


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_small_and_functions_short(path):
    text = path.read_text()
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 45, f"{node.name} is too long"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), "a bare except hides errors"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_words_that_do_not_belong_in_a_library(path):
    allowed = {"argparse", "print("} if name_of(path) == "__main__" else set()
    text = path.read_text()
    for word in set(FORBIDDEN) - allowed:
        assert not re.search(rf"(?<![\w.]){re.escape(word)}" if word[0].isalpha() else re.escape(word), text), word


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_things_say_what_they_are(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_there_are_few_names_at_the_top_and_each_is_used_in_readme_or_notebooks():
    import ttilib

    assert len(ttilib.__all__) <= 24
    shown = (REPOSITORY / "README.md").read_text() + "".join(path.read_text() for path in NOTEBOOKS)
    for name in ttilib.__all__:
        assert f"tti.{name}" in shown, f"{name} is in neither README nor notebooks"


def test_there_are_seven_notebooks():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_data", "02_train", "03_episode", "04_evaluate", "05_tables", "06_your_video", "07_frozen_encoder",
    ]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert sum(len("".join(cell["source"]).splitlines()) for cell in code) <= 150
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    assert not re.search(r"[\"'](/|[A-Z]:\\)", text), "an absolute path"
    assert not re.search(r"\bOutput\(|\binteract", text), "Output and interact can hang a headless run"
    assert notebook["cells"][0]["cell_type"] == "markdown" and "?" in "".join(notebook["cells"][0]["source"])
    assert "**What we saw.**" in "".join(notebook["cells"][-1]["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_annotated_literals_with_a_meaning(path):
    cells = json.loads(path.read_text())["cells"]
    (cell,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    for line in "".join(cell["source"]).splitlines():
        assert re.fullmatch(r"\w+: (int|float|str|bool|list) = .+  # .+", line), line
        ast.literal_eval(line.split(" = ", 1)[1].rsplit("  # ", 1)[0])
    named = [line.split(":")[0] for line in "".join(cell["source"]).splitlines()]
    assert list(notebook_parameters(path)) == named, "papermill cannot read a line; no '=' or quotes in its comment"


def test_data_and_outputs_are_ignored_but_for_the_tables():
    ignored = (REPOSITORY / ".gitignore").read_text()
    assert "/data/" in ignored and "/outputs/*" in ignored and "!/outputs/tables/" in ignored
