"""The lists of packages, the make targets and the documents agree with each other."""

import ast
import re
import subprocess
import sys

import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def project(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


def test_conda_environment_installs_this_checkout_on_the_same_python(repository):
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    assert environment["name"] == "tti"
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert f"python{project(repository)['requires-python']}" in plain and "pip" in plain
    (section,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    (checkout,) = section  # packages are listed in pyproject.toml only
    extra = re.fullmatch(r"-e \.\[(\w+)\]", checkout)[1]
    assert extra in project(repository)["optional-dependencies"]


def test_every_third_party_import_is_a_dependency(repository):
    """What the library imports unconditionally must be installed with it."""
    names = {"cv2": "opencv-python", "PIL": "pillow", "IPython": "jupyterlab", "tornado": "distributed"}
    listed = {re.split(r"[><=\[ ]", entry)[0] for entry in project(repository)["dependencies"]}
    imported = set()
    for path in (repository / "ttilib").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
                imported |= {module.split(".")[0] for module in modules}
    third_party = imported - set(sys.stdlib_module_names) - {"ttilib"}
    assert {names.get(name, name) for name in third_party} <= listed


def test_continuous_check_is_the_readme_test_command(repository):
    readme, script = (repository / "README.md").read_text(), (repository / ".ci" / "run").read_text()
    commands = [line for line in script.splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"] and "make test" in readme and "make study" in readme


def test_make_help_names_every_target(repository):
    shown = subprocess.run(["make", "help"], cwd=repository, capture_output=True, text=True, check=True).stdout
    for target in ("study", "test", "check", "lab", "clean"):
        assert f"make {target}" in shown


def test_contributing_fits_on_a_screen(repository):
    assert len((repository / "CONTRIBUTING.md").read_text().splitlines()) <= 40
