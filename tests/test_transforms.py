"""Resize and pad: every pixel by the released rule, masks map back; augmentation keeps image and labels aligned."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.tv_tensors import Image, Mask

from ttilib.datasets.transforms import (
    MEAN,
    STD,
    Placement,
    affine_matrix,
    augment,
    augment_clip,
    denormalise,
    flip,
    image_tensor,
    letterbox,
    mask_tensor,
    normalise,
    resize_top_left,
    to_numpy_hwc,
)

sides = st.integers(8, 900)
canvases = st.tuples(st.integers(9, 500), st.integers(9, 500))
CASES = [((480, 853), (417, 417)), ((1280, 720), (241, 425)), ((375, 500), (417, 417))]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels_of(height, width, seed=0):
    return np.random.default_rng(seed).choice([0, 1, 7, 255], (height, width)).astype(np.uint8)


@pytest.mark.parametrize(
    ("rule", "frame", "canvas", "expected"),
    [
        (letterbox, (480, 853), (417, 417), (234, 417, 91, 0)),  # docs/protocol.md 2
        (letterbox, (720, 1280), (241, 425), (239, 425, 1, 0)),  # docs/protocol.md 2
        (letterbox, (1280, 720), (241, 425), (241, 135, 0, 145)),  # f = 241/1280, 135.56 wide; (425 - 135) / 2
        (resize_top_left, (480, 853), (417, 417), (232, 416, 0, 0)),  # docs/protocol.md 2: 480 * 417 / 853 cut to 232
        (resize_top_left, (241, 429), (121, 217), (120, 208, 0, 0)),  # the height fills first
        (resize_top_left, (440, 1529), (417, 417), (112, 416, 0, 0)),  # 440 (417 / 1529) is 119.99... in float64
    ],
)
def test_placements_by_hand(rule, frame, canvas, expected):
    placement = rule(*frame, canvas)
    assert (placement.height, placement.width, placement.top, placement.left) == expected


def test_resize_top_left_is_the_released_expression():
    for longest in range(1, 2001, 13):
        for length in range(1, longest + 1, max(longest // 40, 1)):
            released = 416 if length == longest else max(int(length * (417 * 1.0 / longest)) // 8 * 8, 1)
            tall, wide = resize_top_left(longest, length, (417, 417)), resize_top_left(length, longest, (417, 417))
            assert (tall.height, tall.width) == (wide.width, wide.height) == (416, released), (longest, length)


@settings(max_examples=100, deadline=None)
@given(height=sides, width=sides, canvas=canvases)
def test_letterbox_keeps_the_aspect_fills_a_side_and_shares_the_padding(height, width, canvas):
    placement = letterbox(height, width, canvas)
    factor = min(canvas[0] / height, canvas[1] / width)
    assert 0 <= factor * height - placement.height < 1 + 1e-9 or placement.height == 1
    assert 0 <= factor * width - placement.width < 1 + 1e-9 or placement.width == 1
    assert canvas[0] - placement.height <= 1 or canvas[1] - placement.width <= 1
    below, right = canvas[0] - placement.height - placement.top, canvas[1] - placement.width - placement.left
    assert 0 <= below - placement.top <= 1 and 0 <= right - placement.left <= 1


@pytest.mark.parametrize(("frame", "canvas"), CASES)
@pytest.mark.parametrize("rule", [letterbox, resize_top_left])
def test_resized_and_padded_pixels_are_the_released_ones(rule, frame, canvas):
    """OpenCV's bilinear rule in float32 and its nearest rule on labels; padded with zeros, and with 255 or 0."""
    pixels, labels = noise(*frame), labels_of(*frame)
    placement = rule(*frame, canvas)
    for padding in (0, 255):
        expected, known = np.zeros((*canvas, 3), np.float32), np.full(canvas, padding, np.uint8)
        size = (placement.width, placement.height)
        rows = slice(placement.top, placement.top + placement.height)
        columns = slice(placement.left, placement.left + placement.width)
        expected[rows, columns] = cv2.resize(np.float32(pixels), size, interpolation=cv2.INTER_LINEAR)
        known[rows, columns] = cv2.resize(np.float32(labels), size, interpolation=cv2.INTER_NEAREST)
        image, mask = placement.fit(image_tensor(pixels)), placement.fit(mask_tensor(labels), padding)
        assert type(image) is Image and type(mask) is Mask
        assert image.dtype == torch.float32 and mask.dtype == torch.uint8
        np.testing.assert_array_equal(image.numpy(), expected.transpose(2, 0, 1))
        np.testing.assert_array_equal(mask.numpy(), known)
    inside = np.zeros(canvas, dtype=bool)
    inside[placement.inside] = True
    np.testing.assert_array_equal(inside, rule(*frame, canvas).fit(mask_tensor(labels * 0), 1).numpy() == 0)


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 1500), canvas=st.integers(1, 500))
def test_nearest_takes_the_pixel_at_the_floor(length, canvas):
    """Pixel i comes from floor(i / (new / old)): two divisions, which is not floor(i old / new) for all sizes."""
    places = np.arange(length)
    labels = np.stack([places // 250, places % 250]).astype(np.uint8)  # what fits into a byte
    placement = Placement(1, canvas, 0, 0, (1, canvas))
    found = [placement.fit(mask_tensor(row[None]))[0].numpy() for row in labels]
    due = np.minimum(np.floor(np.arange(placement.width) * (1 / (placement.width / length))), length - 1)
    np.testing.assert_array_equal(found[0] * 250.0 + found[1], due)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(2, 90), width=st.integers(2, 90), canvas=canvases)
def test_labels_stored_by_column_are_scaled_alike(height, width, canvas):
    """As masks from run lengths are."""
    labels = labels_of(height, width)
    for placement in (letterbox(height, width, canvas), resize_top_left(height, width, canvas)):
        rows, columns = (placement.fit(mask_tensor(np.array(labels, order=order)), 9) for order in "CF")
        assert torch.equal(rows, columns)


def test_rounded_scales_in_bytes_as_the_release_trains_on_vspw():
    pixels = noise(480, 853)
    placement = resize_top_left(480, 853, (417, 417))
    exact, rounded = (placement.fit(image_tensor(pixels), rounded=r)[:, :232, :416].numpy() for r in (False, True))
    in_bytes = cv2.resize(pixels, (416, 232), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(rounded, in_bytes.transpose(2, 0, 1))
    assert rounded.dtype == np.float32 and 0.1 < np.abs(exact - rounded).mean() < 0.4  # of rounding: a quarter


def test_a_mask_maps_to_the_network_input_and_back():
    rows, columns = np.mgrid[:90, :160]
    mask = (rows - 40) ** 2 + (columns - 90) ** 2 < 30**2
    for rule in (letterbox, resize_top_left):
        placement = rule(90, 160, (121, 217))
        there = placement.fit(mask_tensor(mask.astype(np.uint8))).numpy().astype(bool)
        back = placement.unpad(there, (90, 160))
        assert (back & mask).sum() / (back | mask).sum() > 0.96


def test_normalise_by_hand_and_back():
    images = torch.full((2, 3, 4, 5), 0.5, dtype=torch.float64)
    expected = [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]
    np.testing.assert_allclose(normalise(images)[1, :, 2, 3], expected)
    torch.testing.assert_close(denormalise(normalise(images)), images)


def test_normalise_is_both_released_expressions_to_the_bit():
    pixels = np.float32(noise(40, 60)) + np.float32(0.37)
    ours = normalise(image_tensor(pixels) / 255)
    video = (pixels / 255.0 - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_array_equal(ours.numpy(), video.transpose(2, 0, 1))
    still = torch.from_numpy(np.float64(pixels).transpose(2, 0, 1)).float().div(255)
    for plane, mean, std in zip(still, MEAN, STD, strict=True):
        plane.sub_(mean).div_(std)
    assert torch.equal(ours, still)


def disc(height=120, width=200, left=0):
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - height / 2) ** 2 + (columns - width / 2 + left) ** 2 < (min(height, width) / 4) ** 2
    labels = inside.astype(np.uint8)
    image = np.repeat((labels * 150 + 50)[..., None], 3, axis=-1).astype(np.uint8)
    return image_tensor(image), mask_tensor(labels)


def film(length, height=120, width=200):
    frames = [disc(height, width, 4 * place) for place in range(length)]
    return [image for image, _ in frames], [mask for _, mask in frames]


def test_the_affine_matrix_is_the_published_one_of_imgaug():
    """`Affine(shear=(10, 10))`; and scale and rotation about the middle of the image."""
    np.testing.assert_allclose(affine_matrix(60, 90, 1.0, 10, 0)[:, :2], [[0.969, -0.176], [0.176, 1.0]], atol=5e-4)
    matrix = affine_matrix(61, 91, 1.5, 0, 90)
    np.testing.assert_allclose(matrix @ [[45, 55], [30, 30], [1, 1]], [[45, 45], [30, 45]], atol=1e-9)
    rng, turned, stretched = np.random.default_rng(0), [], []
    for _ in range(20000):
        left, right, above, below = rng.uniform(0, 0.1, 4)
        affine = affine_matrix(60, 90, 1.0, *rng.uniform((-10, -15), (10, 15)))[:, :2]
        across, down = affine[:, 0] / (1 - left - right), affine[:, 1] / (1 - above - below)
        turned.append(np.degrees(np.arctan2(across[1], across[0])))
        longest, shortest = np.linalg.svd(np.stack([across, down], 1))[1]
        stretched.append(longest / shortest)
    assert np.std(turned) == pytest.approx(10.5, abs=0.15) and np.mean(stretched) == pytest.approx(1.055, abs=0.002)
    np.testing.assert_allclose(np.percentile(turned, (5, 95)), (-17.3, 17.0), atol=0.5)


@pytest.mark.parametrize("seed", range(4))
def test_the_random_numbers_of_one_frame_in_their_order(seed):
    """Crop of four sides, scale, shear and angle, contrast, offset, mirror; crop and warp resample bytes."""
    pixels, labels = noise(120, 200, seed), disc()[1]
    rng = np.random.default_rng(seed)
    above, below, left, right = np.round(rng.uniform(0, 0.1, 4) * (120, 120, 200, 200)).astype(int)
    scale, (shear, angle) = rng.uniform(0.95, 1.05), rng.uniform((-10, -15), (10, 15))
    inside, matrix = np.s_[above : 120 - below, left : 200 - right], affine_matrix(120, 200, scale, shear, angle)
    due = cv2.warpAffine(cv2.resize(pixels[inside], (200, 120), interpolation=cv2.INTER_AREA), matrix, (200, 120))
    moved = cv2.resize(labels.numpy()[inside], (200, 120), interpolation=cv2.INTER_NEAREST)
    moved = cv2.warpAffine(moved, matrix, (200, 120), flags=cv2.INTER_NEAREST)
    due = due * np.float32(rng.uniform(0.97, 1.03)) + np.float32(rng.uniform(-5, 5))
    if rng.random() < 0.5:
        due, moved = due[:, ::-1], moved[:, ::-1]
    new, shown = augment(image_tensor(pixels), labels, np.random.default_rng(seed))
    np.testing.assert_allclose(to_numpy_hwc(new), due, atol=1e-4)
    np.testing.assert_array_equal(shown.numpy(), moved)
    assert new.dtype == torch.float32 and not np.array_equal(moved, labels.numpy())


@pytest.mark.parametrize("seed", range(4))
def test_a_clip_shares_everything_but_the_warp_of_its_first_frame(seed):
    images, labels = film(3)
    new, moved = augment_clip(images, labels, np.random.default_rng(seed))
    every, _ = augment_clip(images, labels, np.random.default_rng(seed), skip_first_frame=False)
    assert len(new) == len(moved) == 3 and torch.equal(new[1], every[1]) and torch.equal(new[2], every[2])
    # the same image twice gives the same image twice
    twice, _ = augment_clip([images[0], images[1], images[1]], [labels[0]] * 3, np.random.default_rng(seed))
    assert torch.equal(twice[1], twice[2])
    # the first frame is only lit and perhaps mirrored: two grey values stay two, at the same places
    mirrored = bool((moved[0] != labels[0]).any())
    straight = new[0].flip(-1) if mirrored else new[0]
    assert torch.equal(moved[0].flip(-1) if mirrored else moved[0], labels[0])
    dark, bright = straight[:, labels[0] == 0].unique(), straight[:, labels[0] == 1].unique()
    assert len(dark) == len(bright) == 1
    contrast = float(bright - dark) / 150
    offset = float(dark) - 50 * contrast
    assert 0.97 <= contrast <= 1.03 and -5 <= offset <= 5
    # the others have the same light: inside the disc, far from its edge, they have the same grey value
    core = cv2.erode(moved[1].numpy(), np.ones((9, 9), np.uint8)).astype(bool)
    torch.testing.assert_close(new[1][:, torch.from_numpy(core)].unique(), bright, rtol=1e-5, atol=1e-3)
    assert not torch.equal(moved[1], labels[1].flip(-1) if mirrored else labels[1])


@pytest.mark.parametrize(("height", "width", "turned"), [(90, 60, True), (60, 60, True), (60, 90, False)])
def test_portrait_and_square_clips_are_transposed(height, width, turned):
    images, labels = film(2, height, width)
    images[0][:, 0] = 255  # the first row is white
    new, moved = augment_clip(images, labels, np.random.default_rng(3))
    assert all(tuple(mask.shape) == ((width, height) if turned else (height, width)) for mask in moved)
    assert all(image.shape[1:] == mask.shape for image, mask in zip(new, moved, strict=True))
    line = new[0][:, :, [0, -1]] if turned else new[0][:, [0, -1]].mT
    assert (line > 230).all(dim=1).any(dim=1).all()  # and is the first or, mirrored, the last column
    alone, mask = augment(images[1], labels[1], np.random.default_rng(3))
    assert torch.equal(alone, new[1]) and torch.equal(mask, moved[1])


def test_a_warp_keeps_the_ignore_label():
    labels = np.zeros((60, 90), np.uint8)
    labels[20:40, 30:60], labels[:, 60:] = 3, 255
    pixels = image_tensor(np.zeros((60, 90, 3), np.uint8))
    for seed in range(5):
        moved = augment(pixels, mask_tensor(labels), np.random.default_rng(seed))[1]
        assert moved.unique().tolist() == [0, 3, 255]


def test_the_random_numbers_of_a_flip_in_their_order():
    """Left and right first, then up and down; each if its number is below one half."""
    image, labels = disc(8, 12, 2)
    for seed in range(12):
        sideways, upside = np.random.default_rng(seed).random(2) < 0.5
        due = labels.numpy()[:: -1 if upside else 1, :: -1 if sideways else 1]
        np.testing.assert_array_equal(flip(image, labels, np.random.default_rng(seed))[1].numpy(), due)
