"""The best, the median and the worst: chosen by rule, found again on disk, drawn as they were scored."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
import torch
from corpora import ytvis
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ttilib.episodes.benchmarks import draw_episodes, read_benchmark
from ttilib.episodes.clips import load_clip, synthetic_clip
from ttilib.episodes.episode import write_episodes
from ttilib.plots import gallery, overlays, style
from ttilib.results.metrics import intersection_union
from ttilib.results.records import append_masks


def row(counts, method="TTI", episode="a", index=0, **more):
    return {"method": method, "episode": episode, "index": index, "run": 0,
            "intersection": counts[0], "union": counts[1], **more}  # fmt: skip


ROWS = [
    row((1, 2), episode="a"), row((9, 10), episode="b"), row((0, 0), episode="c", j=0.9), row((1, 10), episode="d"),
    row((3, 10), episode="e", j=0.1), row((10, 10), episode="f", method="RePRI"),
]  # fmt: skip


def test_best_median_and_worst_by_their_own_overlap():
    found = gallery.best_median_worst(ROWS, "TTI")
    assert {which: r["episode"] for which, r in found.items()} == {"best": "b", "median": "e", "worst": "d"}
    assert list(found) == ["best", "median", "worst"]


def test_another_figure_and_rows_without_it():
    found = gallery.best_median_worst(ROWS, "TTI", "j")
    assert [r["episode"] for r in found.values()] == ["c", "e", "e"]
    alone = gallery.best_median_worst(pd.DataFrame(ROWS), "RePRI")
    assert {r["episode"] for r in alone.values()} == {"f"}


@pytest.mark.parametrize(("method", "figure"), [("TTI", "vc_3"), ("tti", "iou")])
def test_a_method_without_rows_is_answered_with_those_there_are(method, figure):
    with pytest.raises(ValueError, match=f"no row of '{method}' has a figure '{figure}'; .*there are: RePRI, TTI"):
        gallery.best_median_worst(ROWS, method, figure)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_the_rows(shares, rng: random.Random):
    rows = [row((share, 3), episode=f"e{n}", index=n) for n, share in enumerate(shares)]
    shuffled = rng.sample(rows, len(rows))
    found = gallery.best_median_worst(rows, "TTI")
    assert gallery.best_median_worst(shuffled, "TTI") == found
    assert found["best"]["intersection"] == max(shares) and found["worst"]["intersection"] == min(shares)
    assert found["median"]["intersection"] == sorted(shares)[(len(shares) - 1) // 2]


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
    scored = row((i, u), episode=episode.name, index=1, fold=0, key=episode.key)
    append_masks(tmp_path / "out" / "masks" / "r.jsonl", scored, masks)
    index = {
        "manifests": {"rows/r.jsonl": {"path": "episodes/x.json", "benchmark": "ytvis-v1", "size": list(SIZE)}},
        "masks": {"rows/r.jsonl": "masks/r.jsonl"},
    }
    return scored, index, "rows/r.jsonl", tmp_path / "out", root, clip, masks


def test_pixels_and_masks_of_a_row_are_found_again(study):
    scored, index, file, out, root, clip, masks = study
    found, predicted = gallery.recorded(scored, index, file, out, root)
    assert found.name == clip.name and found.size == SIZE and 0 < scored["intersection"] < scored["union"]
    assert torch.equal(found.query, clip.query) and torch.equal(predicted, masks)


def test_what_does_not_belong_together_is_refused(study):
    scored, index, file, out, root, *_ = study
    with pytest.raises(ValueError, match=r"the masks of .* give \d+ of \d+ pixels, the row 1 of "):
        gallery.recorded({**scored, "intersection": 1}, index, file, out, root)
    with pytest.raises(ValueError, match=r"x\.json: episode 0 is not ytvis/f0/kind_1/"):
        gallery.recorded({**scored, "index": 0}, index, file, out, root)
    with pytest.raises(ValueError, match=r"x\.json: episode 99 is not"):
        gallery.recorded({**scored, "index": 99}, index, file, out, root)
    with pytest.raises(ValueError, match=r"rows/r\.jsonl: the index names no masks for it"):
        gallery.recorded(scored, {**index, "masks": {}}, file, out, root)
    with pytest.raises(ValueError, match="names no manifest"):
        gallery.recorded(scored, {"masks": index["masks"]}, file, out, root)
    with pytest.raises(ValueError, match="no masks of episode"):
        gallery.recorded({**scored, "method": "RePRI"}, index, file, out, root)


def drawn(items):
    with style.paper_style():
        figure = Figure(figsize=(style.PAGE, gallery.height(items)), layout="constrained")
        FigureCanvasAgg(figure)
        gallery.gallery(figure, items)
        figure.canvas.draw()
    return figure


def test_a_row_of_pictures_and_the_overlap_below_them():
    clip = synthetic_clip(frames=9, shots=1, size=(41, 73))
    masks = clip.truth.clone()
    masks[4] = False
    figure = drawn([("best: blob", clip, masks), ("worst: blob", clip, masks.numpy())])
    assert len(figure.axes) == 2 * 7
    support, *frames, line = figure.axes[:7]
    assert support.get_title(loc="left") == "best: blob"
    assert len(frames) == 5 and all(ax.collections for ax in frames)  # each with the line of the truth
    curve, marks = line.lines
    np.testing.assert_allclose(curve.get_ydata(), [100] * 4 + [0] + [100] * 4, atol=1e-6)
    assert list(marks.get_xdata()) == [0, 2, 4, 6, 8] and line.get_ylim() == (0, 100)
    for ax, t in zip(frames, [0, 2, 4, 6, 8], strict=True):  # a dot lies below the middle of its image
        box, x = ax.get_window_extent(), line.transData.transform((t, 0))[0]
        assert abs((box.x0 + box.x1) / 2 - x) < 0.1 * box.width
        shown = overlays.overlay(clip.query[t], masks[t], zoom=overlays.zoom_for(clip.query[t]))
        np.testing.assert_array_equal(ax.images[0].get_array(), shown)
        assert ax.get_xlim() == (-0.5, 72.5) and ax.get_ylim() == (40.5, -0.5)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["labelled support", "predicted", "truth"]


def test_pictures_of_a_gallery_are_an_inch_wide():
    clip = synthetic_clip(frames=5, size=(121, 217))
    figure = drawn([("", clip, clip.truth)] * 2)
    for ax in figure.axes[1:6]:
        assert ax.get_window_extent().width / figure.dpi > 0.9


def test_short_clips_empty_frames_and_unknown_truth():
    clip = synthetic_clip(frames=2, size=(41, 73))
    clip.truth[1] = False
    masks = torch.zeros_like(clip.truth)
    figure = drawn([("short", clip, masks)])
    *frames, line = figure.axes[1:]
    assert len(frames) == 2 and not frames[1].collections
    assert line.lines[0].get_ydata()[0] == 0 and np.isnan(line.lines[0].get_ydata()[1])  # nothing to find: a gap
    one = synthetic_clip(frames=1, size=(41, 73))
    assert len(drawn([("one", one, one.truth)]).axes) == 3
    unknown = type(clip)(**{**vars(clip), "truth": None})
    assert len(drawn([("own", unknown, masks)]).axes) == 3
    with pytest.raises(ValueError, match="no episode to show"):
        gallery.gallery(Figure(), [])


@pytest.mark.parametrize(("shots", "grid"), [(1, (1, 1)), (2, (2, 1)), (5, (3, 2)), (7, (3, 3))])
def test_the_support_is_one_picture_with_every_label_in_it(shots, grid):
    clip = synthetic_clip(shots=shots, frames=1, size=(41, 73))
    mosaic = gallery.support_mosaic(clip)
    zoom = max(1, round(overlays.SHARP // grid[1] / 73))
    gap = max(2, 73 * zoom // 40)
    assert mosaic.shape == (grid[0] * (41 * zoom + gap) - gap, grid[1] * (73 * zoom + gap) - gap, 3)
    edge = (np.array(to_rgb(gallery.LABEL)) * 255).round()
    for place in range(shots):
        top, left = place // grid[1] * (41 * zoom + gap), place % grid[1] * (73 * zoom + gap)
        tile = mosaic[top : top + 41 * zoom, left : left + 73 * zoom]
        assert (np.abs(tile.astype(int) - edge).max(axis=-1) <= 1).sum() > 10  # the edge of its label
    empty = grid[0] * grid[1] - shots
    assert (mosaic[-5:, -5:] == 255).all() == (empty > 0)
