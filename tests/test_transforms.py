"""Frames land where the protocol says, masks find their way back, training variation stays a picture."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.data.augmentation import augment, flip
from ttilib.data.transforms import centred, denormalise, fit_centred, fit_static, normalise, static

sides = st.integers(8, 900)
canvases = st.tuples(st.integers(9, 500), st.integers(9, 500))


@pytest.mark.parametrize(
    ("frame", "canvas", "height", "width", "top", "left"),
    [
        ((480, 853), (417, 417), 234, 417, 91, 0),  # protocol, section 2
        ((720, 1280), (241, 425), 239, 425, 1, 0),  # protocol, section 2
        ((1280, 720), (241, 425), 241, 135, 0, 145),  # f = 241/1280, 135.56 wide; (425 - 135) / 2
        ((241, 425), (241, 425), 241, 425, 0, 0),
    ],
)
def test_centred_by_hand(frame, canvas, height, width, top, left):
    lies = centred(*frame, canvas)
    assert (lies.height, lies.width, lies.top, lies.left) == (height, width, top, left)


@pytest.mark.parametrize(
    ("frame", "canvas", "height", "width"),
    [
        ((480, 853), (417, 417), 232, 416),  # protocol, section 2: int(480 * 417 / 853) = 234, floored to 232
        ((853, 480), (417, 417), 416, 232),
        ((500, 500), (417, 417), 416, 416),
        ((241, 429), (121, 217), 120, 208),  # the height fills first: 121 x int(429 * 121 / 241) = 215
    ],
)
def test_static_by_hand(frame, canvas, height, width):
    lies = static(*frame, canvas)
    assert (lies.height, lies.width, lies.top, lies.left) == (height, width, 0, 0)


@settings(max_examples=200, deadline=None)
@given(height=sides, width=sides, canvas=canvases)
def test_centred_keeps_the_aspect_fills_a_side_and_shares_the_padding(height, width, canvas):
    lies = centred(height, width, canvas)
    factor = min(canvas[0] / height, canvas[1] / width)
    assert 0 <= factor * height - lies.height < 1 + 1e-9 or lies.height == 1
    assert 0 <= factor * width - lies.width < 1 + 1e-9 or lies.width == 1
    assert canvas[0] - lies.height <= 1 or canvas[1] - lies.width <= 1
    below, right = canvas[0] - lies.height - lies.top, canvas[1] - lies.width - lies.left
    assert 0 <= below - lies.top <= 1 and 0 <= right - lies.left <= 1


@settings(max_examples=200, deadline=None)
@given(height=sides, width=sides, canvas=canvases)
def test_static_is_cut_to_eights_and_stays_on_the_canvas(height, width, canvas):
    lies = static(height, width, canvas)
    assert lies.height % 8 == 0 or lies.height == 1
    assert lies.width % 8 == 0 or lies.width == 1
    assert lies.height <= canvas[0] and lies.width <= canvas[1]
    assert canvas[0] - lies.height < 8 or canvas[1] - lies.width < 8


def test_padding_is_what_was_asked_for_and_valid_is_exactly_the_frame():
    labels = np.full((20, 40), 3, dtype=np.uint8)
    canvas = fit_centred(labels, (41, 41), padding=255)
    lies = centred(20, 40, (41, 41))
    assert (canvas == 255).sum() == 41 * 41 - 20 * 41
    np.testing.assert_array_equal(canvas == 3, lies.valid())
    image = fit_static(np.full((20, 40, 3), 9, dtype=np.uint8), (41, 41))
    assert image.dtype == np.float32 and image.shape == (41, 41, 3)
    assert image[:16, :40].min() == image.max() == 9 and image[16:].max() == image[:, 40:].max() == 0


def test_pictures_are_not_rounded_and_labels_are_never_mixed():
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[:, 1] = 1
    wide = fit_centred(image, (4, 4))
    # pixel centres at -0.25, 0.25, 0.75, 1.25 of the original columns, held at the ends
    np.testing.assert_allclose(wide[0, :, 0], [0, 0.25, 0.75, 1])
    labels = np.random.default_rng(0).choice([0, 7, 255], (30, 50)).astype(np.uint8)
    assert set(np.unique(fit_centred(labels, (17, 33)))) <= {0, 7, 255}


def test_a_mask_travels_to_the_canvas_and_back():
    rows, columns = np.mgrid[:90, :160]
    mask = (rows - 40) ** 2 + (columns - 90) ** 2 < 30**2
    for rule in (centred, static):
        lies = rule(90, 160, (121, 217))
        there = lies.fit(mask.astype(np.uint8)).astype(bool)
        back = lies.back(there, (90, 160))
        assert (back & mask).sum() / (back | mask).sum() > 0.96


def test_normalise_by_hand_and_back():
    images = torch.full((2, 3, 4, 5), 0.5, dtype=torch.float64)
    expected = [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]
    np.testing.assert_allclose(normalise(images)[1, :, 2, 3], expected)
    torch.testing.assert_close(denormalise(normalise(images)), images)


def disc(height=120, width=200):
    rows, columns = np.mgrid[:height, :width]
    labels = ((rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 4) ** 2).astype(np.uint8)
    image = np.repeat((labels * 150 + 50)[..., None], 3, axis=-1).astype(np.uint8)
    return image, labels


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_variation_moves_picture_and_labels_together(seed):
    image, labels = disc()
    new, moved = augment(image, labels, np.random.default_rng(seed))
    assert new.shape == image.shape and new.dtype == np.float32
    assert set(np.unique(moved)) == {0, 1}
    # The disc is 150 grey values brighter than its ground: contrast and offset cannot hide it.
    assert ((new[..., 0] > 125) == (moved == 1)).mean() > 0.98
    # crops of at most 10% a side enlarge by at most 1.25 each way, the scale by 1.05; the least is 0.95
    assert 0.95**2 * 0.97 < moved.sum() / labels.sum() < (1.25 * 1.05) ** 2 * 1.03


def test_variation_is_a_function_of_the_generator():
    image, labels = disc()
    first, again, other = (augment(image, labels, np.random.default_rng(s))[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_flips_are_mirrors_and_all_four_occur():
    image, labels = (
        np.arange(36, dtype=np.uint8).reshape(3, 4, 3),
        np.arange(12, dtype=np.uint8).reshape(3, 4),
    )
    seen = {}
    for seed in range(40):
        new, moved = flip(image, labels, np.random.default_rng(seed))
        np.testing.assert_array_equal(new[..., 0], moved * 3)
        seen[moved.tobytes()] = moved
    assert {tuple(m[0]) for m in seen.values()} == {
        (0, 1, 2, 3),
        (3, 2, 1, 0),
        (8, 9, 10, 11),
        (11, 10, 9, 8),
    }
