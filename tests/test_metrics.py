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

SHAPE = (4, 6, 7)
clips = arrays(bool, SHAPE)
quick = settings(max_examples=60, deadline=None)


def clip(*frames):
    """A clip from drawings: '#' is object, one string per frame, rows separated by spaces."""
    return np.array([[[pixel == "#" for pixel in row] for row in frame.split()] for frame in frames])


# ---- pooled counts -------------------------------------------------------------------------------------

PREDICTED = clip("##. ...", ".#. ...", "... ...")
TRUTH = clip("#.. #..", ".## ...", "... ..#")


def test_counts_by_hand():
    intersection, union = metrics.intersection_union(PREDICTED, TRUTH)
    assert intersection.tolist() == [1, 1, 0]
    assert union.tolist() == [3, 2, 1]
    assert intersection.dtype == np.int64


def test_pooled_scores_by_hand():
    # I = 2, U = 6, predicted 3, true 5: one division at the end, not a mean over frames (1/3 + 1/2 + 0) / 3
    assert metrics.iou(PREDICTED, TRUTH) == pytest.approx(2 / 6)


def test_pixels_that_do_not_count_are_in_neither():
    valid = np.ones_like(TRUTH)
    valid[0, 0, 1] = False  # a false alarm
    valid[2, 1, 2] = False  # a miss
    assert metrics.iou(PREDICTED, TRUTH, valid) == pytest.approx(2 / 4)


def test_nothing_at_all_scores_zero_when_pooled():
    nothing = np.zeros((2, 3, 3), bool)
    assert metrics.iou(nothing, nothing) == 0
    assert metrics.iou(nothing[:0], nothing[:0]) == 0


def test_torch_masks_score_the_same_and_stay_unchanged():
    predicted, truth = torch.from_numpy(PREDICTED.copy()), torch.from_numpy(TRUTH.copy())
    valid = torch.ones(PREDICTED.shape, dtype=torch.bool)
    assert metrics.iou(predicted, truth, valid) == metrics.iou(PREDICTED, TRUTH)
    assert (metrics.boundary_f(predicted, truth) == metrics.boundary_f(PREDICTED, TRUTH)).all()
    kept = metrics.video_consistency(predicted, truth, 1)
    assert (
        kept == metrics.video_consistency(PREDICTED, TRUTH, 1) == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    )
    assert np.array_equal(predicted.numpy(), PREDICTED) and np.array_equal(truth.numpy(), TRUTH)
    assert isinstance(metrics.iou(predicted, truth), float)


@pytest.mark.parametrize(
    "masks", [np.zeros((2, 3, 4), bool), np.zeros((3, 2, 3), np.uint8), np.zeros((2, 3), bool)], ids=str
)
def test_masks_that_do_not_fit_the_truth_are_refused(masks):
    # a type checker, where one is installed, refuses before the function does
    with pytest.raises(Exception, match=r"\[T, H, W\]|[Tt]ype-check"):
        metrics.iou(masks, TRUTH)


@quick
@given(clips, clips, clips)
def test_pooled_scores_are_bounded_and_consistent(predicted, truth, valid):
    iou = metrics.iou(predicted, truth, valid)
    assert 0 <= iou <= 1
    assert iou == metrics.iou(truth, predicted, valid)
    order = [2, 0, 3, 1]
    assert iou == metrics.iou(predicted[order], truth[order], valid[order])
    outside = predicted ^ ~valid  # whatever is said where nothing counts
    assert iou == metrics.iou(outside, truth, valid)


@quick
@given(clips)
def test_the_truth_itself_is_perfect(truth):
    truth[0, 0, 0] = True
    assert metrics.iou(truth, truth) == pytest.approx(1, abs=1e-9)
    assert metrics.region_similarity(truth, truth).min() == metrics.boundary_f(truth, truth).min() == 1


def test_counts_are_summed_within_a_class():
    assert metrics.pooled_iou([(1, 1, 10), (7, 3, 4), (1, 5, 10)]) == pytest.approx({1: 6 / 20, 7: 3 / 4})
    with pytest.raises(ValueError, match="no episode"):
        metrics.pooled_iou([])


@quick
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50), st.integers(0, 50)), min_size=1))
def test_order_and_splitting_of_counts_do_not_matter(counts):
    counts = [(key, i, i + more) for key, i, more in counts]
    halves = [(key, i // 2, u // 2) for key, i, u in counts]
    halves += [(key, i - i // 2, u - u // 2) for key, i, u in counts]
    assert metrics.pooled_iou(counts) == metrics.pooled_iou(halves[::-1])


def test_one_class_in_a_run_is_the_pooled_score_of_the_long_clip():
    counts = [(3, int(i), int(u)) for i, u in zip(*metrics.intersection_union(PREDICTED, TRUTH), strict=True)]
    assert metrics.pooled_iou(counts)[3] == metrics.iou(PREDICTED, TRUTH)


# ---- per frame, as DAVIS defines them ------------------------------------------------------------------


def test_region_similarity_by_hand():
    predicted = np.concatenate([PREDICTED, clip("... ...")])
    truth = np.concatenate([TRUTH, clip("... ...")])
    assert metrics.region_similarity(predicted, truth).tolist() == [1 / 3, 1 / 2, 0, 1]


def test_contour_lies_on_the_side_of_the_origin():
    square = clip("..... ..... ..##. ..##. .....")[0]
    drawn = clip("..... .###. .#.#. .###. .....")[0]
    assert np.array_equal(metrics.boundary(square), drawn)


def test_an_object_cut_by_the_image_has_no_contour_there():
    assert not metrics.boundary(np.ones((5, 5), bool)).any()
    half = np.zeros((4, 6), bool)
    half[:, 3:] = True
    assert np.array_equal(metrics.boundary(half), np.tile(np.arange(6) == 2, (4, 1)))


def test_contours_may_be_apart_by_the_bound_and_no_more():
    # 60 x 80 pixels: the diagonal is 100, so the default bound is ceil(0.8) = 1 pixel
    def half(start):
        return np.broadcast_to(np.arange(80) >= start, (1, 60, 80))

    for apart, expected in ((0, 1), (1, 1), (2, 0)):
        assert metrics.boundary_f(half(40 - apart), half(40)).tolist() == [expected]
        assert metrics.boundary_f(half(40 - apart), half(40), bound=2).tolist() == [1]
    assert metrics.boundary_f(half(38), half(40), bound=0.011).tolist() == [1]  # ceil(1.1) = 2 pixels


def test_the_tolerance_is_a_disk_not_a_square():
    truth, predicted = np.zeros((2, 1, 9, 9), bool)
    truth[0, :3, :3] = True  # contours around the corner (2, 2) and around (4, 4)
    predicted[0, :5, :5] = True
    # nearest corner pixels are 2√2 = 2.83 apart; sides 2 apart
    ours = metrics.boundary(predicted[0])
    theirs = metrics.boundary(truth[0])
    distance = np.linalg.norm(np.argwhere(ours)[:, None] - np.argwhere(theirs)[None], axis=-1)
    right, found = (distance.min(axis=1) <= 2).mean(), (distance.min(axis=0) <= 2).mean()
    assert 0 < right < 1
    assert metrics.boundary_f(predicted, truth, bound=2)[0] == pytest.approx(
        2 * right * found / (right + found)
    )


@quick
@given(arrays(bool, (2, 9, 11)), arrays(bool, (2, 9, 11)), st.integers(1, 4))
def test_boundary_f_matches_all_pairs_of_contour_pixels(predicted, truth, bound):
    expected = []
    for ours, theirs in zip(map(metrics.boundary, predicted), map(metrics.boundary, truth), strict=True):
        a, b = np.argwhere(ours), np.argwhere(theirs)
        if len(a) and len(b):
            near = ((a[:, None] - b[None]) ** 2).sum(-1) <= bound**2
            p, r = near.any(1).mean(), near.any(0).mean()
            expected.append(2 * p * r / (p + r) if p + r else 0)
        else:
            expected.append(float(len(a) == len(b)))
    assert metrics.boundary_f(predicted, truth, bound=bound) == pytest.approx(np.array(expected))


def test_empty_contours_follow_davis():
    empty, square = clip("..... ..... ..... ....."), clip("..... .##.. .##.. .....")
    full = ~empty
    assert metrics.boundary_f(empty, empty).tolist() == [1]
    assert metrics.boundary_f(empty, square).tolist() == metrics.boundary_f(square, empty).tolist() == [0]
    assert metrics.boundary_f(full, empty).tolist() == [1]  # no contour either: only J sees this
    assert metrics.region_similarity(full, empty).tolist() == [0]


@quick
@given(clips, clips)
def test_per_frame_scores_are_bounded_symmetric_and_blind_to_transposition(predicted, truth):
    for score in (metrics.region_similarity, metrics.boundary_f):
        values = score(predicted, truth)
        assert values.shape == SHAPE[:1] and ((values >= 0) & (values <= 1)).all()
        assert np.array_equal(values, score(truth, predicted))
        turned = score(predicted.transpose(0, 2, 1), truth.transpose(0, 2, 1))
        assert np.allclose(values, turned)
        assert np.array_equal(values[::-1], score(predicted[::-1], truth[::-1]))


def test_contour_moves_with_the_object():
    truth = np.zeros((1, 40, 50), bool)
    truth[0, 10:20, 12:30] = True
    predicted = cv2.dilate(truth[0].astype(np.uint8), np.ones((3, 3), np.uint8))[None] > 0
    predicted[0, 5, 5] = True
    moved = [np.roll(m, (7, 9), axis=(1, 2)) for m in (predicted, truth)]
    assert 0 < metrics.boundary_f(predicted, truth)[0] < 1
    assert metrics.boundary_f(*moved) == pytest.approx(metrics.boundary_f(predicted, truth))


def test_valid_takes_pixels_out_of_j_and_f():
    truth = clip("..... .##.. .##.. .....")
    predicted = truth.copy()
    predicted[0, 3, 4] = True
    valid = ~(predicted ^ truth)
    assert metrics.region_similarity(predicted, truth) == pytest.approx([4 / 5])
    assert metrics.region_similarity(predicted, truth, valid) == metrics.boundary_f(predicted, truth, valid) == [1]


# ---- video consistency ---------------------------------------------------------------------------------

STILL = clip("####", "####", "###.", "....", "####")
FOUND = clip("##..", "###.", ".###", "####", "#...")


def test_video_consistency_by_hand():
    # k=2: frames 01 common truth 4, kept 2; frames 12: 3, kept 2 (.##.); frames 23 and 34: no common truth
    assert metrics.video_consistency(FOUND, STILL, 2) == pytest.approx((2 / 4 + 2 / 3) / 2)
    # k=3: frames 012: common truth 3, common prediction .#.. : 1
    assert metrics.video_consistency(FOUND, STILL, 3) == pytest.approx(1 / 3)
    # k=1 is the mean recall of the frames with an object
    assert metrics.video_consistency(FOUND, STILL, 1) == pytest.approx(
        (2 / 4 + 3 / 4 + 2 / 3 + 1 / 4) / 4
    )


def test_video_consistency_needs_a_window_with_common_truth():
    assert math.isnan(metrics.video_consistency(FOUND, STILL, 4))  # the object is gone in frame 3
    assert math.isnan(metrics.video_consistency(FOUND[:2], STILL[:2], 3))  # shorter than the window
    assert metrics.video_consistency(FOUND[:2], STILL[:2], 2) == pytest.approx(
        2 / 4
    )  # exactly one window
    with pytest.raises(ValueError, match="window"):
        metrics.video_consistency(FOUND, STILL, 0)


def test_video_consistency_skips_what_does_not_count():
    valid = np.ones_like(STILL)
    valid[0, 0, 3] = False  # out of frame 0 means out of every window with frame 0
    assert metrics.video_consistency(FOUND, STILL, 2, valid) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_flicker_is_seen_although_the_overlap_is_the_same():
    truth = clip(*["####"] * 4)
    steady, flicker = clip(*["##.."] * 4), clip("##..", "..##", "##..", "..##")
    assert metrics.iou(steady, truth) == metrics.iou(flicker, truth)
    assert metrics.video_consistency(steady, truth, 2) == 0.5
    assert metrics.video_consistency(flicker, truth, 2) == 0


@quick
@given(clips, clips, st.integers(1, 4))
def test_video_consistency_properties(predicted, truth, k):
    truth[:, 2, 3] = True
    score = metrics.video_consistency(predicted, truth, k)
    assert 0 <= score <= 1
    assert metrics.video_consistency(truth, truth, k) == 1
    assert metrics.video_consistency(predicted | truth, truth, k) == 1
    assert metrics.video_consistency(predicted & truth, truth, k) == score  # false alarms are not seen
    assert metrics.video_consistency(predicted[::-1], truth[::-1], k) == pytest.approx(score)
    flipped = metrics.video_consistency(predicted[:, :, ::-1], truth[:, :, ::-1], k)
    assert flipped == pytest.approx(score)
    assert (
        metrics.video_consistency(predicted | predicted[:1], truth, k) >= score - 1e-12
    )  # more is no worse


def test_released_loop_by_hand():
    videos = [0] * 5
    # k=2, five frames: windows 0, 1, 2; the third has no common truth and counts as zero
    released = metrics.released_video_consistency(FOUND, STILL, None, videos, 2)
    assert released == pytest.approx({0: (2 / 4 + 2 / 3 + 0) / 3})
    assert metrics.released_video_consistency(FOUND, STILL, None, videos, 5) == {0: 0}  # T = k: no window
    assert metrics.released_video_consistency(STILL, STILL, None, videos, 6) == {0: 0}


def test_released_loop_gives_a_second_video_the_frames_of_the_first():
    perfect, empty = clip(*["##.."] * 4), clip(*["...."] * 3)
    masks, truth = np.concatenate([perfect, empty]), np.concatenate([perfect, clip(*["..##"] * 3)])
    videos = ["good"] * 4 + ["missed"] * 3
    released = metrics.released_video_consistency(masks, truth, None, videos, 2)
    assert released == pytest.approx({"good": 1, "missed": 1})
    assert metrics.video_consistency(masks[4:], truth[4:], 2) == 0


def test_released_loop_takes_uncounted_pixels_as_background():
    valid = np.ones_like(STILL)
    valid[0, 0, 3] = False
    released = metrics.released_video_consistency(FOUND, STILL, valid, ["v"] * 5, 2)
    assert released == pytest.approx({"v": (2 / 3 + 2 / 3 + 0) / 3})
    with pytest.raises(ValueError, match="4 of 5"):
        metrics.released_video_consistency(FOUND, STILL, None, ["v"] * 4, 2)


@quick
@given(clips, clips, st.integers(1, 3))
def test_released_loop_is_the_definition_without_the_last_window(predicted, truth, k):
    truth[:, 2, 3] = True  # with common truth everywhere, only the missing window is left
    released = metrics.released_video_consistency(predicted, truth, None, [7] * 4, k)[7]
    assert released == pytest.approx(metrics.video_consistency(predicted[:-1], truth[:-1], k))


@pytest.fixture(scope="module")
def moving():
    """A textured scene that slides by (3, 2) pixels per frame, and a square painted on it."""
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.integers(0, 256, (160, 240, 3)).astype(np.uint8), (0, 0), 2)
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX)
    square = np.zeros((160, 240), bool)
    square[50:90, 70:120] = True
    cut = [(slice(10 + 2 * t, 110 + 2 * t), slice(10 + 3 * t, 160 + 3 * t)) for t in range(4)]
    return np.stack([square[c] for c in cut]), np.stack([scene[c] for c in cut])


def test_masks_that_move_with_the_scene_are_consistent(moving):
    masks, frames = moving
    assert metrics.warped_consistency(masks, frames) > 0.99
    still = np.repeat(masks[:1], 4, axis=0)
    # the square lags by (3, 2) pixels: the overlap is 47 x 38 of 50 x 40 pixels
    lag = 47 * 38 / (2 * 50 * 40 - 47 * 38)
    assert metrics.warped_consistency(still, frames) == pytest.approx(lag, abs=0.01)


def test_masks_that_come_and_go_are_not(moving):
    masks, frames = moving
    blinking = masks & (np.arange(4) % 2 == 0)[:, None, None]
    assert metrics.warped_consistency(blinking, frames) == 0
    assert metrics.warped_consistency(masks & False, frames) == 1  # nothing stays nothing
    once = masks & (np.arange(4) >= 2)[:, None, None]
    assert metrics.warped_consistency(once, frames) == pytest.approx(2 / 3, abs=0.01)  # (1 + 0 + 1) / 3


def test_warped_consistency_takes_tensors_and_valid(moving):
    masks, frames = moving
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    still = np.repeat(masks[:1], 4, axis=0)
    score = metrics.warped_consistency(torch.from_numpy(still), tensor)
    assert score == pytest.approx(metrics.warped_consistency(still, frames), abs=1e-6)
    assert metrics.warped_consistency(still, frames, masks & still) == 1  # where they agree, they agree


def test_warped_consistency_without_a_pair_or_with_wrong_frames(moving):
    masks, frames = moving
    assert math.isnan(metrics.warped_consistency(masks[:1], frames[:1]))
    assert math.isnan(metrics.warped_consistency(masks, frames, masks & False))
    with pytest.raises(Exception, match=r"\[T, H, W\]|[Tt]ype-check"):
        metrics.warped_consistency(masks[:3], frames)
    with pytest.raises(ValueError, match="at least 24"):
        metrics.warped_consistency(masks[:, :20, :20], frames[:, :20, :20])
