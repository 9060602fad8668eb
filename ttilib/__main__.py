"""The front door for the shell: `python -m ttilib study | run | mini | doctor | lists | episodes | segment`."""

from __future__ import annotations

import argparse
import ast
import os
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Parse and run one command; a wrong input ends in one sentence and exit status 2."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.stderr.write(f"ttilib: {error}\n")
        return 2


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
    _add_data_commands(commands)
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


def _add_data_commands(commands: argparse._SubParsersAction) -> None:
    """The commands that look at a benchmark's data: all name a benchmark and the data folder."""
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("benchmark", help="for example ytvis-v1; a wrong name prints them all")
    data.add_argument("--root", default="data", help="data folder, one folder per corpus in it (default: %(default)s)")
    data.add_argument("--support-root", help="folder of the support's corpus, if it lies elsewhere")
    data.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    doctor = commands.add_parser("doctor", parents=[data], help="is the data whole? exit status 1 if not")
    doctor.add_argument("--folds", type=int, nargs="+", default=(0, 1, 2, 3), help="(default: all)")
    doctor.add_argument("--shots", type=int, nargs="+", default=(1, 5), help="(default: 1 5)")
    doctor.add_argument("--thorough", action="store_true", help="decode every picture as well")
    doctor.add_argument("--report", help="write the findings to this JSON file as well")
    doctor.set_defaults(run=_doctor)
    lists = commands.add_parser("lists", parents=[data], help="make the release's frame lists and check them")
    lists.add_argument("--out", help="folder for the lists (default: ROOT/<corpus>/lists)")
    lists.add_argument("--against", help="a released list, or a folder of them, to compare line by line")
    lists.add_argument("--keep-going", action="store_true", help="write the lists though they differ")
    lists.set_defaults(run=_lists)
    episodes = commands.add_parser("episodes", parents=[data], help="draw episodes and write their manifest")
    episodes.add_argument("--fold", type=int, default=0)
    episodes.add_argument("--shots", type=int, default=1, help="support pictures per episode (default: %(default)s)")
    episodes.add_argument("--seed", type=int, default=2020, help="of the draws (default: %(default)s)")
    episodes.add_argument("--run", type=int, default=0, dest="number", help="which run (default: %(default)s)")
    episodes.add_argument("--draws", default="released", help="released or independent (default: %(default)s)")
    episodes.add_argument("--limit", type=int, default=0, help="keep so many; 0 is all")
    episodes.add_argument("--only", nargs="+", default=(), help="keep these classes or videos")
    episodes.add_argument("--keep-going", action="store_true", help="leave out what cannot be read, and count it")
    episodes.add_argument("--out", default="outputs/episodes", help="folder (default: %(default)s)")
    episodes.set_defaults(run=_episodes)


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


def _doctor(options: argparse.Namespace) -> int:
    from ttilib.audit.doctor import examine, write_report

    folds, shots = tuple(options.folds), tuple(options.shots)
    report = examine(
        options.benchmark, options.root, folds, shots, options.support_root, options.thorough, options.workers
    )
    if options.report:
        write_report(options.report, report)
    print(report.text())
    return 0 if report.ok else 1


def _lists(options: argparse.Namespace) -> int:
    from ttilib.audit.framelists import write_lists

    report = write_lists(
        options.benchmark, options.root, options.out, against=options.against, keep_going=options.keep_going,
        workers=options.workers, support_root=options.support_root,
    )  # fmt: skip
    print(report.text())
    return 0 if report.ok else 1


def _episodes(options: argparse.Namespace) -> None:
    from ttilib.audit.checks import check_episodes
    from ttilib.corpora.corpus import stop
    from ttilib.data.benchmarks import draw_episodes, read_benchmark
    from ttilib.data.episodes import select_episodes, write_episodes

    errors: list[Exception] = []
    on_error = errors.append if options.keep_going else stop
    data = read_benchmark(options.benchmark, options.fold, options.root, options.support_root, on_error)
    drawn = draw_episodes(data, options.shots, options.seed, options.number, options.draws, on_error)
    chosen = select_episodes(drawn, options.limit, options.only)
    whole = check_episodes(chosen, data.query_root, data.support_root, on_error) if options.keep_going else chosen
    name = f"{options.benchmark}-f{options.fold}-{options.shots}shot-run{options.number}.json"
    write_episodes(Path(options.out) / name, whole)
    for sentence in sorted({str(error) for error in errors}):
        print(f"left out: {sentence}")
    print(f"{len(whole)} episodes in {Path(options.out) / name}, {len(chosen) - len(whole)} left out")


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
