"""The front door for the shell: `python -m ttilib study | run | mini | segment`."""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Parse and run one command; a wrong input ends in one sentence and exit status 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.stderr.write(f"ttilib: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ttilib", description="Few-shot video segmentation by TTI.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    study = commands.add_parser("study", help="run the five notebooks on the embedded corpus")
    study.add_argument("--out", default="outputs/mini", help="run folder (default: %(default)s)")
    study.set_defaults(run=_study)
    run = commands.add_parser("run", help="run one notebook with checked parameters")
    run.add_argument("notebook", help="for example notebooks/03_episode.ipynb")
    run.add_argument("output", help="where the executed copy goes")
    run.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    run.add_argument("--timeout", type=int, default=1800, help="seconds per cell (default: %(default)s)")
    run.set_defaults(run=_run)
    mini = commands.add_parser("mini", help="write the embedded corpus")
    mini.add_argument("--root", default="data/mini", help="folder (default: %(default)s)")
    mini.add_argument("--seed", type=int, default=2020)
    mini.set_defaults(run=_mini)
    segment = commands.add_parser("segment", help="segment a video after a few labelled stills")
    segment.add_argument("--support", nargs="+", required=True, help="stills that show the object")
    segment.add_argument("--masks", nargs="+", required=True, help="their masks, in the same order")
    segment.add_argument("--label", type=int, help="which label of the masks is the object, if there are several")
    segment.add_argument("--video", required=True, help="a video file or a folder of frames")
    segment.add_argument("--out", required=True, help="folder for masks, overlay and summary")
    segment.add_argument("--encoder", required=True, help="checkpoint, module:function or file.py:function")
    segment.add_argument("--method", default="TTI+keyframe", help="(default: %(default)s)")
    segment.add_argument("--size", type=int, nargs=2, default=(241, 425), metavar=("H", "W"), help="network size")
    segment.add_argument("--device", default="cpu")
    segment.set_defaults(run=_segment)
    return parser


def _study(options: argparse.Namespace) -> None:
    from ttilib.study import run_study

    folder = run_study(out=options.out)
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"notebooks: {folder}/*.ipynb\nfigures:   {folder}/figures\noverlay:   {_first(folder, 'overlay.*')}")


def _run(options: argparse.Namespace) -> None:
    from ttilib.notebooks import run_notebook

    parameters = {name: _literal(value) for name, value in options.p}
    run_notebook(options.notebook, options.output, parameters, options.timeout)
    print(options.output)


def _mini(options: argparse.Namespace) -> None:
    from ttilib.mini import generate

    generate(options.root, seed=options.seed)
    print(options.root)


def _segment(options: argparse.Namespace) -> None:
    from ttilib.segment import segment

    summary = segment(
        options.support, options.masks, options.video, options.out, options.encoder,
        options.method, tuple(options.size), options.label, options.device,
    )  # fmt: skip
    print(f"{summary['frames']} masks in {options.out}/masks, overlay in {options.out}/{summary['overlay']}")


def _literal(text: str) -> object:
    """A parameter's value from the shell: a Python literal if it reads as one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _first(folder: Path, pattern: str) -> Path | str:
    return next(iter(sorted(folder.glob(pattern))), "none")


if __name__ == "__main__":
    sys.exit(main())
