"""From tables to tasks: episodes, weights, and the reasons why a setting cannot run.

A task is notebook 04 on some episodes of one run of a benchmark, with all methods of the tables. Its key is a digest of
episodes, weights, code and all settings that can change a result; not of paths, nor of the methods, whose rows are
added to the same file one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ttilib.datasets.base import OnError, raise_first
from ttilib.encoders.checkpoints import fingerprint, load_encoder
from ttilib.encoders.external import is_plugin
from ttilib.episodes.benchmarks import benchmark, draw_episodes, read_benchmark
from ttilib.episodes.episode import Episode, select_episodes, slices, write_episodes
from ttilib.files import digest, write_json
from ttilib.files import fingerprint as file_fingerprint
from ttilib.results.records import code_digest
from ttilib.solver.methods import read_method
from ttilib.sweep.tables import Setting, Table, changed, on_mini, table
from ttilib.sweep.tasks import Task, check_parameters

NOTEBOOK = "04_evaluate.ipynb"
PICTURE = 241 * 425  # image size in pixels for the seconds below
ENCODING = {"resnet50": 2.0, "resnet50-dcl": 2.0, "resnet101": 3.6, "resnet18-mini": 0.04}
"""Approximate seconds per frame on one core, for the first estimate of the time only."""
SOLVING = 0.08  # seconds per frame and method, for optimization and metrics
START = 12.0  # seconds to start a notebook


@dataclass(frozen=True)
class SweepPaths:
    """Where data, weights and notebooks are, and where results go; `more` are notebook parameters for all tables.

    `encoders` is a path with {corpus}, {encoder}, {fold} and {out}, or a plug-in. A task has about `frames` query
    frames; `limit` is the maximum number of episodes per run (0: all).
    """

    root: Path
    out: Path
    encoders: str = "{out}/train/{corpus}-{encoder}-f{fold}/best.safetensors"
    notebooks: Path = Path("notebooks")
    device: str = "cpu"
    limit: int = 0
    frames: int = 1000
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskSpec:
    """A task and what it covers; `weights` is a digest of the encoder."""

    task: Task
    setting: Setting
    fold: int
    episodes: int
    frames: int
    manifest: Path
    weights: str


@dataclass(frozen=True)
class Expansion:
    """All pieces of the requested tables, and why a setting has none in a fold."""

    pieces: tuple[TaskSpec, ...]
    refusals: Mapping[tuple[Setting, int], str]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in order."""
        return tuple(piece.task for piece in self.pieces)


def expand(tables: Sequence[Table], place: SweepPaths, on_error: OnError = raise_first) -> Expansion:
    """The tasks of the tables, without duplicates; writes manifests to place.out/episodes.

    Unreadable files go to `on_error`. If data or weights of a setting cannot be read in a fold, the reason is recorded.
    Raises ValueError for an unknown method.
    """
    wanted: dict[Setting, dict[str, None]] = {}  # the methods of each setting in any table
    for plan in tables:
        for line in plan.lines:
            wanted.setdefault(line.setting, {})[read_method(line.method).name] = None
    pieces, refusals = [], {}
    code = digest(code_digest(), (place.notebooks / NOTEBOOK).read_text(encoding="utf-8"))
    for setting, methods in wanted.items():
        for fold in setting.folds:
            try:  # all runs of a fold, or none
                pieces += tuple(_pieces(setting, fold, tuple(methods), place, code, on_error))
            except (ValueError, OSError) as reason:
                refusals[setting, fold] = str(reason)
    return Expansion(tuple(pieces), refusals)


def _pieces(
    setting: Setting, fold: int, methods: tuple[str, ...], place: SweepPaths, code: str, on_error: OnError
) -> Iterator[TaskSpec]:
    """The tasks of one setting in one fold, over all its runs."""
    data = read_benchmark(setting.benchmark, fold, place.root, on_error=on_error)
    encoder, weights = _weights(setting, fold, place)
    height, width = benchmark(setting.benchmark).input_size(*setting.size)
    stamp = data.query_root.parent / "mini.json"  # parameters of a synthetic dataset
    made = stamp.read_text(encoding="utf-8") if stamp.is_file() else ""
    labels = setting.name, setting.encoder, setting.seen_classes
    out, notebook = place.out.resolve(), str((place.notebooks / NOTEBOOK).resolve())
    common = {
        **place.more, "name": setting.name, "benchmark": setting.benchmark, "root": str(place.root.resolve()),
        "encoder_name": setting.encoder, "seen_classes": setting.seen_classes, "height": height, "width": width,
        "device": place.device, "out": str(out), "features": str(out / "features"), "encoder": encoder,
        "methods": list(methods),
    }  # fmt: skip
    seconds = ENCODING.get(setting.encoder, ENCODING["resnet50"]) + len(methods) * SOLVING
    for run in range(setting.runs):
        drawn = draw_episodes(data, setting.shots, setting.seed, run, setting.draws, on_error)
        drawn = select_episodes(drawn, place.limit)
        manifest = _manifest(place, setting, fold, run, drawn)
        for part in slices(drawn, place.frames):
            episodes = drawn[part.start : part.stop]
            frames = sum(len(episode.query) for episode in episodes)
            keys, more = [episode.key for episode in episodes], dict(place.more)
            key = digest(labels, (height, width), place.device, more, keys, part.start, weights, code, made)
            name = f"{setting.name} f{fold} {setting.shots}-shot {setting.encoder} run {run}, {part.start} to "
            name += str(part.stop - 1)
            rows = str(out / "rows" / f"{key}.jsonl")
            parameters = {**common, "manifest": str(manifest), "first": part.start, "last": part.stop, "rows": rows}
            cost = START + frames * seconds * height * width / PICTURE
            output = str(out / "tasks" / f"{key}.ipynb")
            task = Task(key, name, notebook, output, parameters, cost, methods, rows)
            yield TaskSpec(task, setting, fold, len(episodes), frames, manifest, weights)


def _weights(setting: Setting, fold: int, place: SweepPaths) -> tuple[str, str]:
    """The encoder's path or function, and a digest of its content."""
    corpus = benchmark(setting.benchmark).trained_on
    spec = place.encoders.format(corpus=corpus, encoder=setting.encoder, fold=fold, out=place.out)
    if is_plugin(spec):
        file, _, function = spec.rpartition(":")
        spec = f"{Path(file).resolve()}:{function}" if Path(file).is_file() else spec
        return spec, fingerprint(load_encoder(spec))
    path = Path(spec).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no encoder at {spec}; train it, or say where it is with --encoders")
    return str(path), file_fingerprint(path)[:16]


def _manifest(place: SweepPaths, setting: Setting, fold: int, run: int, episodes: Sequence[Episode]) -> Path:
    """Write the episodes of one run; returns the path."""
    about = digest(asdict(setting), place.limit)[:6]
    path = place.out / "episodes" / f"{setting.name}-f{fold}-{setting.shots}shot-run{run}-{about}.json"
    write_episodes(path, episodes)
    return path.resolve()


OF_SETTINGS = ("folds", "runs", "seed", "draws")
HANDED_THROUGH = ("only", "keep_going")
HINTS = {"limit": "--limit", "device": "--device", "out": "--out", "root": "--root", "encoder": "--encoders"}


def default_paths(mini: bool, root: str = "", out: str = "", encoders: str = "") -> SweepPaths:
    """Default folders: the original data, or the synthetic dataset as the study leaves it."""
    if mini:
        weights = "{out}/train/{corpus}-f{fold}/best.safetensors"
        return SweepPaths(Path(root or "data/mini"), Path(out or "outputs/mini"), encoders or weights)
    weights = "outputs/train/{corpus}-{encoder}-f{fold}/best.safetensors"
    return SweepPaths(Path(root or "data"), Path(out or "outputs/sweep"), encoders or weights)


def requested_tables(names: Sequence[str], changes: Mapping[str, Any], mini: bool = False) -> tuple[Table, ...]:
    """The requested tables with `changes` to their settings. Raises ValueError for an unknown table, folds or runs."""
    folds, runs = changes.get("folds"), changes.get("runs")
    if folds is not None and (not folds or set(folds) - {0, 1, 2, 3}):
        raise ValueError(f"folds {list(folds)} are not all folds; choose from 0, 1, 2 and 3")
    if runs is not None and runs < 1:
        raise ValueError(f"runs is {runs}; ask for one run or more")
    if folds is not None:
        changes = {**changes, "folds": tuple(folds)}
    plans = [table(name) for name in dict.fromkeys(names)]
    return tuple(changed(on_mini(plan) if mini else plan, **changes) for plan in plans)


def with_encoders(tables: Sequence[Table], encoders: str) -> tuple[Table, ...]:
    """The tables; a plug-in replaces their encoder. Raises ValueError if several encoders would share one path."""
    if "{encoder}" in encoders:
        return tuple(tables)
    if is_plugin(encoders):
        return tuple(changed(plan, encoder=Path(encoders).name) for plan in tables)
    asked = sorted({setting.encoder for plan in tables for setting in plan.settings})
    if len(asked) > 1:
        about = f"{encoders} is the same for all encoders, but the tables ask for {', '.join(asked)}"
        raise ValueError(f"{about}; put {{encoder}} into the path, or ask for tables with one of them")
    return tuple(tables)


def split_parameters(notebooks: Path, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of settings, and those passed on. Raises ValueError if unknown, of another type, or set elsewhere."""
    check_parameters(notebooks / NOTEBOOK, given)
    for name in given:
        if name not in (*OF_SETTINGS, *HANDED_THROUGH):
            hint = f"give it by {HINTS[name]}" if name in HINTS else "the table decides it"
            raise ValueError(f"parameter {name!r} cannot be given to a sweep; {hint}")
    pick = {kind: {name: given[name] for name in kind if name in given} for kind in (OF_SETTINGS, HANDED_THROUGH)}
    return pick[OF_SETTINGS], pick[HANDED_THROUGH]


def begin(place: SweepPaths, tables: Sequence[Table]) -> None:
    """Write the request to sweep.json. Raises OSError if not writable, ValueError for real names on synthetic data."""
    named = {setting.name for plan in tables for setting in plan.settings if not setting.name.startswith("mini-")}
    if named and (place.root / "mini.json").is_file():
        about = f"{place.root} is the synthetic dataset, and its rows must not be taken for {sorted(named)[0]}"
        raise ValueError(f"{about}; give --mini, or another --root")
    about = {"tables": [plan.name for plan in tables], "root": str(place.root), "encoders": place.encoders}
    about |= {"device": place.device, "limit": place.limit, "frames": place.frames, **place.more}
    try:
        write_json(place.out / "sweep.json", about)
    except OSError as error:
        hint = "choose another folder with --out"
        raise OSError(f"{place.out}: results cannot be written there ({error.strerror or error}); {hint}") from error
