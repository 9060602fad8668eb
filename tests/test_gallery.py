"""The best, the median and the worst: selected by rule, found again on disk, drawn as they were scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from corpora import ytvis
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ttilib.episodes.benchmarks import draw_episodes, read_benchmark
from ttilib.episodes.clips import load_clip, synthetic_clip
from ttilib.episodes.episode import write_episodes
from ttilib.plots import gallery, overlays, style
from ttilib.results.metrics import METRICS, Metric, intersection_union
from ttilib.results.records import append_masks


def row(counts, method="TTI", episode="a", index=0, **more):
    return {"benchmark": "b", "shots": 1, "encoder": "e", "method": method, "fold": 0, "run": 0, "episode": episode,
            "index": index, "class_id": 1, "class_name": "cat", "frames": 4, "intersection": counts[0],
            "union": counts[1], "f_frames": [0.5], **more}  # fmt: skip


ROWS = [
    row((1, 2), episode="a"), row((9, 10), episode="b"), row((0, 0), episode="c", j=0.9), row((1, 10), episode="d"),
    row((3, 10), episode="e", j=0.1, f=0.2), row((10, 10), episode="f", method="RePRI"),
]  # fmt: skip


def test_best_median_and_worst(monkeypatch):
    def selected(rows, *names):
        return {name: r["episode"] for name, r in gallery.best_median_worst(rows, *names).items()}

    assert selected(ROWS, "TTI") == {"best": "b", "median": "e", "worst": "d"}  # without pixels there is no value
    assert selected(ROWS[::-1], "TTI") == selected(ROWS, "TTI")
    assert gallery.best_median_worst(ROWS, "TTI")["best"] is ROWS[1]
    assert selected(ROWS, "TTI", "J") == {"best": "c", "median": "e", "worst": "e"}
    assert set(selected(ROWS, "TTI", "J&F").values()) == {"e"}
    assert set(selected(pd.DataFrame(ROWS), "RePRI").values()) == {"f"}
    monkeypatch.setitem(METRICS, "error", Metric("error", larger_is_better=False))
    assert selected([{**r, "error": n} for n, r in enumerate(ROWS)], "TTI", "error")["best"] == "a"
    ties = [row((1, 2), episode="x", index=n) for n in (2, 0, 1)]
    assert [r["index"] for r in gallery.best_median_worst(ties, "TTI").values()] == [2, 1, 0]
    for method, metric in (("TTI", "VC_3"), ("tti", "mIoU")):
        with pytest.raises(ValueError, match=f"'{method}'.*'{metric}'.*RePRI, TTI"):
            gallery.best_median_worst(ROWS, method, metric)


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
    scored = row((i, u), episode=episode.name, index=1, key=episode.key)
    append_masks(tmp_path / "out" / "masks" / "r.jsonl", scored, masks)
    index = {
        "manifests": {"rows/r.jsonl": {"path": "episodes/x.json", "benchmark": "ytvis-v1", "size": list(SIZE)}},
        "masks": {"rows/r.jsonl": "masks/r.jsonl"},
    }
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
    for lacking in ("masks", "manifests"):
        with pytest.raises(ValueError, match=rf"rows/r\.jsonl.*{lacking.removesuffix('s')}"):
            gallery.recorded(scored, {**index, lacking: {}}, *where)


def drawn(items):
    with rc_context(style.STYLE):
        figure = Figure(figsize=(style.PAGE, gallery.height(items)), layout="constrained")
        FigureCanvasAgg(figure)
        gallery.gallery(figure, items)
        figure.canvas.draw()
    return figure


def test_a_row_of_frames_and_their_iou_below():
    clip = synthetic_clip(frames=9, shots=1, size=(41, 73))
    masks = clip.truth.clone()
    masks[4] = clip.truth[8] = masks[8] = False  # without foreground there is no value
    figure = drawn([("best: blob", clip, masks), ("worst: blob", clip, masks.numpy())])
    assert len(figure.axes) == 2 * 7
    support, *frames, line = figure.axes[:7]
    assert support.get_title(loc="left") == "best: blob"
    curve, marks = line.lines
    np.testing.assert_allclose(curve.get_ydata(), [100] * 4 + [0] + [100] * 3 + [np.nan], atol=1e-6)
    assert list(marks.get_xdata()) == [0, 2, 4, 6, 8]
    for ax, t in zip(frames, [0, 2, 4, 6, 8], strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), overlays.overlay(clip.query[t], masks[t]))
    mosaic = gallery.support_mosaic(synthetic_clip(shots=3, frames=1, size=(41, 73)))
    assert (mosaic[-5:, -5:] == 255).all() and (mosaic[:9, -9:] != 255).any()  # two columns, the fourth place empty
