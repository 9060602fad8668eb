"""Pixel counts by hand, DAVIS conventions by hand, and what must hold for any masks."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ttilib.results import metrics
from ttilib.results.metrics import boundary, boundary_f, iou, released_video_consistency, video_consistency

clips = arrays(bool, (4, 6, 7))
few = settings(max_examples=25)


def clip(*frames):
    """A clip from drawings: '#' is object, one string per frame, rows separated by spaces."""
    return np.array([[[pixel == "#" for pixel in row] for row in frame.split()] for frame in frames])


PREDICTED = clip("##. ...", ".#. ...", "... ...")
TRUTH = clip("#.. #..", ".## ...", "... ..#")


def test_pooled_iou_by_hand():
    intersection, union = metrics.intersection_union(PREDICTED, TRUTH)
    assert intersection.tolist() == [1, 1, 0] and union.tolist() == [3, 2, 1]
    assert iou(PREDICTED, TRUTH) == pytest.approx(2 / 6)  # one division at the end, no mean over frames
    valid = np.ones_like(TRUTH)
    valid[0, 0, 1] = valid[2, 1, 2] = False  # a false positive, a false negative
    assert iou(PREDICTED, TRUTH, valid) == pytest.approx(2 / 4)
    assert iou(*map(torch.from_numpy, (PREDICTED, TRUTH, valid))) == iou(PREDICTED, TRUTH, valid)
    assert metrics.pooled_iou([(1, 1, 10), (7, 3, 4), (1, 5, 10)]) == pytest.approx({1: 6 / 20, 7: 3 / 4})
    nothing = np.zeros((2, 3, 3), bool)
    assert iou(nothing, nothing) == iou(nothing[:0], nothing[:0]) == 0
    assert metrics.region_similarity(PREDICTED, TRUTH).tolist() == [1 / 3, 1 / 2, 0]
    assert metrics.region_similarity(nothing, nothing).tolist() == [1, 1]
    assert metrics.region_similarity(PREDICTED, TRUTH, valid).tolist() == [1 / 2, 1 / 2, 1]


def test_contour_lies_on_the_side_of_the_origin_and_not_along_the_image_border():
    square = clip("..... ..... ..##. ..##. .....")[0]
    assert np.array_equal(boundary(square), clip("..... .###. .#.#. .###. .....")[0])
    assert not boundary(np.ones((5, 5), bool)).any()
    half = np.broadcast_to(np.arange(6) >= 3, (4, 6))
    assert np.array_equal(boundary(half), np.tile(np.arange(6) == 2, (4, 1)))
    empty = square[None] & False  # no contour, as of a full mask: only J sees that
    assert boundary_f(empty, empty) == boundary_f(~empty, empty) == [1]
    assert boundary_f(empty, square[None]) == boundary_f(square[None], empty) == [0]


def test_contours_may_be_apart_by_the_bound_and_no_more():
    # 60 x 80 pixels: the diagonal is 100, so the default bound is ceil(0.8) = 1 pixel
    def half(start):
        return np.broadcast_to(np.arange(80) >= start, (1, 60, 80))

    for apart, expected in ((0, 1), (1, 1), (2, 0)):
        assert boundary_f(half(40 - apart), half(40)).tolist() == [expected]
        assert boundary_f(half(40 - apart), half(40), bound=2).tolist() == [1]
    assert boundary_f(half(38), half(40), bound=0.011).tolist() == [1]  # ceil(1.1) = 2 pixels


@few
@given(arrays(bool, (2, 9, 11)), arrays(bool, (2, 9, 11)), st.integers(1, 4))
def test_boundary_f_matches_all_pairs_of_contour_pixels(predicted, truth, bound):
    expected = []
    for ours, theirs in zip(map(boundary, predicted), map(boundary, truth), strict=True):
        a, b = np.argwhere(ours), np.argwhere(theirs)
        if len(a) and len(b):
            near = ((a[:, None] - b[None]) ** 2).sum(-1) <= bound**2
            p, r = near.any(1).mean(), near.any(0).mean()
            expected.append(2 * p * r / (p + r) if p + r else 0)
        else:
            expected.append(float(len(a) == len(b)))
    assert boundary_f(predicted, truth, bound=bound) == pytest.approx(np.array(expected))


OBJECT = clip("####", "####", "###.", "....", "####")
FOUND = clip("##..", "###.", ".###", "####", "#...")


def test_video_consistency_by_hand():
    # k=2: frames 01 common truth 4, found 2; frames 12: 3, found 2 (.##.); frames 23 and 34: no common truth
    assert video_consistency(FOUND, OBJECT, 2) == pytest.approx((2 / 4 + 2 / 3) / 2)
    assert video_consistency(FOUND, OBJECT, 3) == pytest.approx(1 / 3)  # frames 012: common prediction .#..
    for frames, k in ((5, 4), (2, 3)):  # the object is gone in frame 3; shorter than the window
        assert math.isnan(video_consistency(FOUND[:frames], OBJECT[:frames], k))
    # k=1 is the mean recall of the frames with an object
    assert video_consistency(FOUND, OBJECT, 1) == pytest.approx((2 / 4 + 3 / 4 + 2 / 3 + 1 / 4) / 4)
    valid = np.ones_like(OBJECT)
    valid[0, 0, 3] = False  # ignored in frame 0: left out of every window with frame 0
    assert video_consistency(FOUND, OBJECT, 2, valid) == pytest.approx((2 / 3 + 2 / 3) / 2)


@few
@given(clips, clips, st.integers(1, 4))
def test_video_consistency_properties(predicted, truth, k):
    truth[:, 2, 3] = True
    score = video_consistency(predicted, truth, k)
    assert 0 <= score <= 1 and video_consistency(predicted | truth, truth, k) == 1
    assert video_consistency(predicted & truth, truth, k) == score  # false positives are not seen
    assert video_consistency(predicted[::-1], truth[::-1], k) == pytest.approx(score)
    # with common truth everywhere, the released loop differs by the missing last window only
    if k < len(truth):
        released = released_video_consistency(predicted, truth, None, [7] * 4, k)[7]
        assert released == pytest.approx(video_consistency(predicted[:-1], truth[:-1], k))


def test_released_loop_by_hand():
    # k=2, five frames: windows 0, 1, 2; the third has no common truth and counts as zero
    videos = [0] * 5
    assert released_video_consistency(FOUND, OBJECT, None, videos, 2) == pytest.approx({0: (2 / 4 + 2 / 3 + 0) / 3})
    assert released_video_consistency(FOUND, OBJECT, None, videos, 5) == {0: 0}  # T = k: no window
    assert released_video_consistency(OBJECT, OBJECT, None, videos, 6) == {0: 0}
    # a second video gets the frames of the first
    perfect, empty = clip(*["##.."] * 4), clip(*["...."] * 3)
    masks, truth = np.concatenate([perfect, empty]), np.concatenate([perfect, clip(*["..##"] * 3)])
    videos = ["good"] * 4 + ["missed"] * 3
    assert released_video_consistency(masks, truth, None, videos, 2) == pytest.approx({"good": 1, "missed": 1})
    assert video_consistency(masks[4:], truth[4:], 2) == 0


def test_masks_that_move_with_the_scene_are_consistent_and_flicker_is_not():
    """A textured scene that slides by (3, 2) pixels per frame, and a square painted on it."""
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.integers(0, 256, (160, 240, 3)).astype(np.uint8), (0, 0), 2)
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX)
    square = np.zeros((160, 240), bool)
    square[50:90, 70:120] = True
    cut = [(slice(10 + 2 * t, 110 + 2 * t), slice(10 + 3 * t, 160 + 3 * t)) for t in range(4)]
    masks, frames = np.stack([square[c] for c in cut]), np.stack([scene[c] for c in cut])
    assert metrics.warped_consistency(masks, frames) > 0.99
    constant = np.repeat(masks[:1], 4, axis=0)
    lag = 47 * 38 / (2 * 50 * 40 - 47 * 38)  # lags by (3, 2) pixels: the overlap is 47 x 38 of 50 x 40 pixels
    assert metrics.warped_consistency(constant, frames) == pytest.approx(lag, abs=0.01)
    assert metrics.warped_consistency(constant, frames, masks & constant) == 1  # valid: where both are object
    time = np.arange(4)[:, None, None]
    assert metrics.warped_consistency(masks & (time % 2 == 0), frames) == 0
    assert metrics.warped_consistency(masks & False, frames) == 1  # empty masks stay empty
    assert metrics.warped_consistency(masks & (time >= 2), frames) == pytest.approx(2 / 3, abs=0.01)  # (1 + 0 + 1) / 3
