"""What each command of the front door does: a few lines over the library.

Rooms are opened inside the functions, so that no command waits for another one's imports.
"""

from __future__ import annotations

import argparse
import ast
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
    from ttilib.study import run_study

    folder = run_study(out=options.out, workers=options.workers)
    print((folder / "tables" / "mini.md").read_text(encoding="utf-8"))
    print(f"notebooks: {folder}/*.ipynb\nfigures:   {folder}/figures\noverlay:   {_first(folder, 'overlay.*')}")


def sweep(options: argparse.Namespace) -> int:
    """Run what the tables lack, or say what would run; 1 if a task failed."""
    from ttilib.corpora.corpus import stop
    from ttilib.scores.origins import code_digest
    from ttilib.sweep import driver, requests
    from ttilib.sweep.clusters import cluster, room
    from ttilib.sweep.expansion import expand
    from ttilib.sweep.overview import forecast

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
    from ttilib.notebooks import run_notebook

    parameters = {name: literal(value) for name, value in options.p}
    run_notebook(options.notebook, options.output, parameters, options.timeout)
    print(options.output)


def mini(options: argparse.Namespace) -> None:
    """Write the embedded corpus."""
    from ttilib.mini import generate

    generate(options.root, seed=options.seed)
    print(options.root)


def train(options: argparse.Namespace) -> None:
    """Train an encoder, with a bar that tells how long it will take."""
    from tqdm import tqdm

    from ttilib.data.benchmarks import benchmark, read_training
    from ttilib.training import processes
    from ttilib.training import train as training
    from ttilib.training.settings import TrainConfig, changed

    plan = benchmark(options.benchmark)
    fold, root = read_training(plan, options.fold, options.root)
    start = TrainConfig.mini() if options.mini else TrainConfig.released(fold.corpus)
    config = changed(start, {name: literal(value) for name, value in options.p})
    size = tuple(options.size or plan.size)
    bar = None
    for progress in training.train(fold, root, options.out, config, size, options.device):
        if bar is None:  # the generator has joined the other processes by now
            bar = tqdm(total=progress.steps, initial=progress.step - 1, disable=processes.rank() > 0)
        bar.update(progress.step - bar.n)
        told = {"loss": f"{progress.loss:.3f}", "epoch": progress.epoch}
        bar.set_postfix(told if progress.val_miou is None else {**told, "val_miou": f"{progress.val_miou:.3f}"})
    bar.close()


def convert(options: argparse.Namespace) -> None:
    """Write weights in the other format."""
    from ttilib.data.benchmarks import benchmark
    from ttilib.data.lists import base_classes
    from ttilib.networks import checkpoints

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

    from ttilib.inference import centring
    from ttilib.networks.checkpoints import fingerprint, load_encoder
    from ttilib.networks.layers import Tapped

    out = centring.means_path(options.encoder, options.out or "")
    frames = centring.pool(options.folder, tuple(options.size), options.limit)
    encoder = load_encoder(options.encoder)
    weights = ""
    if isinstance(encoder, torch.nn.Module):
        weights, encoder = fingerprint(encoder), encoder.to(options.device)
    tapped = Tapped(encoder, options.layers)
    bar = tqdm(frames, desc="measuring", unit=" pictures")
    pictures = ((image[None], valid[None]) for image, _, valid in bar)
    found = centring.measure_means(tapped, weights, pictures, options.device)
    centring.save_means(out, found)
    seen = " ".join(found.layers) or "its output"
    print(f"mean of {seen}, {len(found.values)} channels, over {found.images} pictures: {out}")


def doctor(options: argparse.Namespace) -> int:
    """Print what is wrong with a benchmark's data; 1 if something is."""
    from ttilib.audit.doctor import examine, write_report

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
    from ttilib.audit.framelists import write_lists

    report = write_lists(
        options.benchmark, options.root, options.out, against=options.against, keep_going=options.keep_going,
        workers=options.workers, support_root=options.support_root,
    )  # fmt: skip
    print(report.text())
    return 0 if report.ok else 1


def episodes(options: argparse.Namespace) -> None:
    """Draw episodes and write their manifest."""
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
