"""The front door for the shell: `python -m ttilib study | sweep | run | mini | train | convert | doctor | ...`."""

from __future__ import annotations

import argparse
import os
import sys

from ttilib import commands


def main(arguments: list[str] | None = None) -> int:
    """Parse and run one command; a wrong input ends in one sentence and exit status 2, Ctrl-C in 130."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        sys.stderr.write(f"ttilib: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("ttilib: stopped; the same command goes on where it stood\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ttilib", description="Few-shot video segmentation by TTI.")
    doors = parser.add_subparsers(required=True, metavar="COMMAND")
    study = doors.add_parser("study", help="run notebooks 01 to 05 on the embedded corpus")
    study.add_argument("--out", default="outputs/mini", help="run folder (default: %(default)s)")
    study.add_argument("--workers", type=int, default=0, help="processes (default: as many as fit the machine)")
    study.set_defaults(run=commands.study)
    run = doors.add_parser("run", help="run one notebook with checked parameters")
    run.add_argument("notebook", help="for example notebooks/03_episode.ipynb")
    run.add_argument("output", help="where the executed copy goes")
    run.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    run.add_argument("--timeout", type=int, default=1800, help="seconds per cell (default: %(default)s)")
    run.set_defaults(run=commands.run)
    mini = doors.add_parser("mini", help="write the embedded corpus")
    mini.add_argument("--root", default="data/mini", help="folder (default: %(default)s)")
    mini.add_argument("--seed", type=int, default=2020)
    mini.set_defaults(run=commands.mini)
    _add_sweep_command(doors)
    _add_training_commands(doors)
    _add_data_commands(doors)
    segment = doors.add_parser("segment", help="segment a video after a few labelled stills")
    segment.add_argument("--support", nargs="+", required=True, help="stills that show the object")
    segment.add_argument("--masks", nargs="+", required=True, help="their masks, in the same order")
    segment.add_argument("--label", type=int, help="which label of the masks is the object, if there are several")
    segment.add_argument("--video", required=True, help="a video file or a folder of frames")
    segment.add_argument("--out", required=True, help="folder for masks, overlay and summary")
    segment.add_argument("--encoder", required=True, help="checkpoint, module:function or file.py:function")
    segment.add_argument(
        "--method", default="frozen",
        help='frozen, TTI, ..., with settings if you like: "frozen layers=layer2+layer3" (default: %(default)s)',
    )  # fmt: skip
    segment.add_argument("--means", default="", help="file of the command means (default: that beside a checkpoint)")
    segment.add_argument("--size", type=int, nargs=2, default=(241, 425), metavar=("H", "W"), help="network size")
    segment.add_argument("--device", default="cpu")
    segment.set_defaults(run=commands.segment)
    return parser


def _add_sweep_command(doors: argparse._SubParsersAction) -> None:
    """Tables of the study, on this machine or on many."""
    sweep = doors.add_parser("sweep", help="re-create tables from whatever data and weights are there")
    sweep.add_argument("tables", nargs="+", metavar="TABLE", help="for example ytvis-v1; a wrong name prints them all")
    sweep.add_argument("--root", help="data folder, one folder per corpus in it (default: data)")
    sweep.add_argument("--out", help="run folder, seen by all workers (default: outputs/sweep)")
    sweep.add_argument(
        "--encoders", metavar="PATH",
        help="weights, {names} filled in (default: outputs/train/{corpus}-{encoder}-f{fold}/best.safetensors)",
    )  # fmt: skip
    sweep.add_argument(
        "--mini", action="store_true", help="ask the embedded corpus (defaults: those of the study in outputs/mini)"
    )
    sweep.add_argument("--folds", type=int, nargs="+", help="(default: the table's)")
    sweep.add_argument("--runs", type=int, help="passes over all episodes (default: the table's)")
    sweep.add_argument("--limit", type=int, default=0, help="keep so many episodes of a pass; 0 is all")
    sweep.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="of notebook 04")
    sweep.add_argument("--frames", type=int, default=1000, help="query frames of a task, about (default: %(default)s)")
    sweep.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    sweep.add_argument("--on", default="local", help="local, slurm, or a scheduler such as tcp://host:8786")
    sweep.add_argument("--workers", type=int, default=0, help="processes (default: what fits) or jobs (1)")
    sweep.add_argument("--threads", type=int, default=0, help="of each worker (default: 1, beside a GPU its share)")
    sweep.add_argument("--slurm", nargs="+", default=[], metavar="NAME=VALUE", help="queue=..., cores=..., memory=...")
    sweep.add_argument("--retries", type=int, default=1, help="of a task that fails (default: %(default)s)")
    sweep.add_argument("--keep-going", action="store_true", help="leave out what cannot be read, and count it")
    sweep.add_argument("--dry-run", action="store_true", help="say what would run and about how long it would take")
    sweep.add_argument("--tables-only", action="store_true", help="draw what has been recorded so far, run nothing")
    sweep.set_defaults(run=commands.sweep)


def _add_training_commands(doors: argparse._SubParsersAction) -> None:
    """Base training of an encoder, and weights to and from the format of the release."""
    train = doors.add_parser("train", help="train an encoder on a benchmark's base classes; torchrun runs many")
    train.add_argument("benchmark", help="for example ytvis-v1; a wrong name prints them all")
    train.add_argument("--root", default="data", help="data folder, one folder per corpus in it (default: %(default)s)")
    train.add_argument("--fold", type=int, default=0)
    train.add_argument("--out", required=True, help="run folder; a run that stopped there goes on")
    train.add_argument("--mini", action="store_true", help="settings of the embedded corpus, not the released ones")
    train.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a setting")
    train.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="network size (default: the benchmark's)")
    train.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    train.set_defaults(run=commands.train)
    convert = doors.add_parser("convert", help="weights from .pth to .safetensors, or back")
    convert.add_argument("source", help="a published .pth, or an encoder.safetensors")
    convert.add_argument("target", help="a file with the other ending")
    convert.add_argument("--benchmark", help="what a .pth was trained for; its classes are noted")
    convert.add_argument("--fold", type=int, default=0, help="the fold whose base classes it was trained on")
    convert.set_defaults(run=commands.convert)
    _add_means_command(doors)


def _add_means_command(doors: argparse._SubParsersAction) -> None:
    """The constant mean of an encoder's features."""
    means = doors.add_parser("means", help="measure the mean feature of an encoder over a folder of pictures")
    means.add_argument("folder", help="pictures, in folders inside it as well; they need no labels")
    means.add_argument("--encoder", required=True, help="checkpoint, module:function or file.py:function")
    means.add_argument("--layers", nargs="+", default=(), help="such as layer2 layer3 (default: its output)")
    means.add_argument("--size", type=int, nargs=2, default=(241, 425), metavar=("H", "W"), help="network size")
    means.add_argument("--limit", type=int, default=200, help="pictures to look at; 0 is all (default: %(default)s)")
    means.add_argument("--out", help="file (default: NAME.means.safetensors beside a checkpoint NAME)")
    means.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    means.set_defaults(run=commands.means)


def _add_data_commands(doors: argparse._SubParsersAction) -> None:
    """The commands that look at a benchmark's data: all name a benchmark and the data folder."""
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("benchmark", help="for example ytvis-v1; a wrong name prints them all")
    data.add_argument("--root", default="data", help="data folder, one folder per corpus in it (default: %(default)s)")
    data.add_argument("--support-root", help="folder of the support's corpus, if it lies elsewhere")
    data.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    doctor = doors.add_parser("doctor", parents=[data], help="is the data whole? exit status 1 if not")
    doctor.add_argument("--folds", type=int, nargs="+", default=(0, 1, 2, 3), help="(default: all)")
    doctor.add_argument("--shots", type=int, nargs="+", default=(1, 5), help="(default: 1 5)")
    doctor.add_argument("--thorough", action="store_true", help="decode every picture as well")
    doctor.add_argument("--report", help="write the findings to this JSON file as well")
    doctor.set_defaults(run=commands.doctor)
    lists = doors.add_parser("lists", parents=[data], help="make the release's frame lists and check them")
    lists.add_argument("--out", help="folder for the lists (default: ROOT/<corpus>/lists)")
    lists.add_argument("--against", help="a released list, or a folder of them, to compare line by line")
    lists.add_argument("--keep-going", action="store_true", help="write the lists though they differ")
    lists.set_defaults(run=commands.lists)
    episodes = doors.add_parser("episodes", parents=[data], help="draw episodes and write their manifest")
    episodes.add_argument("--fold", type=int, default=0)
    episodes.add_argument("--shots", type=int, default=1, help="support pictures per episode (default: %(default)s)")
    episodes.add_argument("--seed", type=int, default=2020, help="of the draws (default: %(default)s)")
    episodes.add_argument("--run", type=int, default=0, dest="number", help="which run (default: %(default)s)")
    episodes.add_argument("--draws", default="released", help="released or independent (default: %(default)s)")
    episodes.add_argument("--limit", type=int, default=0, help="keep so many; 0 is all")
    episodes.add_argument("--only", nargs="+", default=(), help="keep these classes or videos")
    episodes.add_argument("--keep-going", action="store_true", help="leave out what cannot be read, and count it")
    episodes.add_argument("--out", default="outputs/episodes", help="folder (default: %(default)s)")
    episodes.set_defaults(run=commands.episodes)


if __name__ == "__main__":
    sys.exit(main())
