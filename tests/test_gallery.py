"""The best, the median and the worst: selected by rule, found again on disk."""

import pytest
import torch
from corpora import ytvis
from rows import row

from ttilib.episodes.benchmarks import draw_episodes, read_benchmark
from ttilib.episodes.clips import load_clip
from ttilib.episodes.episode import write_episodes
from ttilib.plots import gallery
from ttilib.results.metrics import intersection_union
from ttilib.results.records import append_masks

ROWS = [
    *(row(counts=c, episode=e) for e, c in zip("abcde", ((1, 2), (9, 10), (0, 0), (1, 10), (3, 10)), strict=True)),
    row(counts=(10, 10), episode="f", method="RePRI"),
]


def test_best_median_and_worst():
    for rows in (ROWS, ROWS[::-1]):  # without pixels there is no value
        assert [r["episode"] for r in gallery.best_median_worst(rows, "TTI").values()] == ["b", "e", "d"]
    ties = [row(index=n) for n in (2, 0, 1)]
    assert [r["index"] for r in gallery.best_median_worst(ties, "TTI").values()] == [2, 1, 0]
    with pytest.raises(ValueError, match="'tti'.*RePRI, TTI"):
        gallery.best_median_worst(ROWS, "tti")


SIZE = (17, 33)


@pytest.fixture
def study(tmp_path):
    """A run folder with one scored episode of two videos, its masks, its manifest and its index."""
    root = ytvis(tmp_path / "data" / "ytvis", {"v1": [[1, 2]] * 3, "v2": [[1]] * 4, "v3": [[1, 3]] * 2}, 4).parent
    data = read_benchmark("ytvis-v1", 0, root)
    episodes = draw_episodes(data, 1)
    write_episodes(tmp_path / "out" / "episodes" / "x.json", episodes)
    episode = episodes[1]
    clip = load_clip(episode, data.query_root, SIZE, data.support_root)
    masks = clip.truth.roll(1, dims=2)
    i, u = (int(part.sum()) for part in intersection_union(masks, clip.truth, clip.query_valid))
    scored = row(counts=(i, u), episode=episode.name, index=1, key=episode.key)
    append_masks(tmp_path / "out" / "masks" / "r.jsonl", scored, masks)
    manifest = {"path": "episodes/x.json", "benchmark": "ytvis-v1", "size": list(SIZE)}
    index = {"manifests": {"rows/r.jsonl": manifest}, "masks": {"rows/r.jsonl": "masks/r.jsonl"}}
    return scored, index, ("rows/r.jsonl", tmp_path / "out", root), clip, masks


def test_frames_and_masks_of_a_row_are_found_again(study):
    scored, index, where, clip, masks = study
    found, predicted = gallery.recorded(scored, index, *where)
    assert found.name == clip.name and found.size == SIZE and 0 < scored["intersection"] < scored["union"]
    assert torch.equal(found.query, clip.query) and torch.equal(predicted, masks)
    for change, message in (
        ({"intersection": 1}, "the row 1 of"), ({"index": 0}, r"x\.json: episode 0"), ({"index": 99}, "episode 99"),
        ({"method": "RePRI"}, "no masks"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            gallery.recorded({**scored, **change}, index, *where)
