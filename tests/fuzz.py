"""Damage valid files of every format and read them as the commands do: each ends well, or with one sentence.

    python tests/fuzz.py [CASES] [FORMAT ...]

A sentence is one line of a ValueError, OSError or ImportError. Anything else is printed and counted: a traceback, a
crash, or a case that takes longer than a minute. The same number of a case makes the same damage.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from coco_corpus import box, coco, instance
from corpora import block, compressed, palette_png, picture, rewrite, run_lengths, ytvis

import ttilib as tti
from ttilib.datasets.coco import make_masks
from ttilib.encoders.checkpoints import convert, load_encoder, load_state, save_encoder, save_state
from ttilib.encoders.layers import MultiLayerEncoder
from ttilib.episodes.clips import clip_from_files, load_clip
from ttilib.episodes.episode import read_episodes, write_episodes
from ttilib.files import read_json, write_json
from ttilib.images import write_image
from ttilib.plots.video import open_video, write_overlay
from ttilib.results.evaluation import evaluate, rescore
from ttilib.results.records import RowsFile, read_rows, write_index
from ttilib.results.tables import score_table
from ttilib.solver.extraction import FeatureExtractor, load_means, measure_means, save_means
from ttilib.solver.methods import read_method
from ttilib.sweep.tasks import check_parameters, read_record
from ttilib.tools.doctor import examine

SIZE = (33, 57)
SECONDS = 60
STRANGE = (
    None, True, -1, 0, 7, 10**9, 10**19, 2.5, 1e308, -1e-300, "", "x", "0", "../../up", "a\0b", "\udcfe", "9" * 5000,
    [], [[]], [None], ["x"], [-1, 2], {}, {"a": {}}, [[[[[]]]]],
)  # fmt: skip

# ---- damage --------------------------------------------------------------------------------------------


def damage(path: Path, rng: random.Random) -> None:
    """Change one to three things in a file: values of JSON, or bytes."""
    content = path.read_bytes()
    for _ in range(rng.randint(1, 3)):
        is_json = path.suffix in (".json", ".jsonl", ".ipynb") and rng.random() < 0.8
        content = (damaged_json if is_json else damaged_bytes)(content, rng)
    path.write_bytes(content)


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut off, remove, flip, blank, insert or repeat some bytes."""
    start, length = rng.randrange(len(content) + 1), rng.choice((1, 1, 8, 64, 4096))
    before, part, after = content[:start], content[start : start + length], content[start + length :]
    flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in part)
    middle = rng.choice((b"", flipped, bytes(length), rng.randbytes(length) + part, part + part))
    return before + middle + (after if rng.random() < 0.8 else b"")


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    """Change a value of a JSON text, or of one line of a file with a value per line."""
    lines = content.split(b"\n")
    number = rng.randrange(len(lines))
    for text in (content, lines[number]):
        try:
            value = json.loads(text)
        except ValueError:
            continue
        new = json.dumps(_changed(value, rng)).encode()
        return new if text is content else b"\n".join([*lines[:number], new, *lines[number + 1 :]])
    return damaged_bytes(content, rng)


def _changed(value: Any, rng: random.Random) -> Any:
    """Remove, copy, repeat, rename or replace one value at any depth."""
    places = list(_places(value))
    if not places:
        return rng.choice(STRANGE)
    depth = rng.choice(sorted({depth for depth, _, _ in places}))  # long lists must not hide the few other fields
    _, parent, key = rng.choice([place for place in places if place[0] == depth])
    how, (_, other, there) = rng.randrange(6), rng.choice(places)
    if how == 0:
        del parent[key]
    elif how == 1:
        parent[key] = json.loads(json.dumps(other[there]))
    elif how == 2 and isinstance(parent, list):
        parent.insert(key, parent[key])
    elif how == 2:
        parent[rng.choice(("", "id", "new", key.upper()))] = parent.pop(key)
    else:
        parent[key] = rng.choice((*STRANGE, [parent[key]], {"a": parent[key]}, str(parent[key])))
    return value


def _places(value: Any, depth: int = 0) -> Iterator[tuple[int, Any, Any]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield depth, value, key
        yield from _places(part, depth + 1)


# ---- valid files, and how they are read ----------------------------------------------------------------


@cache
def network() -> torch.nn.Module:
    """A small encoder with fixed weights."""
    return tti.build_encoder("resnet18-mini", 3).eval()


def same_weights(found: dict[str, torch.Tensor]) -> None:
    """Raise AssertionError if other weights were taken without a word."""
    assert all(torch.equal(found[name], value) for name, value in network().state_dict().items())


def make_ytvis(folder: Path) -> None:
    mask, root = block(1, 2, 3, 6, 6), folder / "data" / "ytvis"
    ytvis(root, {f"v{n}": [[1, 2], [1], [2, 5]] for n in range(3)})
    kinds = [run_lengths(mask), compressed(mask), None]
    rewrite(root, lambda content: content["annotations"][0].update(segmentations=kinds))


def read_ytvis(folder: Path) -> None:
    """As `episodes --keep-going`, then without."""
    errors: list[Exception] = []
    data = tti.read_benchmark("ytvis-v1", 0, folder / "data", None, errors.append)
    episodes = tti.draw_episodes(data, 1, 2020, 0, "released", errors.append)
    for error in errors:
        check_sentence(error)
    for episode in episodes[:3]:
        load_clip(episode, data.query_root, SIZE)
    if errors:
        tti.read_benchmark("ytvis-v1", 0, folder / "data")


def read_with_doctor(folder: Path) -> None:
    examine("ytvis-v1", folder / "data", (0,), (1,), None, thorough=True).text()


def make_coco(folder: Path) -> None:
    mask = block(1, 2, 3, 6, 6)
    outlines = [[box(3, 2, 9, 8)], run_lengths(mask), compressed(mask)]
    entries = [instance(n, n, (3, 7, 90)[n - 1], outlines[n - 1], int(n == 2)) for n in (1, 2, 3)]
    coco(folder, {"train": entries, "val": entries}, {"train": [1, 2, 3], "val": [1, 2, 3]})


def make_run(folder: Path) -> None:
    """Manifest without a hash, rows, masks and index of two methods."""
    make_ytvis(folder)
    data, manifest = tti.read_benchmark("ytvis-v1", 0, folder / "data"), folder / "episodes" / "e.json"
    write_episodes(manifest, tti.draw_episodes(data, 1, 2020)[:2])
    write_json(manifest, {"episodes": read_json(manifest)["episodes"]})
    episodes, rows = dict(enumerate(read_episodes(manifest))), folder / "rows" / "r.jsonl"
    methods = [read_method("fine-tune steps=1"), read_method("TTI steps=1")]
    extractors = {0: FeatureExtractor(network(), "beef")}
    list(evaluate(episodes, methods, extractors, {0: data}, SIZE, "ytvis-v1", "e", rows))
    lines = [{"benchmark": "ytvis-v1", "shots": 1, "encoder": "e", "method": method.name} for method in methods]
    write_index(folder, "t", "title", lines, [RowsFile(rows, manifest, "ytvis-v1", SIZE)], {"e": "beef"})


def read_manifest(folder: Path) -> None:
    for episode in read_episodes(folder / "episodes" / "e.json"):
        load_clip(episode, folder / "data" / "ytvis", SIZE, folder / "data" / "ytvis")


def read_run(folder: Path) -> None:
    rescore(folder, "t", folder / "data")


def make_encoder(folder: Path) -> None:
    save_encoder(folder / "best.safetensors", network(), {"corpus": "ytvis", "fold": 0, "base": ["a", "b"]})
    convert(folder / "best.safetensors", folder / "published.pth")


def read_encoder(folder: Path) -> None:
    same_weights(load_encoder(folder / "best.safetensors").state_dict())
    convert(folder / "best.safetensors", folder / "x.pth")


def make_means(folder: Path) -> None:
    images = [(torch.rand(3, 3, *SIZE), torch.ones(3, *SIZE, dtype=torch.bool))]
    save_means(folder / "best.means.safetensors", measure_means(MultiLayerEncoder(network()), "beef", images))


def read_means(folder: Path) -> None:
    values = load_means(folder / "best.means.safetensors", "beef").values
    assert values.isfinite().all() and values.norm() < 1.01


def make_own(folder: Path) -> None:
    write_image(folder / "a.png", picture(1))
    write_image(folder / "a.jpg", picture(1))
    palette_png(folder / "m.png", block(1, 4, 8, 8, 12))
    write_image(folder / "frames" / "f.1.png", picture(2))
    write_overlay(folder / "v.webm", [picture(n) for n in range(4)], np.stack([block(1, 4, 8, 8, 12) > 0] * 4))


def read_own(folder: Path) -> None:
    frames = [frame for video in ("frames", "v.webm") for _, frame in open_video(folder / video)]
    for image in ("a.png", "a.jpg"):
        clip_from_files([folder / image], [folder / "m.png"], frames, SIZE)


def make_notebook(folder: Path) -> None:
    folder.mkdir()
    shutil.copy(Path(__file__).parent.parent / "notebooks" / "01_data.ipynb", folder / "n.ipynb")


def make_record(folder: Path) -> None:
    record = {"name": "n", "parts": ["TTI"], "cost": 1.5, "seconds": 2.0, "rows": 1, "machine": "m", "finished": "t"}
    write_json(folder / "tasks" / "k.json", record)


Step = Callable[[Path], object]
FORMATS: dict[str, tuple[Step, str, Step]] = {
    "train.json": (make_ytvis, "data/ytvis/train/train.json", read_ytvis),
    "train.json by doctor": (make_ytvis, "data/ytvis/train/train.json", read_with_doctor),
    "lists.json": (make_ytvis, "data/ytvis/lists.json", read_ytvis),
    "frame": (make_ytvis, "data/ytvis/train/JPEGImages/v0/00000.jpg", read_ytvis),
    "COCO annotations": (make_coco, "annotations/instances_val2014.json", make_masks),
    "manifest": (make_run, "episodes/e.json", read_manifest),
    "rows": (make_run, "rows/r.jsonl", lambda folder: score_table(read_rows(folder / "rows" / "r.jsonl"))),
    "rows, scored again": (make_run, "rows/r.jsonl", read_run),
    "masks": (make_run, "masks/r.jsonl", read_run),
    "index of a table": (make_run, "rows/t.json", read_run),
    "metadata": (make_encoder, "best.json", read_encoder),
    "weights": (make_encoder, "best.safetensors", read_encoder),
    "published weights": (make_encoder, "published.pth",
                          lambda folder: same_weights(load_encoder(folder / "published.pth").state_dict())),
    "means": (make_means, "best.means.safetensors", read_means),
    "training state": (lambda folder: save_state(folder / "last.pt", network().state_dict()), "last.pt",
                       lambda folder: same_weights(load_state(folder / "last.pt"))),
    "own image": (make_own, "a.png", read_own),
    "own mask": (make_own, "m.png", read_own),
    "own video": (make_own, "v.webm", read_own),
    "notebook": (make_notebook, "n.ipynb", lambda folder: check_parameters(folder / "n.ipynb", {"shots": 1})),
    "task record": (make_record, "tasks/k.json", lambda folder: read_record(folder, "k")),
}  # fmt: skip

# ---- cases ---------------------------------------------------------------------------------------------


class NotOneSentence(Exception):
    """An error that the command would not report in one sentence."""


def check_sentence(error: Exception) -> None:
    """Raise NotOneSentence unless an error is one line that names a file or value and says what is wrong."""
    text = str(error)
    expected = isinstance(error, ValueError | OSError | ImportError) and not isinstance(error, UnicodeError)
    if not expected or "\n" in text.strip() or not {":", ";"} & set(text) or len(text.split()) < 3:
        raise NotOneSentence(f"{type(error).__name__}: {text[:300]}") from error


@cache
def template(name: str) -> Path:
    """A folder with valid files of a format, which can be read before they are damaged; made once per process."""
    make, _, read = FORMATS[name]
    folder = Path(tempfile.mkdtemp(prefix="ttilib-fuzz-"))
    make(folder / "files")
    read(shutil.copytree(folder / "files", folder / "valid"))
    return folder / "files"


def run_case(name: str, number: int) -> str:
    """Damage a copy of a valid file and read it: "accepted" or "refused". Raises NotOneSentence for anything else."""
    _, path, read = FORMATS[name]
    with tempfile.TemporaryDirectory(prefix="ttilib-fuzz-") as text, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = shutil.copytree(template(name), Path(text) / "case")
        damage(folder / path, random.Random(f"{name} {number}"))
        try:
            read(folder)
        except NotOneSentence:
            raise
        except Exception as error:
            check_sentence(error)
            return "refused"
    return "accepted"


def _start() -> None:
    import resource

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))  # a huge allocation must not end the machine


def main(words: list[str]) -> int:
    """Run the cases in a process of their own, and print the outcomes per format."""
    names = words[1:] or list(FORMATS)
    each, failures, pool = -(-int(words[0] if words else 2000) // len(names)), 0, None
    for name in names:
        counts: Counter[str] = Counter()
        for number in range(each):
            pool = pool or ProcessPoolExecutor(1, initializer=_start)
            try:
                outcome = pool.submit(run_case, name, number).result(timeout=SECONDS)
            except NotOneSentence as error:
                outcome = "traceback"
                print(f"{name} {number}: {error}", flush=True)
            except (BrokenProcessPool, TimeoutError) as error:
                outcome = "crash" if isinstance(error, BrokenProcessPool) else "hang"
                print(f"{name} {number}: {outcome}", flush=True)
                for process in list(pool._processes.values()):
                    process.kill()
                pool = None
            counts[outcome] += 1
        failures += each - counts["accepted"] - counts["refused"]
        print(f"{name:<22}" + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())), flush=True)
    if pool:
        pool.shutdown()
    print(f"{each * len(names)} cases, {failures} without a sentence")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
