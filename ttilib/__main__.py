"""The commands `ttilib COMMAND` or `python -m ttilib COMMAND`; each imports only the modules it needs."""

from __future__ import annotations

import argparse
import ast
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ttilib import __version__

Argument = tuple[str, dict[str, Any]]
Function = Callable[[argparse.Namespace], int | None]
COMMANDS: dict[str, tuple[Function, tuple[Argument, ...]]] = {}


def command(*arguments: Argument) -> Callable[[Function], Function]:
    """Register a function as the command of its name; its docstring is the help."""

    def add(function: Function) -> Function:
        COMMANDS[function.__name__] = function, arguments
        return function

    return add


def given(name: str, text: str, **settings: Any) -> Argument:
    """An argument without a default; settings are those of argparse."""
    return name, {"help": text, **settings}


def option(name: str, default: Any, text: str, **settings: Any) -> Argument:
    """An option with the type of its default; the help shows the default unless `text` does."""
    if isinstance(default, bool):
        return name, {"action": "store_true", "help": text}
    shown = f"{text} (default: {default})" if default and "default: " not in text else text
    kind = {"type": int} if isinstance(default, int) else {}
    return name, {"default": default, "help": shown, **kind, **settings}


def parameters(text: str) -> Argument:
    """The repeatable option -p NAME VALUE."""
    return option("-p", [], text, nargs=2, action="append", metavar=("NAME", "VALUE"))


BENCHMARK = given("benchmark", "benchmark, such as ytvis-v1; the README lists all")
ROOT = option("--root", "data", "data folder with one folder per dataset")
DATA = (
    BENCHMARK, ROOT,
    option("--support-root", None, "folder of the support dataset, if it is not in --root"),
    option("--workers", os.cpu_count() or 1, "number of processes"),
)  # fmt: skip
DEVICE = option("--device", "cpu", "cpu or cuda; for encoders of episodes also openvino and openvino-bf16")
FOLD = option("--fold", 0, "fold, which decides the novel classes")
KEEP_GOING = option("--keep-going", False, "skip files that cannot be read, and report them")
OUT = given("--out", "output folder; an interrupted run continues there", required=True)


def literal(text: str) -> object:
    """A parameter value from the shell: a Python literal if possible, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _parameters(options: argparse.Namespace) -> dict[str, object]:
    return {name: literal(value) for name, value in options.p}


def _print_skipped(errors: list[Exception]) -> None:
    for sentence in sorted({str(error) for error in errors}):
        print(f"left out: {sentence}")


@command(
    option("--out", "outputs/mini", "run folder"),
    option("--workers", 0, "number of processes (default: one per core, if memory allows)"),
)
def study(options: argparse.Namespace) -> None:
    """Run notebooks 01 to 05 on the synthetic dataset and print the table."""
    from ttilib.sweep.driver import run_study

    folder = run_study(out=options.out, workers=options.workers)
    print((folder / "tables" / "mini.md").read_text(encoding="utf-8"))
    print(f"notebooks: {folder}/*.ipynb\nfigures:   {folder}/figures\noverlay:   {folder}/overlay.mp4")


@command(
    given("notebook", "notebook, such as notebooks/03_episode.ipynb"),
    given("output", "path of the executed copy"),
    parameters("set a parameter of the notebook; may be repeated"),
    option("--timeout", 1800, "time limit of a cell in seconds"),
)
def run(options: argparse.Namespace) -> None:
    """Run one notebook with the given parameters."""
    from ttilib.sweep.tasks import run_notebook

    run_notebook(options.notebook, options.output, _parameters(options), options.timeout)
    print(options.output)


@command(option("--root", "data/mini", "output folder"), option("--seed", 2020, "random seed"))
def mini(options: argparse.Namespace) -> None:
    """Write the synthetic dataset."""
    from ttilib.synthetic import generate

    generate(options.root, seed=options.seed)
    print(options.root)


@command(
    given("tables", "table, such as ytvis-v1; docs/tables.md lists all", nargs="+", metavar="TABLE"),
    option("--root", None, "data folder with one folder per dataset (default: data)"),
    option("--out", None, "run folder, visible to all workers (default: outputs/sweep)"),
    given(
        "--encoders", "checkpoint path in which {corpus}, {encoder}, {fold}, {out} are substituted, or "
        "file.py:function (default: outputs/train/{corpus}-{encoder}-f{fold}/best.safetensors)", metavar="PATH",
    ),
    option("--mini", False, "use the synthetic dataset and the default paths of make study (outputs/mini)"),
    given("--folds", "folds (default: the table's)", type=int, nargs="+"),
    given("--runs", "number of runs over all episodes (default: the table's)", type=int),
    option("--limit", 0, "maximum number of episodes per run; 0 is all"),
    parameters("override a parameter of notebook 04; may be repeated"),
    option("--frames", 1000, "approximate number of query frames per task"),
    DEVICE,
    option("--on", "local", "where workers run: local, slurm, or a scheduler such as tcp://host:8786"),
    option("--workers", 0, "number of processes (default: one per core or GPU) or Slurm jobs (default: 1)"),
    option("--threads", 0, "threads per worker (default: 1; with a GPU, a share of the cores)"),
    option("--slurm", [], "Slurm options, such as queue=gpu cores=4 memory=16GB", nargs="+", metavar="NAME=VALUE"),
    option("--retries", 1, "of a task that fails"),
    KEEP_GOING,
    option("--dry-run", False, "only print what would run and the estimated time"),
    option("--tables-only", False, "only rebuild tables from existing results"),
)  # fmt: skip
def sweep(options: argparse.Namespace) -> int:
    """Make result tables from the data and encoders that are available; exit status 1 if a task failed."""
    from ttilib.datasets.base import raise_first
    from ttilib.results.records import code_digest
    from ttilib.sweep import driver, expand
    from ttilib.sweep.clusters import check_place, cluster, default_workers

    slurm = dict(text.partition("=")[::2] for text in options.slurm)
    check_place(options.on, options.workers, options.threads, slurm)
    mini = options.mini or options.tables == ["mini"]
    paths = expand.default_paths(mini, options.root, options.out, options.encoders)
    changes, more = expand.split_parameters(paths.notebooks, {"keep_going": options.keep_going, **_parameters(options)})
    changes |= {name: value for name in ("folds", "runs") if (value := getattr(options, name)) is not None}
    paths = replace(paths, device=options.device, limit=options.limit, frames=options.frames, more=more)
    tables = expand.with_encoders(expand.requested_tables(options.tables, changes, mini), paths.encoders)
    expand.begin(paths, tables)
    errors: list[Exception] = []
    on_error = errors.append if more["keep_going"] else raise_first
    if options.dry_run:
        expansion = expand.expand(tables, paths, on_error)
        workers = options.workers or (1 if options.on == "slurm" else default_workers(options.device))
        print(driver.forecast(tables, expansion, paths, workers))
        return 0
    log = paths.out / "logs"
    with cluster(options.on, options.workers, options.threads, options.device, slurm, log, code_digest) as client:
        failures = driver.sweep(tables, paths, client, print, options.retries, on_error, options.tables_only)
    _print_skipped(errors)
    for plan in tables:
        print((paths.out / "tables" / f"{plan.name}.md").read_text(encoding="utf-8"))
    print(f"tables: {paths.out}/tables, figures: {paths.out}/figures; {len(failures)} tasks failed")
    return 1 if failures else 0


@command(
    BENCHMARK, ROOT, FOLD, OUT, DEVICE,
    parameters("override a training setting; may be repeated"),
    option("--mini", False, "use the settings for the synthetic dataset, not those of the release"),
    given("--size", "network input size (default: the benchmark's)", type=int, nargs=2, metavar=("H", "W")),
)  # fmt: skip
def train(options: argparse.Namespace) -> None:
    """Train an encoder on a benchmark's base classes; torchrun starts several processes."""
    from tqdm import tqdm

    from ttilib.episodes.benchmarks import benchmark, read_training
    from ttilib.files import check_writable
    from ttilib.training import distributed
    from ttilib.training import train as training
    from ttilib.training.config import TrainConfig, changed

    plan = benchmark(options.benchmark)
    fold, root = read_training(plan, options.fold, options.root)
    start = TrainConfig.mini() if options.mini else TrainConfig.released(fold.corpus)
    config = changed(start, _parameters(options))
    size = tuple(options.size or plan.size)
    check_writable(Path(options.out) / "log.jsonl")
    bar = None
    for progress in training.train(fold, root, options.out, config, size, options.device):
        if bar is None:  # the process group exists now
            bar = tqdm(total=progress.steps, initial=progress.step - 1, disable=distributed.rank() > 0)
        bar.update(progress.step - bar.n)
        shown = {"loss": f"{progress.loss:.3f}", "epoch": progress.epoch}
        bar.set_postfix(shown if progress.val_miou is None else {**shown, "val_miou": f"{progress.val_miou:.3f}"})


@command(
    given("source", "checkpoint: a published .pth, or .safetensors"),
    given("target", "output file, in the other format"),
    given("--benchmark", "benchmark that a .pth was trained for, to store its classes"),
    FOLD,
)
def convert(options: argparse.Namespace) -> None:
    """Convert a checkpoint from .pth to .safetensors, or back."""
    from ttilib.datasets.catalog import base_classes
    from ttilib.encoders import checkpoints
    from ttilib.episodes.benchmarks import benchmark
    from ttilib.files import check_writable

    about = {}
    if options.benchmark is not None:
        corpus = benchmark(options.benchmark).trained_on
        about = {"corpus": corpus, "fold": options.fold, "base": base_classes(corpus, options.fold)}
    check_writable(options.target)
    checkpoints.convert(options.source, options.target, about)
    print(options.target)


@command(
    given("folder", "folder of images, also in subfolders; no labels are needed"),
    given("--encoder", "checkpoint, timm:NAME, torchvision:NAME or file.py:function", required=True),
    option("--layers", (), "layers of the encoder, such as layer2 layer3 (default: its output)", nargs="+"),
    option("--size", (241, 425), "network input size", type=int, nargs=2, metavar=("H", "W")),
    option("--limit", 200, "maximum number of images; 0 is all"),
    given("--out", "output file (default: NAME.means.safetensors next to a checkpoint NAME)"),
    DEVICE,
)
def means(options: argparse.Namespace) -> None:
    """Compute the mean feature of an encoder over a folder of images."""
    from tqdm import tqdm

    from ttilib.files import check_writable
    from ttilib.solver import extraction

    out = extraction.means_path(options.encoder, options.out or "")
    check_writable(out)
    frames = extraction.image_folder(options.folder, tuple(options.size), options.limit)
    extractor = extraction.load_extractor(options.encoder, device=options.device)
    encoder = extractor.with_layers(tuple(options.layers))
    with tqdm(frames, unit=" images") as bar:
        images = ((image[None], valid[None]) for image, _, valid in bar)
        found = extraction.measure_means(encoder, extractor.fingerprint, images, extractor.device)
    extraction.save_means(out, found)
    layers = " ".join(found.layers) or "its output"
    print(f"mean of {layers}, {len(found.values)} channels, over {found.images} images: {out}")


@command(
    *DATA,
    option("--folds", (0, 1, 2, 3), "folds (default: all)", type=int, nargs="+"),
    option("--shots", (1, 5), "numbers of support images (default: 1 5)", type=int, nargs="+"),
    option("--thorough", False, "also decode every image"),
    given("--report", "also write the findings to this JSON file"),
)
def doctor(options: argparse.Namespace) -> int:
    """Check the data of a benchmark; exit status 1 if something is missing or damaged."""
    from ttilib.files import check_writable
    from ttilib.tools.doctor import examine, write_report

    if options.report:
        check_writable(options.report)
    report = examine(
        options.benchmark, options.root, tuple(options.folds), tuple(options.shots), options.support_root,
        options.thorough, options.workers,
    )  # fmt: skip
    if options.report:
        write_report(options.report, report)
    print(report.text())
    return 0 if report.ok else 1


@command(*DATA)
def prepare(options: argparse.Namespace) -> int:
    """Write COCO's masks and count the labels of all masks; exit status 1 if a file cannot be used."""
    from ttilib.tools.doctor import prepare

    errors: list[Exception] = []
    made = prepare(options.benchmark, options.root, options.support_root, options.workers, errors.append)
    for path, count in made.items():
        print(f"labels of {count} masks: {path}")
    _print_skipped(errors)
    return 1 if errors else 0


@command(
    *DATA, FOLD,
    option("--shots", 1, "support images per episode"),
    option("--seed", 2020, "random seed"),
    option("--run", 0, "number of the run", dest="number"),
    option("--draws", "released", "sampling: as released, or independent of each other"),
    option("--limit", 0, "maximum number of episodes; 0 is all"),
    option("--only", (), "only these classes or videos", nargs="+"),
    KEEP_GOING,
    option("--out", "outputs/episodes", "output folder"),
)  # fmt: skip
def episodes(options: argparse.Namespace) -> None:
    """Sample episodes and write their manifest."""
    from ttilib.datasets.base import raise_first
    from ttilib.episodes.benchmarks import draw_episodes, read_benchmark
    from ttilib.episodes.clips import check_episodes
    from ttilib.episodes.episode import select_episodes, write_episodes
    from ttilib.files import check_writable

    errors: list[Exception] = []
    on_error = errors.append if options.keep_going else raise_first
    data = read_benchmark(options.benchmark, options.fold, options.root, options.support_root, on_error)
    sampled = draw_episodes(data, options.shots, options.seed, options.number, options.draws, on_error)
    selected = select_episodes(sampled, options.limit, options.only)
    path = Path(options.out) / f"{options.benchmark}-f{options.fold}-{options.shots}shot-run{options.number}.json"
    check_writable(path)
    usable = check_episodes(selected, data.query_root, data.support_root, on_error) if options.keep_going else selected
    write_episodes(path, usable)
    _print_skipped(errors)
    print(f"{len(usable)} episodes in {path}, {len(selected) - len(usable)} left out")


@command(
    given("video", "a video file or a folder of frames", nargs="?", metavar="VIDEO"),
    given("--support", "support images, which contain the object, or a folder", nargs="+", default=()),
    given("--masks", "masks in order, a .json, or a folder for each object (default: beside)", nargs="+", default=()),
    given("--label", "label or name of the object in the masks (default: all of them)"),
    given("--video", "the same as VIDEO", dest="film", metavar="VIDEO"),
    given("--out", "output folder (default: outputs/own/NAME of the video)"),
    given("--encoder", "checkpoint, timm:NAME, torchvision:NAME or file.py:function (default: EfficientNet-Lite2)"),
    given("--size", "network input, sides made 8 n + 1 (default: 241 425)", type=int, nargs=2, metavar=("H", "W")),
    DEVICE,
    option("--method", "frozen", 'method with optional settings, such as TTI or "frozen guided=0"'),
    option("--means", "", "mean features from the command means (default: those next to the checkpoint)"),
    option("--start", 0, "first frame, from 0"),
    given("--end", "frame before which to stop (default: the last)", type=int),
    option("--every", 1, "take every N-th frame", metavar="N"),
    option("--part", 100, "most frames solved together, which determines the memory", metavar="FRAMES"),
    option("--probabilities", False, "also write the probability of every pixel, 255 is 1"),
    option("--example", False, "segment a video of the synthetic dataset"),
)  # fmt: skip
def segment(options: argparse.Namespace) -> None:
    """Segment a video, given a few images with masks."""
    from ttilib.segment import DEFAULT, EXAMPLE, example_files, segment

    video, encoder, size = options.video or options.film, options.encoder or DEFAULT, options.size
    sources = (options.video, options.film, options.example)
    if sum(map(bool, sources)) != 1 or not (options.support or options.example):
        raise ValueError("give one VIDEO and --support; or try --example")
    source = Path(video or "example").absolute()
    out = Path(options.out or Path("outputs/own") / (source.name if source.is_dir() else source.stem))
    if options.example:
        options.support, options.masks, video, _ = example_files(out / "given")
        encoder = options.encoder or (EXAMPLE if Path(EXAMPLE).is_file() else DEFAULT)
        size = size or (121, 217)
    summary = segment(
        options.support, options.masks, video, out, encoder, options.method, tuple(size or (241, 425)), options.label,
        options.device, options.means, options.start, options.end, options.every, options.part, options.probabilities,
    )  # fmt: skip
    found = "" if summary["keyframe"] else "; no frame contains the object"
    print(f"{summary['frames']} masks in {out}/masks, overlay in {out}/{summary['overlay']}{found}")


def main(arguments: list[str] | None = None) -> int:
    """Parse and run one command; invalid input ends with one sentence and exit status 2, Ctrl-C with 130."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    if not arguments:
        parser.print_help()
        return 0
    _check_arguments(parser, arguments)
    options = parser.parse_args(arguments)
    if empty := [name for name in ("root", "out", "output", "target") if getattr(options, name, None) == ""]:
        parser.error(f"{empty[0]} is empty; give a path")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"ttilib: warning: {message}", file=sys.stderr)
            return options.run(options) or 0
    except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        return _stop(_sentence(error))
    except KeyboardInterrupt:
        return _stop("stopped; give the same command again", 130)
    except Exception as error:
        form = {"prefix": "ttilib-error-", "suffix": ".txt", "encoding": "utf-8", "errors": "backslashreplace"}
        with tempfile.NamedTemporaryFile("w", delete=False, **form) as file:
            traceback.print_exception(error, file=file)
        about = f"unexpected {type(error).__name__}: {error}; the traceback is in {file.name}"
        return _stop(f"{about}, please report it with what you typed")


def _check_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Refuse a mistyped command, and what argparse, the system or a file of results could not hold."""
    if not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        near = get_close_matches(arguments[0].lower(), COMMANDS) or COMMANDS
        parser.error(f"there is no command {arguments[0]!r}; did you mean {', '.join(near)}?")
    for argument in arguments:
        if "\0" in argument or argument != argument.encode("utf-8", "replace").decode("utf-8"):
            parser.error(f"{argument!r} is not UTF-8 text; rename the file or folder")
        if argument.startswith("-") and argument.endswith("=--"):
            parser.error(f"{argument!r} has no value; give one after the =")


def _stop(sentence: str, status: int = 2) -> int:
    """Write one line below the progress bars, which an exception would keep alive, and return the exit status."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    sys.stderr.write(f"ttilib: {' '.join(sentence.splitlines())}\n")
    return status


def _sentence(error: Exception) -> str:
    """The error's message; for a missing package, how to install it; for an error of the system, the file first."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    if not isinstance(error, ModuleNotFoundError) or not str(error).startswith("No module named"):
        return str(error) or type(error).__name__
    advice = "run `make env` and `source .venv/bin/activate`, or install ttilib with pip"
    return f"package {error.name} is not installed in {sys.executable}; {advice}"


def _parser() -> argparse.ArgumentParser:
    program = "python -m ttilib" if Path(sys.argv[0]).name == "__main__.py" else "ttilib"
    parser = argparse.ArgumentParser(prog=program, description="Few-shot video segmentation by TTI.")
    parser.add_argument("--version", action="version", version=f"ttilib {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (function, arguments) in COMMANDS.items():
        one = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        one.set_defaults(run=function)
        for argument, settings in arguments:
            one.add_argument(argument, **settings)
    return parser


if __name__ == "__main__":
    sys.exit(main())
