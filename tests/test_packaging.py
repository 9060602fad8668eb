"""The lists of packages, the make targets and the documents agree with each other."""

import ast
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

import ttilib

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_every_third_party_import_is_a_dependency(repository):
    """What the library imports unconditionally must be installed with it."""
    names = {"cv2": "opencv-python", "PIL": "pillow", "IPython": "jupyterlab", "tornado": "distributed",
             "nbformat": "papermill", "traitlets": "ipywidgets"}  # fmt: skip
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    listed = {re.split(r"[><=\[ ]", entry)[0] for entry in project["dependencies"]}
    imported = set()
    for path in (repository / "ttilib").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
                imported |= {module.split(".")[0] for module in modules}
    third_party = imported - set(sys.stdlib_module_names) - {"ttilib"}
    assert {names.get(name, name) for name in third_party} <= listed


def test_conda_installs_the_same_packages(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    listed = yaml.safe_load((repository / "environment.yml").read_text())["dependencies"]
    assert listed[-1] == {"pip": ["-e .[dev]"]} and f"python{project['requires-python']}" in listed


def test_a_wheel_brings_commands_and_lists(repository, tmp_path):
    """Built from a copy, unpacked beside nothing else, used from another folder."""
    pytest.importorskip("setuptools")
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in ("ttilib", "lists"):
        shutil.copytree(repository / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("ttilib-*.whl")
    shutil.unpack_archive(wheel, target, "zip")
    shutil.rmtree(source)
    for folder, inside in (("ttilib", "ttilib"), ("lists", "ttilib/lists")):  # code, scripts, means; lists
        files = [path for path in (repository / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
        assert not [path for path in files if not (target / inside / path.relative_to(repository / folder)).is_file()]
    environment = os.environ | {"PYTHONPATH": str(target)}
    script = "import ttilib.datasets.catalog as c; print(c.__file__, len(c.read_table('pascal')['classes']))"
    for words, expected in (
        (["-c", script], f"{target}/ttilib/datasets/catalog.py 20"),
        (["-m", "ttilib", "--version"], f"ttilib {ttilib.__version__}"),
    ):
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(expected)
    (entry,) = target.glob("ttilib-*.dist-info/entry_points.txt")
    assert "ttilib = ttilib.__main__:main" in entry.read_text()
