"""From tables to tasks: episodes, encoders, and the reasons why a setting cannot run.

A task is notebook 04 on some episodes of one run, with all methods of the tables. Its key is a digest of all that can
change a result; not of paths, nor of the methods, whose rows are added to the same file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ttilib.datasets.base import OnError, raise_first
from ttilib.encoders import checkpoints
from ttilib.encoders.external import is_plugin
from ttilib.encoders.layers import OPENVINO
from ttilib.episodes.benchmarks import benchmark, draw_episodes, read_benchmark
from ttilib.episodes.episode import select_episodes, slices, write_episodes
from ttilib.files import digest, fingerprint, write_json
from ttilib.results.records import code_digest
from ttilib.solver.extraction import ENDING
from ttilib.solver.methods import read_method
from ttilib.sweep.tables import Setting, Table, changed, on_mini, table
from ttilib.sweep.tasks import Task, check_parameters, notebook_text

NOTEBOOK = "04_evaluate.ipynb"
# For the first estimate of the time only, on one core.
REFERENCE_PIXELS = 241 * 425  # input size of the seconds per frame below
ENCODER_SECONDS = {"resnet50": 2.0, "resnet50-dcl": 2.0, "resnet101": 3.6, "resnet18-mini": 0.04}
METHOD_SECONDS = 0.08  # per frame and method: optimization and metrics
START_SECONDS = 12.0  # per notebook


@dataclass(frozen=True)
class SweepPaths:
    """Where data, encoders and notebooks are, and where results go; `more`: notebook parameters for all tables.

    `encoders` is a path with {corpus}, {encoder}, {fold} and {out}, or a plug-in. A task has about `frames` query
    frames; `limit` is the maximum number of episodes per run (0: all).
    """

    root: Path
    out: Path
    encoders: str
    notebooks: Path = Path("notebooks")
    device: str = "cpu"
    limit: int = 0
    frames: int = 1000
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskSpec:
    """A task and what it covers; `fingerprint` is a digest of the encoder."""

    task: Task
    setting: Setting
    fold: int
    frames: int
    manifest: Path
    fingerprint: str


@dataclass(frozen=True)
class Expansion:
    """All tasks of the requested tables, and why a setting has none in a fold."""

    specs: tuple[TaskSpec, ...]
    unavailable: Mapping[tuple[Setting, int], str]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in order."""
        return tuple(spec.task for spec in self.specs)

    def of(self, settings: Iterable[Setting]) -> list[TaskSpec]:
        """The tasks of some settings."""
        wanted = set(settings)
        return [spec for spec in self.specs if spec.setting in wanted]

    def reason(self, setting: Setting) -> str:
        """Why a setting cannot run in all or some folds; empty if it can."""
        reasons = {fold: why for (other, fold), why in self.unavailable.items() if other == setting}
        first = next(iter(reasons.values()), "")
        if len(reasons) in (0, len(setting.folds)):
            return first
        return f"not in fold {', '.join(map(str, reasons))}: {first}"


def expand(tables: Sequence[Table], paths: SweepPaths, on_error: OnError = raise_first) -> Expansion:
    """The tasks of the tables, without duplicates; writes manifests to paths.out/episodes.

    Unreadable files go to `on_error`. If data or encoder of a setting cannot be read in a fold, the reason is recorded.
    Raises ValueError for an unknown method.
    """
    methods: dict[Setting, dict[str, None]] = {}  # of any table
    for plan in tables:
        for line in plan.lines:
            methods.setdefault(line.setting, {})[read_method(line.method).name] = None
    specs: list[TaskSpec] = []
    unavailable = {}
    code = digest(code_digest(), notebook_text(paths.notebooks / NOTEBOOK))
    for setting, names in methods.items():
        folds = []
        for fold in setting.folds:
            try:  # all runs of a fold, or none
                folds.append(tuple(_specs(setting, fold, tuple(names), paths, code, on_error)))
            except (ValueError, OSError) as reason:
                unavailable[setting, fold] = str(reason)
        # Folds alternate: runs of one share features, which two tasks at the same time would both compute.
        specs += (spec for part in zip_longest(*folds) for spec in part if spec)
    return Expansion(tuple(specs), unavailable)


def _specs(
    setting: Setting, fold: int, methods: tuple[str, ...], paths: SweepPaths, code: str, on_error: OnError
) -> Iterator[TaskSpec]:
    """The tasks of one setting in one fold, over all its runs."""
    data = read_benchmark(setting.benchmark, fold, paths.root, on_error=on_error)
    encoder, weights, means = _encoder(setting, fold, paths)
    height, width = benchmark(setting.benchmark).input_size(*setting.size)
    marker = data.query_root.parent / "mini.json"  # parameters of a synthetic dataset
    synthetic = marker.read_text(encoding="utf-8") if marker.is_file() else ""
    labels = setting.name, setting.encoder, setting.seen_classes
    out, notebook = paths.out.resolve(), str((paths.notebooks / NOTEBOOK).resolve())
    common = {
        **paths.more, "name": setting.name, "benchmark": setting.benchmark, "root": str(paths.root.resolve()),
        "encoder_name": setting.encoder, "seen_classes": setting.seen_classes, "height": height, "width": width,
        "device": paths.device, "out": str(out), "features": str(out / "features"), "encoder": encoder,
        "methods": list(methods),
    }  # fmt: skip
    seconds = ENCODER_SECONDS.get(setting.encoder, ENCODER_SECONDS["resnet50"]) + len(methods) * METHOD_SECONDS
    version = digest(asdict(setting), paths.limit)[:6]
    for run in range(setting.runs):
        sampled = draw_episodes(data, setting.shots, setting.seed, run, setting.draws, on_error)
        sampled = select_episodes(sampled, paths.limit)
        manifest = out / f"episodes/{setting.name}-f{fold}-{setting.shots}shot-run{run}-{version}.json"
        write_episodes(manifest, sampled)
        for part in slices(sampled, paths.frames):
            episodes = sampled[part.start : part.stop]
            frames = sum(len(episode.query) for episode in episodes)
            keys = [episode.key for episode in episodes]
            # The position too: a run with replacement may hold the same episode twice.
            about = (height, width), paths.device, paths.more.get("supports"), keys, part.start, weights, means
            key = digest(labels, *about, code, synthetic)
            name = f"{setting.name} f{fold} {setting.shots}-shot {setting.encoder} run {run}"
            name += f", {part.start} to {part.stop - 1}"
            rows, output = str(out / "rows" / f"{key}.jsonl"), str(out / "tasks" / f"{key}.ipynb")
            parameters = {**common, "manifest": str(manifest), "first": part.start, "last": part.stop, "rows": rows}
            cost = START_SECONDS + frames * seconds * height * width / REFERENCE_PIXELS
            task = Task(key, name, notebook, output, parameters, cost, methods, rows, len(episodes))
            yield TaskSpec(task, setting, fold, frames, manifest, weights)


def _encoder(setting: Setting, fold: int, paths: SweepPaths) -> tuple[str, str, str]:
    """The encoder's path or function, and digests of its content and of its means, if they are beside it."""
    corpus = benchmark(setting.benchmark).trained_on
    spec = paths.encoders.format(corpus=corpus, encoder=setting.encoder, fold=fold, out=paths.out)
    if is_plugin(spec):
        file, _, function = spec.rpartition(":")
        spec = f"{Path(file).resolve()}:{function}" if Path(file).is_file() else spec
        return spec, checkpoints.fingerprint(checkpoints.load_encoder(spec)), ""
    path = Path(spec).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no encoder at {spec}; train it, or give its path with --encoders")
    means = path.with_suffix(ENDING)
    return str(path), fingerprint(path)[:16], fingerprint(means) if means.is_file() else ""


PLACES = ("corpus", "encoder", "fold", "out")  # what is substituted in the path of encoders
MAX_RUNS = 1000  # all episodes are drawn before the first task
SETTING_PARAMETERS = ("folds", "runs", "seed", "draws")
NOTEBOOK_PARAMETERS = ("keep_going", "supports")
HINTS = {"limit": "--limit", "device": "--device", "out": "--out", "root": "--root", "encoder": "--encoders"}


def default_paths(mini: bool, root: str | None = "", out: str | None = "", encoders: str | None = "") -> SweepPaths:
    """Default folders: the original data, or the synthetic dataset and the run folder of the study."""
    defaults = ("data", "outputs/sweep", "outputs/train/{corpus}-{encoder}-f{fold}/best.safetensors")
    if mini:
        defaults = ("data/mini", "outputs/mini", "{out}/train/{corpus}-f{fold}/best.safetensors")
    return SweepPaths(Path(root or defaults[0]), Path(out or defaults[1]), encoders or defaults[2])


def requested_tables(names: Sequence[str], changes: Mapping[str, Any], mini: bool = False) -> tuple[Table, ...]:
    """The requested tables with `changes` to their settings. Raises ValueError for an unknown table, folds or runs."""
    folds, runs = changes.get("folds"), changes.get("runs")
    if folds is not None and (not folds or set(folds) - {0, 1, 2, 3}):
        raise ValueError(f"folds {list(folds)} do not all exist; choose from 0, 1, 2 and 3")
    if runs is not None and not 1 <= runs <= MAX_RUNS:
        raise ValueError(f"runs is {runs}; give 1 to {MAX_RUNS}")
    if folds is not None:
        changes = {**changes, "folds": tuple(folds)}
    plans = [table(name) for name in dict.fromkeys(names)]
    return tuple(changed(on_mini(plan) if mini else plan, **changes) for plan in plans)


def with_encoders(tables: Sequence[Table], encoders: str) -> tuple[Table, ...]:
    """The tables; a plug-in replaces their encoder.

    Raises ValueError for an unknown {name} in the path, or if several encoders would share one path.
    """
    try:
        encoders.format(**dict.fromkeys(PLACES, ""))
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        names = ", ".join(f"{{{name}}}" for name in PLACES)
        raise ValueError(f"--encoders {encoders}: only {names} are substituted") from error
    if "{encoder}" in encoders:
        return tuple(tables)
    if is_plugin(encoders):
        return tuple(changed(plan, encoder=Path(encoders).name) for plan in tables)
    needed = sorted({setting.encoder for plan in tables for setting in plan.settings})
    if len(needed) > 1:
        about = f"{encoders} is the same for all encoders, but the tables need {', '.join(needed)}"
        raise ValueError(f"{about}; put {{encoder}} into the path, or request tables with one encoder")
    return tuple(tables)


def split_parameters(notebooks: Path, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of settings, and those passed on. Raises ValueError if unknown, of another type, or set elsewhere."""
    check_parameters(notebooks / NOTEBOOK, given)
    for name in given:
        if name not in (*SETTING_PARAMETERS, *NOTEBOOK_PARAMETERS):
            hint = f"give it by {HINTS[name]}" if name in HINTS else "the table decides it"
            raise ValueError(f"parameter {name!r} cannot be given to a sweep; {hint}")
    settings = {name: value for name, value in given.items() if name in SETTING_PARAMETERS}
    return settings, {name: value for name, value in given.items() if name in NOTEBOOK_PARAMETERS}


def begin(paths: SweepPaths, tables: Sequence[Table]) -> None:
    """Write the request to sweep.json. Raises OSError if not writable, ValueError for real names on synthetic data,
    or for a device or number that no task could use."""
    if paths.device.partition(":")[0] not in ("cpu", "cuda", "mps", *OPENVINO) or paths.frames < 1 or paths.limit < 0:
        about = f"--device {paths.device} --frames {paths.frames} --limit {paths.limit}"
        raise ValueError(f"{about}: give cpu or cuda, frames from 1, and a limit from 0, which is all")
    names = sorted({setting.name for plan in tables for setting in plan.settings if not setting.label})
    if names and (paths.root / "mini.json").is_file():
        about = f"{paths.root} is the synthetic dataset, and its rows must not be labelled {names[0]}"
        raise ValueError(f"{about}; give --mini, or another --root")
    about = {
        "tables": [plan.name for plan in tables], "root": str(paths.root), "encoders": paths.encoders,
        "device": paths.device, "limit": paths.limit, "frames": paths.frames, **paths.more,
    }  # fmt: skip
    write_json(paths.out / "sweep.json", about)
