"""Frames land where the protocol says, every pixel by the released rule, and masks find their way back."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2
from torchvision.tv_tensors import Image, Mask

from ttilib.datasets.transforms import (
    MEAN,
    STD,
    Placement,
    denormalise,
    image_tensor,
    letterbox,
    mask_tensor,
    normalise,
    resize_top_left,
    to_numpy_hwc,
)

sides = st.integers(8, 900)
canvases = st.tuples(st.integers(9, 500), st.integers(9, 500))
CASES = [((480, 853), (417, 417)), ((720, 1280), (241, 425)), ((1280, 720), (241, 425)), ((375, 500), (417, 417))]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels_of(height, width, seed=0):
    return np.random.default_rng(seed).choice([0, 1, 7, 255], (height, width)).astype(np.uint8)


@pytest.mark.parametrize(
    ("frame", "canvas", "height", "width", "top", "left"),
    [
        ((480, 853), (417, 417), 234, 417, 91, 0),  # protocol, section 2
        ((720, 1280), (241, 425), 239, 425, 1, 0),  # protocol, section 2
        ((1280, 720), (241, 425), 241, 135, 0, 145),  # f = 241/1280, 135.56 wide; (425 - 135) / 2
        ((853, 480), (417, 417), 417, 234, 0, 91),
        ((1920, 1080), (241, 425), 241, 135, 0, 145),
        ((360, 640), (241, 425), 239, 425, 1, 0),
        ((241, 425), (241, 425), 241, 425, 0, 0),
    ],
)
def test_centred_by_hand(frame, canvas, height, width, top, left):
    lies = letterbox(*frame, canvas)
    assert (lies.height, lies.width, lies.top, lies.left) == (height, width, top, left)


@pytest.mark.parametrize(
    ("frame", "canvas", "height", "width"),
    [
        ((480, 853), (417, 417), 232, 416),  # protocol, section 2: int(480 * 417 / 853) = 234, floored to 232
        ((853, 480), (417, 417), 416, 232),
        ((500, 375), (417, 417), 416, 312),  # 375 * .834 = 312.75
        ((500, 500), (417, 417), 416, 416),
        ((241, 429), (121, 217), 120, 208),  # the height fills first: 121 x int(429 * 121 / 241) = 215
    ],
)
def test_static_by_hand(frame, canvas, height, width):
    lies = resize_top_left(*frame, canvas)
    assert (lies.height, lies.width, lies.top, lies.left) == (height, width, 0, 0)


def test_static_is_the_released_expression_for_all_sizes():
    # 440 x 1529 on 417: 440 (417 / 1529) = 119.99..., but 440 * 417 / 1529 = 120 in float64, eight pixels more.
    assert resize_top_left(440, 1529, (417, 417)).height == 112 and resize_top_left(1529, 440, (417, 417)).width == 112
    assert resize_top_left(23, 23, (416, 416)).width == 408
    others = np.arange(1, 2001)
    for longest in range(1, 2001):
        released = (others[:longest] * (417 * 1.0 / longest)).astype(int) // 8 * 8
        released[-1] = 416  # the longest side itself
        # Ours does not fall from one length to the next either, so it is enough to look where a step is.
        steps = np.flatnonzero(np.diff(released))
        for length in {1, *(steps + 1).tolist(), *(steps + 2).tolist(), longest}:
            lies = resize_top_left(longest, length, (417, 417))
            assert (lies.height, lies.width) == (416, max(int(released[length - 1]), 1)), (longest, length)
    for longest, length in ((1529, 880), (2000, 1), (853, 480), (1280, 720), (1999, 1998)):
        standing, lying = resize_top_left(longest, length, (417, 417)), resize_top_left(length, longest, (417, 417))
        assert (standing.height, standing.width) == (lying.width, lying.height)


@settings(max_examples=200, deadline=None)
@given(height=sides, width=sides, canvas=canvases)
def test_centred_keeps_the_aspect_fills_a_side_and_shares_the_padding(height, width, canvas):
    lies = letterbox(height, width, canvas)
    factor = min(canvas[0] / height, canvas[1] / width)
    assert 0 <= factor * height - lies.height < 1 + 1e-9 or lies.height == 1
    assert 0 <= factor * width - lies.width < 1 + 1e-9 or lies.width == 1
    assert canvas[0] - lies.height <= 1 or canvas[1] - lies.width <= 1
    below, right = canvas[0] - lies.height - lies.top, canvas[1] - lies.width - lies.left
    assert 0 <= below - lies.top <= 1 and 0 <= right - lies.left <= 1


@settings(max_examples=200, deadline=None)
@given(height=sides, width=sides, canvas=canvases)
def test_static_is_cut_to_eights_and_stays_on_the_canvas(height, width, canvas):
    lies = resize_top_left(height, width, canvas)
    assert lies.height % 8 == 0 or lies.height == 1
    assert lies.width % 8 == 0 or lies.width == 1
    assert lies.height <= canvas[0] and lies.width <= canvas[1]
    assert canvas[0] - lies.height < 8 or canvas[1] - lies.width < 8


@pytest.mark.parametrize(("frame", "canvas"), CASES)
@pytest.mark.parametrize("rule", [letterbox, resize_top_left])
def test_the_canvas_is_the_released_one_to_the_bit(rule, frame, canvas):
    """Scaled by OpenCV's bilinear rule in float32 and its nearest rule on labels; zeros, and 255 or 0, around."""
    picture, labels = noise(*frame), labels_of(*frame)
    lies = rule(*frame, canvas)
    for padding in (0, 255):
        expected, known = np.zeros((*canvas, 3), np.float32), np.full(canvas, padding, np.uint8)
        size = (lies.width, lies.height)
        rows, columns = slice(lies.top, lies.top + lies.height), slice(lies.left, lies.left + lies.width)
        expected[rows, columns] = cv2.resize(np.float32(picture), size, interpolation=cv2.INTER_LINEAR)
        known[rows, columns] = cv2.resize(np.float32(labels), size, interpolation=cv2.INTER_NEAREST)
        image, mask = lies.fit(image_tensor(picture)), lies.fit(mask_tensor(labels), padding)
        assert type(image) is Image and type(mask) is Mask
        assert image.dtype == torch.float32 and mask.dtype == torch.uint8
        np.testing.assert_array_equal(image.numpy(), expected.transpose(2, 0, 1))
        np.testing.assert_array_equal(mask.numpy(), known)
    inside = np.zeros(canvas, dtype=bool)
    inside[lies.inside] = True
    np.testing.assert_array_equal(inside, rule(*frame, canvas).fit(mask_tensor(labels * 0), 1).numpy() == 0)


def test_padding_by_hand():
    white, ones = np.full((480, 853, 3), 9, np.uint8), np.full((480, 853), 3, np.uint8)
    lies = resize_top_left(480, 853, (417, 417))
    image, mask = lies.fit(image_tensor(white)).numpy(), lies.fit(mask_tensor(ones), 255).numpy()
    assert (image[:, :232, :416] == 9).all() and not image[:, 232:].any() and not image[:, :, 416:].any()
    assert (mask[:232, :416] == 3).all() and (mask == 255).sum() == 417 * 417 - 232 * 416
    lies = letterbox(480, 853, (417, 417))
    image, mask = lies.fit(image_tensor(white)).numpy(), lies.fit(mask_tensor(ones)).numpy()
    assert (image[:, 91:325] == 9).all() and image.sum() == 9 * 3 * 234 * 417
    assert (mask[91:325] == 3).all() and not mask[:91].any() and not mask[325:].any()
    tall = letterbox(1280, 720, (241, 425)).fit(mask_tensor(np.full((1280, 720), 255, np.uint8))).numpy()
    assert (tall[:, 145:280] == 255).all() and not tall[:, :145].any() and not tall[:, 280:].any()


def test_bilinear_by_hand():
    picture = np.zeros((2, 2, 3), dtype=np.uint8)
    picture[0, 1], picture[1, 0] = 1, 4
    wide = letterbox(2, 2, (4, 4)).fit(image_tensor(picture))
    # centres of the new pixels lie at -0.25, 0.25, 0.75, 1.25 of the old ones, and are held at the ends
    np.testing.assert_allclose(wide[0, 0], [0, 0.25, 0.75, 1])
    np.testing.assert_allclose(wide[2, :, 0], [0, 1, 3, 4])
    np.testing.assert_allclose(wide[1, 1, 1], 0.75 * 0.25 * 1 + 0.25 * 0.75 * 4)
    small = letterbox(1, 8, (1, 2)).fit(image_tensor(np.arange(0, 80, 10, np.uint8).reshape(1, 8, 1).repeat(3, 2)))
    np.testing.assert_allclose(small[0, 0], [15, 55])  # (10 + 20) / 2: two of the four pixels, no antialiasing


def test_nearest_by_hand():
    labels = np.array([[0, 1, 7, 255, 3]], dtype=np.uint8)
    lies = letterbox(1, 5, (1, 3))
    assert lies.fit(mask_tensor(labels)).tolist() == [[0, 1, 255]]  # pixels floor(0), floor(1.67), floor(3.33)
    wide = resize_top_left(5, 5, (8, 8)).fit(mask_tensor(labels.repeat(5, 0)))
    assert wide[0].tolist() == [0, 0, 1, 1, 7, 255, 255, 3]  # floor(5 i / 8) = 0 0 1 1 2 3 3 4


@settings(max_examples=300, deadline=None)
@given(length=st.integers(1, 1500), canvas=st.integers(1, 500))
def test_nearest_takes_the_pixel_at_the_floor(length, canvas):
    """Pixel i comes from floor(i / (new / old)): two divisions, which is not floor(i old / new) for all sizes."""
    places = np.arange(length)
    labels = np.stack([places // 250, places % 250]).astype(np.uint8)  # what fits into a byte
    lies = Placement(1, canvas, 0, 0, (1, canvas))
    found = [lies.fit(mask_tensor(row[None]))[0].numpy() for row in labels]
    due = np.minimum(np.floor(np.arange(lies.width) * (1 / (lies.width / length))), length - 1)
    np.testing.assert_array_equal(found[0] * 250.0 + found[1], due)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(2, 90), width=st.integers(2, 90), canvas=canvases)
def test_labels_painted_down_the_columns_are_scaled_alike(height, width, canvas):
    """COCO's run lengths go down the columns, and so do the arrays they are painted into."""
    labels = labels_of(height, width)
    for lies in (letterbox(height, width, canvas), resize_top_left(height, width, canvas)):
        rows, columns = (lies.fit(mask_tensor(np.array(labels, order=order)), 9) for order in "CF")
        assert torch.equal(rows, columns)


@settings(max_examples=50, deadline=None)
@given(height=st.integers(8, 90), width=st.integers(8, 90), canvas=canvases, seed=st.integers(0, 99))
def test_labels_are_never_mixed_and_pictures_stay_in_range(height, width, canvas, seed):
    labels, picture = labels_of(height, width, seed), noise(height, width, seed) // 2 + 60
    for lies in (letterbox(height, width, canvas), resize_top_left(height, width, canvas)):
        mask = lies.fit(mask_tensor(labels), 9).numpy()
        assert set(np.unique(mask[lies.inside])) <= set(np.unique(labels))  # void is kept, nothing is made up
        assert (mask == 9).sum() == canvas[0] * canvas[1] - lies.height * lies.width
        image = lies.fit(image_tensor(picture)).numpy()[:, lies.inside[0], lies.inside[1]]
        assert image.min() > picture.min() - 1e-3 and image.max() < picture.max() + 1e-3


def test_rounded_scales_in_bytes_as_the_release_trains_on_vspw():
    picture = noise(480, 853)
    lies = resize_top_left(480, 853, (417, 417))
    exact, rounded = (lies.fit(image_tensor(picture), rounded=r)[:, :232, :416].numpy() for r in (False, True))
    in_bytes = cv2.resize(picture, (416, 232), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(rounded, in_bytes.transpose(2, 0, 1))
    assert rounded.dtype == np.float32 and 0.1 < np.abs(exact - rounded).mean() < 0.4  # of rounding: a quarter


def test_v2_is_used_where_it_gives_the_same_pixels_and_only_there():
    """Should a resize of v2 become equal to OpenCV's one day, it can take its place."""
    picture, labels = np.float32(noise(480, 853)), labels_of(480, 853)
    image, mask = image_tensor(picture), mask_tensor(labels)
    np.testing.assert_array_equal(v2.horizontal_flip(image).permute(1, 2, 0).numpy(), picture[:, ::-1])
    np.testing.assert_array_equal(v2.vertical_flip(mask).numpy(), labels[::-1])
    padded = v2.pad(image, [3, 4, 5, 6], fill=0).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(padded, np.pad(picture, ((4, 6), (3, 5), (0, 0))))
    linear = v2.resize(image, [232, 416], InterpolationMode.BILINEAR, antialias=False).permute(1, 2, 0).numpy()
    theirs = cv2.resize(picture, (416, 232), interpolation=cv2.INTER_LINEAR)
    assert 0 < np.abs(linear - theirs).max() < 0.03
    row_numbers = np.float32(np.arange(480))[:, None].repeat(853, axis=1)
    released = cv2.resize(row_numbers, (416, 232), interpolation=cv2.INTER_NEAREST)
    for rule in (InterpolationMode.NEAREST, InterpolationMode.NEAREST_EXACT):
        taken = v2.resize(Mask(torch.from_numpy(row_numbers)), [232, 416], rule).numpy()
        assert 0 < np.abs(taken - released).max() <= 2


def test_arrays_become_tensors_in_the_same_memory_whatever_view_they_are():
    picture = noise(4, 6)
    assert image_tensor(picture).data_ptr() == picture.ctypes.data
    frozen = picture.copy()
    frozen.flags.writeable = False
    for view in (frozen, picture[:, ::-1], picture[::2], np.asfortranarray(picture)):
        np.testing.assert_array_equal(to_numpy_hwc(image_tensor(view)), view)
        np.testing.assert_array_equal(mask_tensor(view[..., 0]).numpy(), view[..., 0])


def test_a_mask_travels_to_the_canvas_and_back():
    rows, columns = np.mgrid[:90, :160]
    mask = (rows - 40) ** 2 + (columns - 90) ** 2 < 30**2
    for rule in (letterbox, resize_top_left):
        lies = rule(90, 160, (121, 217))
        there = lies.fit(mask_tensor(mask.astype(np.uint8))).numpy().astype(bool)
        back = lies.unpad(there, (90, 160))
        assert (back & mask).sum() / (back | mask).sum() > 0.96


def test_normalise_by_hand_and_back():
    images = torch.full((2, 3, 4, 5), 0.5, dtype=torch.float64)
    expected = [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]
    np.testing.assert_allclose(normalise(images)[1, :, 2, 3], expected)
    torch.testing.assert_close(denormalise(normalise(images)), images)


def test_normalise_is_both_released_expressions_to_the_bit():
    picture = np.float32(noise(40, 60)) + np.float32(0.37)
    ours = normalise(image_tensor(picture) / 255)
    video = (picture / 255.0 - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_array_equal(ours.numpy(), video.transpose(2, 0, 1))
    still = torch.from_numpy(np.float64(picture).transpose(2, 0, 1)).float().div(255)
    for plane, mean, std in zip(still, MEAN, STD, strict=True):
        plane.sub_(mean).div_(std)
    assert torch.equal(ours, still)
