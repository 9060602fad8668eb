"""The front door for the shell: `python -m ttilib study | sweep | run | mini | train | convert | doctor | ...`.

What each command of the front door does: a few lines over the library.

Rooms are opened inside the functions, so that no command waits for another one's imports.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from dataclasses import replace
from pathlib import Path


def literal(text: str) -> object:
    """A parameter's value from the shell: a Python literal if it reads as one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def study(options: argparse.Namespace) -> None:
    """Run the whole study and print its table."""
    from ttilib.sweep.study import run_study

    folder = run_study(out=options.out, workers=options.workers)
    print((folder / "tables" / "mini.md").read_text(encoding="utf-8"))
    print(f"notebooks: {folder}/*.ipynb\nfigures:   {folder}/figures\noverlay:   {_first(folder, 'overlay.*')}")


def sweep(options: argparse.Namespace) -> int:
    """Run what the tables lack, or say what would run; 1 if a task failed."""
    from ttilib.datasets.base import stop
    from ttilib.results.provenance import code_digest
    from ttilib.sweep import driver
    from ttilib.sweep import expand as requests
    from ttilib.sweep.clusters import cluster, room
    from ttilib.sweep.driver import forecast
    from ttilib.sweep.expand import expand

    given = {"keep_going": options.keep_going, **{name: literal(value) for name, value in options.p}}
    mini = options.mini or options.tables == ["mini"]
    given_places = {name: value for name in ("root", "out", "encoders") if (value := getattr(options, name))}
    place = requests.usual_place(mini, **given_places)
    changes, more = requests.split_parameters(place.notebooks, given)
    changes |= {name: value for name in ("folds", "runs") if (value := getattr(options, name)) is not None}
    place = replace(place, device=options.device, limit=options.limit, frames=options.frames, more=more)
    tables = requests.with_encoders(requests.asked_tables(options.tables, changes, mini), place.encoders)
    requests.begin(place, tables)
    left_out: list[Exception] = []
    on_error = left_out.append if more["keep_going"] else stop
    if options.dry_run:
        print(forecast(tables, expand(tables, place, on_error), place, options.workers or room()))
        return 0
    slurm = dict(text.partition("=")[::2] for text in options.slurm)
    log = place.out / "logs"
    with cluster(options.on, options.workers, options.threads, options.device, slurm, log, code_digest) as client:
        failures = driver.sweep(tables, place, client, print, options.retries, on_error, options.tables_only)
    for sentence in sorted({str(error) for error in left_out}):
        print(f"left out: {sentence}")
    for plan in tables:
        print((place.out / "tables" / f"{plan.name}.md").read_text(encoding="utf-8"))
    print(f"tables: {place.out}/tables, figures: {place.out}/figures; {len(failures)} tasks failed")
    return 1 if failures else 0


def run(options: argparse.Namespace) -> None:
    """Run one notebook."""
    from ttilib.sweep.notebooks import run_notebook

    parameters = {name: literal(value) for name, value in options.p}
    run_notebook(options.notebook, options.output, parameters, options.timeout)
    print(options.output)


def mini(options: argparse.Namespace) -> None:
    """Write the embedded corpus."""
    from ttilib.synthetic import generate

    generate(options.root, seed=options.seed)
    print(options.root)


def train(options: argparse.Namespace) -> None:
    """Train an encoder, with a bar that tells how long it will take."""
    from tqdm import tqdm

    from ttilib.episodes.benchmarks import benchmark, read_training
    from ttilib.training import distributed
    from ttilib.training import train as training
    from ttilib.training.config import TrainConfig, changed

    plan = benchmark(options.benchmark)
    fold, root = read_training(plan, options.fold, options.root)
    start = TrainConfig.mini() if options.mini else TrainConfig.released(fold.corpus)
    config = changed(start, {name: literal(value) for name, value in options.p})
    size = tuple(options.size or plan.size)
    bar = None
    for progress in training.train(fold, root, options.out, config, size, options.device):
        if bar is None:  # the generator has joined the other processes by now
            bar = tqdm(total=progress.steps, initial=progress.step - 1, disable=distributed.rank() > 0)
        bar.update(progress.step - bar.n)
        told = {"loss": f"{progress.loss:.3f}", "epoch": progress.epoch}
        bar.set_postfix(told if progress.val_miou is None else {**told, "val_miou": f"{progress.val_miou:.3f}"})
    bar.close()


def convert(options: argparse.Namespace) -> None:
    """Write weights in the other format."""
    from ttilib.datasets.catalog import base_classes
    from ttilib.encoders import checkpoints
    from ttilib.episodes.benchmarks import benchmark

    about = {}
    if options.benchmark is not None:
        corpus = benchmark(options.benchmark).trained_on
        about = {"corpus": corpus, "fold": options.fold, "base": base_classes(corpus, options.fold)}
    checkpoints.convert(options.source, options.target, about)
    print(options.target)


def means(options: argparse.Namespace) -> None:
    """Measure the mean feature of an encoder, with a bar that tells how long it will take."""
    import torch
    from tqdm import tqdm

    from ttilib.encoders.checkpoints import fingerprint, load_encoder
    from ttilib.encoders.layers import Tapped
    from ttilib.solver import extraction

    out = extraction.means_path(options.encoder, options.out or "")
    frames = extraction.pool(options.folder, tuple(options.size), options.limit)
    encoder = load_encoder(options.encoder)
    weights = ""
    if isinstance(encoder, torch.nn.Module):
        weights, encoder = fingerprint(encoder), encoder.to(options.device)
    tapped = Tapped(encoder, options.layers)
    bar = tqdm(frames, desc="measuring", unit=" pictures")
    pictures = ((image[None], valid[None]) for image, _, valid in bar)
    found = extraction.measure_means(tapped, weights, pictures, options.device)
    extraction.save_means(out, found)
    seen = " ".join(found.layers) or "its output"
    print(f"mean of {seen}, {len(found.values)} channels, over {found.images} pictures: {out}")


def doctor(options: argparse.Namespace) -> int:
    """Print what is wrong with a benchmark's data; 1 if something is."""
    from ttilib.tools.doctor import examine, write_report

    folds, shots = tuple(options.folds), tuple(options.shots)
    report = examine(
        options.benchmark, options.root, folds, shots, options.support_root, options.thorough, options.workers
    )
    if options.report:
        write_report(options.report, report)
    print(report.text())
    return 0 if report.ok else 1


def lists(options: argparse.Namespace) -> int:
    """Make the released frame lists; 1 if they differ."""
    from ttilib.tools.frame_lists import write_lists

    report = write_lists(
        options.benchmark, options.root, options.out, against=options.against, keep_going=options.keep_going,
        workers=options.workers, support_root=options.support_root,
    )  # fmt: skip
    print(report.text())
    return 0 if report.ok else 1


def episodes(options: argparse.Namespace) -> None:
    """Draw episodes and write their manifest."""
    from ttilib.datasets.base import stop
    from ttilib.episodes.benchmarks import draw_episodes, read_benchmark
    from ttilib.episodes.checks import check_episodes
    from ttilib.episodes.episode import select_episodes, write_episodes

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


def segment(options: argparse.Namespace) -> None:
    """Segment a video."""
    from ttilib.segment import segment

    summary = segment(
        options.support, options.masks, options.video, options.out, options.encoder,
        options.method, tuple(options.size), options.label, options.device, options.means,
    )  # fmt: skip
    print(f"{summary['frames']} masks in {options.out}/masks, overlay in {options.out}/{summary['overlay']}")


def _first(folder: Path, pattern: str) -> Path | str:
    return next(iter(sorted(folder.glob(pattern))), "none")


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
    study_ = doors.add_parser("study", help="run notebooks 01 to 05 on the embedded corpus")
    study_.add_argument("--out", default="outputs/mini", help="run folder (default: %(default)s)")
    study_.add_argument("--workers", type=int, default=0, help="processes (default: as many as fit the machine)")
    study_.set_defaults(run=study)
    run_ = doors.add_parser("run", help="run one notebook with checked parameters")
    run_.add_argument("notebook", help="for example notebooks/03_episode.ipynb")
    run_.add_argument("output", help="where the executed copy goes")
    run_.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter")
    run_.add_argument("--timeout", type=int, default=1800, help="seconds per cell (default: %(default)s)")
    run_.set_defaults(run=run)
    mini_ = doors.add_parser("mini", help="write the embedded corpus")
    mini_.add_argument("--root", default="data/mini", help="folder (default: %(default)s)")
    mini_.add_argument("--seed", type=int, default=2020)
    mini_.set_defaults(run=mini)
    _add_sweep_command(doors)
    _add_training_commands(doors)
    _add_data_commands(doors)
    segment_ = doors.add_parser("segment", help="segment a video after a few labelled stills")
    segment_.add_argument("--support", nargs="+", required=True, help="stills that show the object")
    segment_.add_argument("--masks", nargs="+", required=True, help="their masks, in the same order")
    segment_.add_argument("--label", type=int, help="which label of the masks is the object, if there are several")
    segment_.add_argument("--video", required=True, help="a video file or a folder of frames")
    segment_.add_argument("--out", required=True, help="folder for masks, overlay and summary")
    segment_.add_argument("--encoder", required=True, help="checkpoint, module:function or file.py:function")
    segment_.add_argument(
        "--method", default="frozen",
        help='frozen, TTI, ..., with settings if you like: "frozen layers=layer2+layer3" (default: %(default)s)',
    )  # fmt: skip
    segment_.add_argument("--means", default="", help="file of the command means (default: that beside a checkpoint)")
    segment_.add_argument("--size", type=int, nargs=2, default=(241, 425), metavar=("H", "W"), help="network size")
    segment_.add_argument("--device", default="cpu")
    segment_.set_defaults(run=segment)
    return parser


def _add_sweep_command(doors: argparse._SubParsersAction) -> None:
    """Tables of the study, on this machine or on many."""
    sweep_ = doors.add_parser("sweep", help="re-create tables from whatever data and weights are there")
    sweep_.add_argument("tables", nargs="+", metavar="TABLE", help="for example ytvis-v1; a wrong name prints them all")
    sweep_.add_argument("--root", help="data folder, one folder per corpus in it (default: data)")
    sweep_.add_argument("--out", help="run folder, seen by all workers (default: outputs/sweep)")
    sweep_.add_argument(
        "--encoders", metavar="PATH",
        help="weights, {names} filled in (default: outputs/train/{corpus}-{encoder}-f{fold}/best.safetensors)",
    )  # fmt: skip
    sweep_.add_argument(
        "--mini", action="store_true", help="ask the embedded corpus (defaults: those of the study in outputs/mini)"
    )
    sweep_.add_argument("--folds", type=int, nargs="+", help="(default: the table's)")
    sweep_.add_argument("--runs", type=int, help="passes over all episodes (default: the table's)")
    sweep_.add_argument("--limit", type=int, default=0, help="keep so many episodes of a pass; 0 is all")
    sweep_.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="of notebook 04")
    sweep_.add_argument("--frames", type=int, default=1000, help="query frames of a task, about (default: %(default)s)")
    sweep_.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    sweep_.add_argument("--on", default="local", help="local, slurm, or a scheduler such as tcp://host:8786")
    sweep_.add_argument("--workers", type=int, default=0, help="processes (default: what fits) or jobs (1)")
    sweep_.add_argument("--threads", type=int, default=0, help="of each worker (default: 1, beside a GPU its share)")
    sweep_.add_argument("--slurm", nargs="+", default=[], metavar="NAME=VALUE", help="queue=..., cores=..., memory=...")
    sweep_.add_argument("--retries", type=int, default=1, help="of a task that fails (default: %(default)s)")
    sweep_.add_argument("--keep-going", action="store_true", help="leave out what cannot be read, and count it")
    sweep_.add_argument("--dry-run", action="store_true", help="say what would run and about how long it would take")
    sweep_.add_argument("--tables-only", action="store_true", help="draw what has been recorded so far, run nothing")
    sweep_.set_defaults(run=sweep)


def _add_training_commands(doors: argparse._SubParsersAction) -> None:
    """Base training of an encoder, and weights to and from the format of the release."""
    train_ = doors.add_parser("train", help="train an encoder on a benchmark's base classes; torchrun runs many")
    train_.add_argument("benchmark", help="for example ytvis-v1; a wrong name prints them all")
    train_.add_argument("--root", default="data", help="data folder, a folder per corpus in it (default: %(default)s)")
    train_.add_argument("--fold", type=int, default=0)
    train_.add_argument("--out", required=True, help="run folder; a run that stopped there goes on")
    train_.add_argument("--mini", action="store_true", help="settings of the embedded corpus, not the released ones")
    train_.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a setting")
    train_.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="network size (default: the benchmark's)")
    train_.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    train_.set_defaults(run=train)
    convert_ = doors.add_parser("convert", help="weights from .pth to .safetensors, or back")
    convert_.add_argument("source", help="a published .pth, or an encoder.safetensors")
    convert_.add_argument("target", help="a file with the other ending")
    convert_.add_argument("--benchmark", help="what a .pth was trained for; its classes are noted")
    convert_.add_argument("--fold", type=int, default=0, help="the fold whose base classes it was trained on")
    convert_.set_defaults(run=convert)
    _add_means_command(doors)


def _add_means_command(doors: argparse._SubParsersAction) -> None:
    """The constant mean of an encoder's features."""
    means_ = doors.add_parser("means", help="measure the mean feature of an encoder over a folder of pictures")
    means_.add_argument("folder", help="pictures, in folders inside it as well; they need no labels")
    means_.add_argument("--encoder", required=True, help="checkpoint, module:function or file.py:function")
    means_.add_argument("--layers", nargs="+", default=(), help="such as layer2 layer3 (default: its output)")
    means_.add_argument("--size", type=int, nargs=2, default=(241, 425), metavar=("H", "W"), help="network size")
    means_.add_argument("--limit", type=int, default=200, help="pictures to look at; 0 is all (default: %(default)s)")
    means_.add_argument("--out", help="file (default: NAME.means.safetensors beside a checkpoint NAME)")
    means_.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    means_.set_defaults(run=means)


def _add_data_commands(doors: argparse._SubParsersAction) -> None:
    """The commands that look at a benchmark's data: all name a benchmark and the data folder."""
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("benchmark", help="for example ytvis-v1; a wrong name prints them all")
    data.add_argument("--root", default="data", help="data folder, one folder per corpus in it (default: %(default)s)")
    data.add_argument("--support-root", help="folder of the support's corpus, if it lies elsewhere")
    data.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    doctor_ = doors.add_parser("doctor", parents=[data], help="is the data whole? exit status 1 if not")
    doctor_.add_argument("--folds", type=int, nargs="+", default=(0, 1, 2, 3), help="(default: all)")
    doctor_.add_argument("--shots", type=int, nargs="+", default=(1, 5), help="(default: 1 5)")
    doctor_.add_argument("--thorough", action="store_true", help="decode every picture as well")
    doctor_.add_argument("--report", help="write the findings to this JSON file as well")
    doctor_.set_defaults(run=doctor)
    lists_ = doors.add_parser("lists", parents=[data], help="make the release's frame lists and check them")
    lists_.add_argument("--out", help="folder for the lists (default: ROOT/<corpus>/lists)")
    lists_.add_argument("--against", help="a released list, or a folder of them, to compare line by line")
    lists_.add_argument("--keep-going", action="store_true", help="write the lists though they differ")
    lists_.set_defaults(run=lists)
    episodes_ = doors.add_parser("episodes", parents=[data], help="draw episodes and write their manifest")
    episodes_.add_argument("--fold", type=int, default=0)
    episodes_.add_argument("--shots", type=int, default=1, help="support pictures per episode (default: %(default)s)")
    episodes_.add_argument("--seed", type=int, default=2020, help="of the draws (default: %(default)s)")
    episodes_.add_argument("--run", type=int, default=0, dest="number", help="which run (default: %(default)s)")
    episodes_.add_argument("--draws", default="released", help="released or independent (default: %(default)s)")
    episodes_.add_argument("--limit", type=int, default=0, help="keep so many; 0 is all")
    episodes_.add_argument("--only", nargs="+", default=(), help="keep these classes or videos")
    episodes_.add_argument("--keep-going", action="store_true", help="leave out what cannot be read, and count it")
    episodes_.add_argument("--out", default="outputs/episodes", help="folder (default: %(default)s)")
    episodes_.set_defaults(run=episodes)


if __name__ == "__main__":
    sys.exit(main())
