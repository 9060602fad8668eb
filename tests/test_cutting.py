"""Borders are moved to where the colours change, no farther than allowed, and the same each time."""

import inspect

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ttilib.solver.edges import grabcut_refine

HEIGHT, WIDTH = 97, 121


def blocky(mask: Tensor, cell: int = 8) -> Tensor:
    """The mask as a network knows it: one pixel of each cell decides for all of it."""
    rows, columns = (torch.arange(length) // cell * cell for length in mask.shape[-2:])
    return mask[..., rows[:, None], columns]


def ellipse(centre: tuple[float, float] = (50, 62), radii: tuple[float, float] = (27, 38)) -> Tensor:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return torch.from_numpy(((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1)


def painted(mask: Tensor, noise: float = 0.05, seed: int = 0) -> Tensor:
    """An orange object on blue ground, both uneven; [H, W] -> [3, H, W]."""
    colours = torch.tensor([[0.2, 0.4, 0.6], [0.8, 0.3, 0.2]])[mask.long()].movedim(-1, 0)
    grain = torch.randn(colours.shape, generator=torch.Generator().manual_seed(seed))
    return (colours + noise * grain).clamp(0, 1)


def undecided(seed: int, size: tuple[int, int] = (72, 96)) -> tuple[Tensor, Tensor]:
    """A blocky disc on clouds of many colours unlike it: the cut hangs on how these are grouped."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*(torch.arange(length) // 8 for length in size), indexing="ij")
    mask = (y - 4) ** 2 + (x - 5 - seed % 2) ** 2 <= 8
    coarse = torch.rand(1, 3, 5, 6, generator=generator)
    clouds = torch.nn.functional.interpolate(coarse, size, mode="bicubic")
    return mask[None], (clouds + 0.03 * torch.randn(1, 3, *size, generator=generator)).clamp(0, 1)


def to_border(mask: Tensor) -> np.ndarray:
    """How far every pixel is from the nearest one of the other kind."""
    kinds = [kind.numpy().astype(np.uint8) for kind in (mask, ~mask)]
    return sum(cv2.distanceTransform(kind, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for kind in kinds)


def test_the_border_of_an_object_is_found_to_the_pixel() -> None:
    truths = torch.stack([ellipse(), ellipse((40, 40), (20, 22)), ellipse((60, 80), (31, 17))])
    given_masks, guide = blocky(truths), torch.stack([painted(truth, seed=n) for n, truth in enumerate(truths)])
    assert ((given_masks != truths).sum((1, 2)) > 200).all()
    found = grabcut_refine(given_masks, guide)
    assert found.dtype == torch.bool and torch.equal(found, truths)
    assert torch.equal(grabcut_refine(truths, guide), truths)  # what is right stays


def test_an_object_may_touch_the_border_of_the_frame() -> None:
    truth = ellipse((96, 0), (60, 70))
    found = grabcut_refine(blocky(truth)[None], painted(truth)[None])
    assert torch.equal(found[0], truth)


@pytest.mark.parametrize("radius", [26, 34])
@pytest.mark.parametrize("band", [1, 2, 3, 8])
def test_a_border_that_is_farther_off_is_followed_as_far_as_the_band(radius: int, band: int) -> None:
    """The mask is too small or too large by four pixels all around, and colours are told apart at once."""
    truth, mask = ellipse((48, 60), (30, 30)), ellipse((48, 60), (radius, radius))
    (found,) = grabcut_refine(mask[None], painted(truth, noise=0.02)[None], band)
    distance = to_border(mask)
    assert min(band, 4) - 1 < distance[found != mask].max() <= band + 0.5
    assert torch.equal(found, truth) == (band > 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 3))
def test_no_pixel_farther_than_the_band_from_the_border_changes(seed: int, band: int, steps: int) -> None:
    masks, guide = undecided(seed)
    found = grabcut_refine(masks, guide, band, steps)
    assert not torch.equal(found, masks)
    assert not (to_border(masks[0])[(found != masks)[0].numpy()] > band + 0.5).any()


def test_the_band_is_16_pixels_and_the_steps_are_2_unless_told() -> None:
    masks, guide = undecided(2)
    assert torch.equal(grabcut_refine(masks, guide), grabcut_refine(masks, guide, 16, 2))
    for band in (15, 17):
        assert not torch.equal(grabcut_refine(masks, guide), grabcut_refine(masks, guide, band)), band
    for steps in (1, 4):
        assert not torch.equal(grabcut_refine(masks, guide, 8), grabcut_refine(masks, guide, 8, steps)), steps


def test_a_frame_without_object_or_without_ground_stays() -> None:
    """Where there are no examples of one of the two there is nothing to tell apart."""
    empty, full = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool), torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    almost = full.clone()
    almost[:9, :9] = False  # ground, but none of it far from the object
    masks = torch.stack([empty, full, almost])
    guide = painted(ellipse())[None].expand(3, -1, -1, -1)
    assert torch.equal(grabcut_refine(masks, guide), masks)
    assert not torch.equal(grabcut_refine(masks, guide, 4)[2], almost)  # with a narrower band there is


def test_the_same_input_gives_the_same_masks_whatever_else_drew_numbers() -> None:
    masks, guide = (torch.cat(each) for each in zip(*map(undecided, range(4)), strict=True))
    first = grabcut_refine(masks, guide, 8)
    for seed in range(5):
        cv2.setRNGSeed(seed + 1)
        cv2.randu(np.zeros((seed + 3, 5), np.uint8), 0, 255)
        assert torch.equal(grabcut_refine(masks, guide, 8), first)


def test_frames_do_not_know_of_each_other() -> None:
    masks, guide = (torch.cat(each) for each in zip(*map(undecided, range(5)), strict=True))
    together = grabcut_refine(masks, guide, 8)
    assert len({each.numpy().tobytes() for each in together}) == 5
    order = [3, 1, 4, 0, 2]
    assert torch.equal(grabcut_refine(masks[order], guide[order], 8), together[order])
    for place in range(5):
        assert torch.equal(grabcut_refine(masks[[place]], guide[[place]], 8)[0], together[place])


def test_input_stays_as_it_was_and_may_be_any_kind_of_number() -> None:
    masks, guide = undecided(1)
    guide = (guide * 255).round() / 255
    before, colours = masks.clone(), guide.clone()
    found = grabcut_refine(masks, guide, 6)
    assert torch.equal(masks, before) and torch.equal(guide, colours)
    assert not torch.equal(found, masks) and found.device == masks.device
    found[:] = False  # its own memory, not the masks'
    assert torch.equal(masks, before)
    expected = grabcut_refine(masks, guide, 6)
    for other in (guide.double(), guide.half(), guide.clone().requires_grad_(), guide.mT.contiguous().mT):
        assert torch.equal(grabcut_refine(masks, other, 6), expected)
    loud = 1.5 * guide  # beyond what an image has, as after some scaling
    assert torch.equal(grabcut_refine(masks, loud, 6), grabcut_refine(masks, loud.clamp(0, 1), 6))


def test_what_is_no_border_or_no_frame_is_refused() -> None:
    masks, guide = undecided(0)
    for band, steps in ((0, 2), (-3, 2), (4, 0), (4, -1)):
        with pytest.raises(ValueError, match=f"band={band} and steps={steps}: a border moves by 1 pixel or more"):
            grabcut_refine(masks, guide, band, steps)
    unchecked = inspect.unwrap(grabcut_refine)  # as users have it: shapes are checked in tests only
    for wrong in (guide.repeat(2, 1, 1, 1), guide[:, :2], guide[..., :-1], guide[0]):
        with pytest.raises(ValueError, match=r"the guide is .* \[1, 3, 72, 96\]"):
            unchecked(masks, wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_masks_come_back_to_the_device_they_were_on() -> None:
    masks, guide = undecided(1)
    found = grabcut_refine(masks.to("cuda"), guide, 6)
    assert found.is_cuda and torch.equal(found.cpu(), grabcut_refine(masks, guide, 6))
    assert torch.equal(grabcut_refine(masks, guide.to("cuda"), 6), found.cpu())


def test_no_frames_give_no_masks():
    nothing = grabcut_refine(torch.zeros(0, 9, 9, dtype=torch.bool), torch.zeros(0, 3, 9, 9))
    assert nothing.shape == (0, 9, 9) and nothing.dtype == torch.bool
