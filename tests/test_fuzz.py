"""Damaged files of every format are read well, or refused in one sentence.

`CASES=2000 python -m pytest tests/test_fuzz.py` tries as many of each format; the same number makes the same damage.
"""

import json
import os
import random
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from coco_corpus import box, coco, instance
from corpora import block, compressed, rewrite, run_lengths, ytvis

import ttilib as tti
from ttilib.datasets.coco import make_masks
from ttilib.encoders.checkpoints import convert, load_encoder, load_state, save_encoder, save_state
from ttilib.episodes.clips import load_clip
from ttilib.episodes.episode import read_episodes, write_episodes
from ttilib.files import read_json, write_json
from ttilib.results.evaluation import evaluate, rescore
from ttilib.results.records import RowsFile, read_rows, write_index
from ttilib.results.tables import score_table
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.methods import read_method
from ttilib.sweep.tasks import check_parameters
from ttilib.tools.doctor import examine

CASES = int(os.environ.get("CASES", 8))
SIZE = (33, 57)
STRANGE = (
    None, True, -1, 0, 10**19, 2.5, 1e308, "", "x", "0", "../up", "a\0b", "\udcfe", "9" * 5000, [], [[]], [-1], {},
)  # fmt: skip


def damaged_bytes(content, rng):
    """Cut off, remove, flip, blank or insert some bytes."""
    start, length = rng.randrange(len(content) + 1), rng.choice((1, 8, 64, 4096))
    before, part, after = content[:start], content[start : start + length], content[start + length :]
    flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in part)
    middle = rng.choice((b"", flipped, bytes(length), rng.randbytes(length) + part))
    return before + middle + (after if rng.random() < 0.8 else b"")


def places(value, depth=0):
    """(depth, list or dictionary, index or key) of everything inside a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield depth, value, key
        yield from places(value[key], depth + 1)


def damaged_json(text, rng):
    """Remove or replace one value at any depth."""
    found = list(places(value := json.loads(text)))
    depth = rng.choice(sorted({depth for depth, _, _ in found}))  # long lists must not hide the few other fields
    _, parent, key = rng.choice([place for place in found if place[0] == depth])
    if rng.random() < 0.25:
        del parent[key]
    else:
        parent[key] = rng.choice((*STRANGE, [parent[key]], {"a": parent[key]}, str(parent[key])))
    return json.dumps(value).encode()


def damage(path, rng):
    content = path.read_bytes()
    if rng.random() < 0.3 or not path.suffix.startswith((".json", ".ipynb")):
        content = damaged_bytes(content, rng)
    elif path.suffix == ".jsonl":
        lines = content.splitlines()
        number = rng.randrange(len(lines))
        content = b"\n".join([*lines[:number], damaged_json(lines[number], rng), *lines[number + 1 :]])
    else:
        content = damaged_json(content, rng)
    path.write_bytes(content)


@cache
def network():
    return tti.build_encoder("resnet18-mini", 3).eval()


def same_weights(found):
    """Other weights must not be taken without a word."""
    assert all(torch.equal(found[name], value) for name, value in network().state_dict().items())


def make_ytvis(folder):
    mask, root = block(1, 2, 3, 6, 6), folder / "data" / "ytvis"
    ytvis(root, {f"v{n}": [[1, 2], [1], [2, 5]] for n in range(3)})
    kinds = [run_lengths(mask), compressed(mask), None]
    rewrite(root, lambda content: content["annotations"][0].update(segmentations=kinds))


def read_ytvis(folder):
    """As `episodes --keep-going`, then without."""
    errors = []
    data = tti.read_benchmark("ytvis-v1", 0, folder / "data", None, errors.append)
    episodes = tti.draw_episodes(data, 1, 2020, 0, "released", errors.append)
    for error in errors:
        check_sentence(error)
    for episode in episodes[:3]:
        load_clip(episode, data.query_root, SIZE)
    if errors:
        tti.read_benchmark("ytvis-v1", 0, folder / "data")


def make_coco(folder):
    mask = block(1, 2, 3, 6, 6)
    outlines = [[box(3, 2, 9, 8)], run_lengths(mask), compressed(mask)]
    entries = [instance(n, n, (3, 7, 90)[n - 1], outlines[n - 1], int(n == 2)) for n in (1, 2, 3)]
    coco(folder, {"train": entries, "val": entries}, {"train": [1, 2, 3], "val": [1, 2, 3]})


def make_run(folder):
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


def read_manifest(folder):
    for episode in read_episodes(folder / "episodes" / "e.json"):
        load_clip(episode, folder / "data" / "ytvis", SIZE, folder / "data" / "ytvis")


def make_encoder(folder):
    save_encoder(folder / "best.safetensors", network(), {"corpus": "ytvis", "fold": 0, "base": ["a", "b"]})
    convert(folder / "best.safetensors", folder / "published.pth")
    save_state(folder / "last.pt", network().state_dict())


def make_notebook(folder):
    folder.mkdir()
    shutil.copy(Path(__file__).parent.parent / "notebooks" / "01_data.ipynb", folder / "n.ipynb")


FORMATS = {  # what makes a folder of valid files, the file that is damaged, and what reads it
    "train.json": (make_ytvis, "data/ytvis/train/train.json", read_ytvis),
    "train.json by doctor": (
        make_ytvis, "data/ytvis/train/train.json",
        lambda folder: examine("ytvis-v1", folder / "data", (0,), (1,), None, thorough=True).text(),
    ),
    "lists.json": (make_ytvis, "data/ytvis/lists.json", read_ytvis),
    "COCO annotations": (make_coco, "annotations/instances_val2014.json", make_masks),
    "manifest": (make_run, "episodes/e.json", read_manifest),
    "rows": (make_run, "rows/r.jsonl", lambda folder: score_table(read_rows(folder / "rows" / "r.jsonl"))),
    **{
        f"{name}, scored again": (make_run, name, lambda folder: rescore(folder, "t", folder / "data"))
        for name in ("rows/r.jsonl", "masks/r.jsonl", "rows/t.json")
    },
    **{
        name: (make_encoder, name, lambda folder, end=end: same_weights(load_encoder(folder / end).state_dict()))
        for name, end in (("best.json", "best.safetensors"), ("published.pth", "published.pth"))
    },
    "last.pt": (make_encoder, "last.pt", lambda folder: same_weights(load_state(folder / "last.pt"))),
    "notebook": (make_notebook, "n.ipynb", lambda folder: check_parameters(folder / "n.ipynb", {"shots": 1})),
}  # fmt: skip


def check_sentence(error):
    """One line of a ValueError, OSError or ImportError, which names a file or value and says what is wrong."""
    text = str(error)
    assert isinstance(error, ValueError | OSError | ImportError) and not isinstance(error, UnicodeError), repr(error)
    assert "\n" not in text.strip() and {":", ";"} & set(text) and len(text.split()) >= 3, text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_one_sentence(name, tmp_path):
    make, path, read = FORMATS[name]
    make(tmp_path / "files")
    read(shutil.copytree(tmp_path / "files", tmp_path / "valid"))
    for number in range(CASES):
        folder = shutil.copytree(tmp_path / "files", tmp_path / str(number))
        damage(folder / path, random.Random(f"{name} {number}"))
        try:
            read(folder)
        except AssertionError:
            raise
        except Exception as error:
            check_sentence(error)
        shutil.rmtree(folder)
