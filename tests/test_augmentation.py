"""Training variation stays an image of the same scene, moves labels with it, and is the released rule."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.datasets.transforms import augment, augment_clip, flip, image_tensor, mask_tensor, to_numpy_hwc


def disc(height=120, width=200, left=0):
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - height / 2) ** 2 + (columns - width / 2 + left) ** 2 < (min(height, width) / 4) ** 2
    labels = inside.astype(np.uint8)
    image = np.repeat((labels * 150 + 50)[..., None], 3, axis=-1).astype(np.uint8)
    return image_tensor(image), mask_tensor(labels)


def film(length, height=120, width=200):
    frames = [disc(height, width, 4 * place) for place in range(length)]
    return [image for image, _ in frames], [mask for _, mask in frames]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_variation_moves_picture_and_labels_together(seed):
    image, labels = disc()
    new, moved = augment(image, labels, np.random.default_rng(seed))
    assert new.shape == image.shape and new.dtype == torch.float32
    assert moved.unique().tolist() == [0, 1]
    # The disc is 150 grey values brighter than its ground: contrast and offset cannot hide it.
    assert ((new[0] > 125) == (moved == 1)).float().mean() > 0.98
    # crops of at most 10% a side enlarge by at most 1.25 each way, the scale by 1.05; the least is 0.95
    assert 0.95**2 * 0.97 < moved.sum() / labels.sum() < (1.25 * 1.05) ** 2 * 1.03


def test_variation_is_a_function_of_the_generator():
    first, again, other = (augment(*disc(), np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("seed", range(8))
def test_the_draws_of_one_frame_in_their_order(seed):
    """Crop of four sides, scale, shear and angle, contrast, offset, mirror: trained networks depend on this order."""
    image, labels = disc()
    noisy = image_tensor(np.random.default_rng(seed).integers(0, 256, (120, 200, 3), dtype=np.uint8))
    rng = np.random.default_rng(seed)
    top, bottom, left, right = rng.uniform(0, 0.1, 4)
    scale, (shear, angle) = rng.uniform(0.95, 1.05), np.deg2rad(rng.uniform((-10, -15), (10, 15)))
    corners = np.array([[0.0, 0.0], [200.0, 0.0], [0.0, 120.0]])
    there = (corners - (200 * left, 120 * top)) / (1 - left - right, 1 - top - bottom) - (100, 60)  # cropped
    there = scale * np.stack([there[:, 0] + np.tan(shear) * there[:, 1], there[:, 1]], axis=1)
    cos, sin = np.cos(angle), np.sin(angle)
    there = there @ np.array([[cos, sin], [-sin, cos]]) + (100, 60)
    matrix = np.linalg.solve(np.hstack([corners, np.ones((3, 1))]), there).T
    due = cv2.warpAffine(np.float32(to_numpy_hwc(noisy)), matrix, (200, 120), flags=cv2.INTER_LINEAR)
    due = due * rng.uniform(0.97, 1.03) + rng.uniform(-5, 5)
    moved = cv2.warpAffine(labels.numpy(), matrix, (200, 120), flags=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        due, moved = due[:, ::-1], moved[:, ::-1]
    new, shown = augment(noisy, labels, np.random.default_rng(seed))
    assert np.abs(to_numpy_hwc(new) - due).mean() < 1e-3
    assert (shown.numpy() != moved).mean() < 1e-3


def test_one_frame_is_the_clip_of_that_frame():
    for seed in range(6):
        image, labels = augment(*disc(), np.random.default_rng(seed))
        images, masks = augment_clip(*film(1), np.random.default_rng(seed), skip_first_frame=False)
        assert torch.equal(image, images[0]) and torch.equal(labels, masks[0])


@pytest.mark.parametrize("seed", range(10))
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


def test_half_of_the_clips_are_mirrored_and_light_is_not_clipped():
    images, labels = film(2)
    mirrored, darkest = 0, []
    for seed in range(60):
        new, moved = augment_clip(images, labels, np.random.default_rng(seed))
        left = disc(left=30)
        marked, _ = augment_clip([left[0]], [left[1]], np.random.default_rng(seed))
        mirrored += bool(marked[0][0, :, 100:].mean() > marked[0][0, :, :100].mean())
        darkest.append(float(new[1].min()))
    assert 18 <= mirrored <= 42
    assert min(darkest) < -4 and max(darkest) > 4  # what comes into view is 0, plus the offset


@pytest.mark.parametrize(("height", "width", "turned"), [(90, 60, True), (60, 60, True), (60, 90, False)])
def test_portrait_and_square_clips_are_laid_on_their_side(height, width, turned):
    images, labels = film(2, height, width)
    images[0][:, 0] = 255  # the first row is white
    new, moved = augment_clip(images, labels, np.random.default_rng(3))
    assert all(tuple(mask.shape) == ((width, height) if turned else (height, width)) for mask in moved)
    assert all(image.shape[1:] == mask.shape for image, mask in zip(new, moved, strict=True))
    line = new[0][:, :, [0, -1]] if turned else new[0][:, [0, -1]].mT
    assert (line > 230).all(dim=1).any(dim=1).all()  # and is the first or, mirrored, the last column
    alone, mask = augment(images[1], labels[1], np.random.default_rng(3))
    assert torch.equal(alone, new[1]) and torch.equal(mask, moved[1])


def test_nothing_that_was_handed_in_is_changed():
    images, labels = film(3)
    before = [image.clone() for image in images], [mask.clone() for mask in labels]
    new, moved = augment_clip(images, labels, np.random.default_rng(0))
    for image in new:
        image += 1
    flip(images[0], labels[0], np.random.default_rng(0))
    assert all(map(torch.equal, images, before[0])) and all(map(torch.equal, labels, before[1]))


def test_void_stays_void_under_a_warp():
    labels = np.zeros((60, 90), np.uint8)
    labels[20:40, 30:60], labels[:, 60:] = 3, 255
    picture = image_tensor(np.zeros((60, 90, 3), np.uint8))
    for seed in range(5):
        moved = augment(picture, mask_tensor(labels), np.random.default_rng(seed))[1]
        assert moved.unique().tolist() == [0, 3, 255]


def test_flips_are_mirrors_and_all_four_occur():
    image = image_tensor(np.arange(36, dtype=np.uint8).reshape(3, 4, 3))
    labels = mask_tensor(np.arange(12, dtype=np.uint8).reshape(3, 4))
    seen = {}
    for seed in range(40):
        new, moved = flip(image, labels, np.random.default_rng(seed))
        assert torch.equal(new[0], moved * 3) and new.dtype == torch.uint8
        seen[moved.numpy().tobytes()] = moved.tolist()
    assert {tuple(m[0]) for m in seen.values()} == {
        (0, 1, 2, 3),
        (3, 2, 1, 0),
        (8, 9, 10, 11),
        (11, 10, 9, 8),
    }


def test_the_draws_of_a_still_in_their_order():
    """Left and right first, then up and down; each if its number is below one half."""
    image, labels = disc(8, 12, 2)
    for seed in range(12):
        sideways, upside = np.random.default_rng(seed).random(2) < 0.5
        due = labels.numpy()[:: -1 if upside else 1, :: -1 if sideways else 1]
        np.testing.assert_array_equal(flip(image, labels, np.random.default_rng(seed))[1].numpy(), due)
