"""Running a notebook headless, with its parameters checked.

Papermill only warns about a parameter that the notebook does not have, and takes any type. Here both are
refused before anything runs, with the nearest name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import papermill

from ttilib.files import atomic, meant

TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "list": (list, tuple),
}


def notebook_parameters(notebook: Path | str) -> dict[str, dict[str, str]]:
    """Name to type, default and meaning, as the notebook's cell tagged `parameters` states them."""
    if not Path(notebook).is_file():
        raise FileNotFoundError(f"{notebook}: no such notebook; the study's own are in notebooks/")
    found = papermill.inspect_notebook(str(notebook))
    return {
        name: {"type": entry["inferred_type_name"], "default": entry["default"], "help": entry["help"]}
        for name, entry in found.items()
    }


def check_parameters(notebook: Path | str, parameters: Mapping[str, Any]) -> None:
    """Refuse a name the notebook does not know, or a value of another type than it states.

    Raises ValueError naming the notebook, the parameter and the nearest known name.
    """
    known = notebook_parameters(notebook)
    for name, value in parameters.items():
        if name not in known:
            raise ValueError(f"{notebook}: there is no parameter {name!r}; {meant(name, known)}")
        stated = known[name]["type"].split("[")[0]
        allowed = TYPES.get(stated)
        wrong_bool = isinstance(value, bool) and stated != "bool"
        if allowed and (wrong_bool or not isinstance(value, allowed)):
            raise ValueError(
                f"{notebook}: parameter {name!r} is {value!r}, a {type(value).__name__}; it must be a {stated}"
            )


def run_notebook(
    notebook: Path | str,
    output: Path | str,
    parameters: Mapping[str, Any] | None = None,
    timeout: int = 1800,
    log: TextIO | None = None,
) -> None:
    """Execute `notebook` with `parameters` in its own folder and write the executed copy to `output`.

    `timeout` is in seconds per cell; what cells print goes to `log` as well, while they run. The output appears
    only when every cell has run; of a run that fails the cells so far are kept as `<output>.failed.ipynb`.
    Raises ValueError for wrong parameters, RuntimeError naming the notebook and what stopped it.
    """
    notebook, output = Path(notebook), Path(output)
    check_parameters(notebook, parameters or {})
    failed = output.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    try:
        with atomic(output) as temporary:
            try:
                papermill.execute_notebook(
                    str(notebook),
                    str(temporary),
                    parameters=dict(parameters or {}),
                    kernel_name="python3",
                    cwd=str(notebook.parent),
                    progress_bar=False,
                    execution_timeout=timeout,
                    stdout_file=log,
                    stderr_file=log,
                    extra_arguments=["--IPKernelApp.log_level=40"],  # errors; warnings of every start tell nothing
                )
            except Exception:
                if temporary.exists():
                    failed.write_bytes(temporary.read_bytes())
                raise
    except papermill.PapermillExecutionError as error:
        raise RuntimeError(
            f"{notebook}: cell {error.exec_count} stopped with {error.ename}: {error.evalue}; "
            f"what ran is in {failed}"
        ) from error
    except TimeoutError as error:
        raise RuntimeError(f"{notebook}: a cell ran longer than {timeout} s; what ran is in {failed}") from error
