"""Resize and pad: every pixel by the released rule, masks map back; augmentation keeps image and labels aligned."""

import cv2
import numpy as np
import pytest
import torch

from ttilib.datasets import transforms
from ttilib.datasets.transforms import affine_matrix, augment, image_tensor, letterbox, mask_tensor, resize_top_left


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
        (letterbox, (206, 20), (241, 241), (240, 23, 0, 109)),  # 206 (241 / 206) is below 241 in float64
        (resize_top_left, (480, 853), (417, 417), (232, 416, 0, 0)),  # docs/protocol.md 2: 480 * 417 / 853 cut to 232
        (resize_top_left, (241, 429), (121, 217), (120, 208, 0, 0)),  # the height fills first
        (resize_top_left, (440, 1529), (417, 417), (112, 416, 0, 0)),  # 440 (417 / 1529) is 119.99... in float64
    ],
)
def test_placements_by_hand(rule, frame, canvas, expected):
    placement = rule(*frame, canvas)
    assert (placement.height, placement.width, placement.top, placement.left) == expected


def test_normalise_is_both_released_expressions_to_the_bit_and_has_an_inverse():
    assert (transforms.MEAN, transforms.STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = np.float32(noise(40, 60)) + np.float32(0.37)
    ours = transforms.normalise(image_tensor(pixels) / 255)
    video = (pixels / 255.0 - np.float32(transforms.MEAN)) / np.float32(transforms.STD)
    np.testing.assert_array_equal(ours.numpy(), video.transpose(2, 0, 1))
    still = torch.from_numpy(np.float64(pixels).transpose(2, 0, 1)).float().div(255)
    for plane, mean, std in zip(still, transforms.MEAN, transforms.STD, strict=True):
        plane.sub_(mean).div_(std)
    assert torch.equal(ours, still)
    torch.testing.assert_close(transforms.denormalise(ours[None])[0], torch.from_numpy(pixels.transpose(2, 0, 1)) / 255)


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


@pytest.mark.parametrize("seed", range(4))
def test_the_random_numbers_of_one_frame_in_their_order(seed):
    """Crop of four sides, scale, shear and angle, contrast, offset, mirror; crop and warp resample bytes."""
    pixels, labels = noise(120, 200, seed), labels_of(120, 200, seed)
    rng = np.random.default_rng(seed)
    above, below, left, right = np.round(rng.uniform(0, 0.1, 4) * (120, 120, 200, 200)).astype(int)
    scale, (shear, angle) = rng.uniform(0.95, 1.05), rng.uniform((-10, -15), (10, 15))
    inside, matrix = np.s_[above : 120 - below, left : 200 - right], affine_matrix(120, 200, scale, shear, angle)
    due = cv2.warpAffine(cv2.resize(pixels[inside], (200, 120), interpolation=cv2.INTER_AREA), matrix, (200, 120))
    moved = cv2.resize(labels[inside], (200, 120), interpolation=cv2.INTER_NEAREST)
    moved = cv2.warpAffine(moved, matrix, (200, 120), flags=cv2.INTER_NEAREST)
    due = due * np.float32(rng.uniform(0.97, 1.03)) + np.float32(rng.uniform(-5, 5))
    if rng.random() < 0.5:
        due, moved = due[:, ::-1], moved[:, ::-1]
    new, shown = augment(image_tensor(pixels), mask_tensor(labels), np.random.default_rng(seed))
    np.testing.assert_allclose(transforms.to_numpy_hwc(new), due, atol=1e-4)
    np.testing.assert_array_equal(shown.numpy(), moved)
    assert new.dtype == torch.float32 and set(np.unique(moved)) == {0, 1, 7, 255} and (moved != labels).any()


@pytest.mark.parametrize("seed", range(2))
def test_a_clip_shares_everything_but_the_warp_of_its_first_frame(seed):
    images, labels = film(3)
    new, moved = transforms.augment_clip(images, labels, np.random.default_rng(seed))
    every, _ = transforms.augment_clip(images, labels, np.random.default_rng(seed), skip_first_frame=False)
    assert len(new) == len(moved) == 3 and torch.equal(new[1], every[1]) and torch.equal(new[2], every[2])
    twice, _ = transforms.augment_clip([images[0], images[1], images[1]], [labels[0]] * 3, np.random.default_rng(seed))
    assert torch.equal(twice[1], twice[2])
    # the first frame is only lit and perhaps mirrored: two grey values stay two, at the same places
    straight = new[0].flip(-1) if (moved[0] != labels[0]).any() else new[0]
    assert torch.equal(moved[0].flip(-1) if straight is not new[0] else moved[0], labels[0])
    dark, bright = straight[:, labels[0] == 0].unique(), straight[:, labels[0] == 1].unique()
    contrast = float(bright - dark) / 150
    assert 0.97 <= contrast <= 1.03 and -5 <= float(dark) - 50 * contrast <= 5
    # the others have the same light, inside the disc
    core = cv2.erode(moved[1].numpy(), np.ones((9, 9), np.uint8)).astype(bool)
    torch.testing.assert_close(new[1][:, torch.from_numpy(core)].unique(), bright, rtol=1e-5, atol=1e-3)
    assert not torch.equal(moved[1], labels[1]) and not torch.equal(moved[1], labels[1].flip(-1))


@pytest.mark.parametrize(("height", "width", "turned"), [(90, 60, True), (60, 60, True), (60, 90, False)])
def test_portrait_and_square_clips_are_transposed(height, width, turned):
    images, labels = film(2, height, width)
    images[0][:, 0] = 255  # the first row is white
    new, moved = transforms.augment_clip(images, labels, np.random.default_rng(3))
    assert all(tuple(mask.shape) == ((width, height) if turned else (height, width)) for mask in moved)
    line = new[0][:, :, [0, -1]] if turned else new[0][:, [0, -1]].mT
    assert (line > 230).all(dim=1).any(dim=1).all()  # and is the first or, mirrored, the last column
    alone, mask = augment(images[1], labels[1], np.random.default_rng(3))
    assert torch.equal(alone, new[1]) and torch.equal(mask, moved[1])


def test_the_random_numbers_of_a_flip_in_their_order():
    """Left and right first, then up and down; each if its number is below one half."""
    image, labels = disc(8, 12, 2)
    for seed in range(12):
        sideways, upside = np.random.default_rng(seed).random(2) < 0.5
        due = labels.numpy()[:: -1 if upside else 1, :: -1 if sideways else 1]
        np.testing.assert_array_equal(transforms.flip(image, labels, np.random.default_rng(seed))[1].numpy(), due)
