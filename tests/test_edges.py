"""The guided filter against its equations in float64; colour models on shapes with known borders."""

import cv2
import numpy as np
import pytest
import torch

from ttilib.solver.edges import colour_refine, guided_filter


def smooth(rng, *shape):
    """Values in [0, 1] with detail at three scales."""
    coarse = [rng.normal(0, 0.25 / n, (*shape[:-2], n + 2, n + 3)) for n in (1, 3, 9)]
    planes = [torch.nn.functional.interpolate(torch.tensor(c), shape[-2:], mode="bilinear") for c in coarse]
    return (0.5 + sum(planes)).clamp(0, 1).float()


def frames(kind):
    if kind == "grey steps":  # three equal channels: the worst case for an inverse
        rows, columns = np.mgrid[:21, :26]
        return torch.tensor((rows // 6 + columns // 6) % 2).float().expand(2, 3, -1, -1).clone()
    return smooth(np.random.default_rng(3), 2, 3, 21, 26) * (0.05 if kind == "dark" else 1)


def by_the_equations(p, guide, radius, eps):
    """Equations 11 to 13 of the article, window by window in float64, the frame mirrored at its border."""
    width, padding = 2 * radius + 1, (radius, radius)

    def windows(plane):
        return np.lib.stride_tricks.sliding_window_view(np.pad(plane, padding, "symmetric"), (width, width))

    p, guide = p.double().numpy(), guide.double().numpy()
    colours = np.stack([windows(plane) for plane in guide], -1).reshape(*p.shape, -1, 3)
    inputs = windows(p).reshape(*p.shape, -1)
    centred = colours - colours.mean(-2, keepdims=True)
    covariance = np.einsum("hwni,hwnj->hwij", centred, centred) / width**2 + eps * np.eye(3)
    side = np.einsum("hwni,hwn->hwi", centred, inputs - inputs.mean(-1, keepdims=True)) / width**2
    a = np.linalg.solve(covariance, side[..., None])[..., 0]
    b = inputs.mean(-1) - (a * colours.mean(-2)).sum(-1)
    means = [windows(plane).mean((-1, -2)) for plane in (*np.moveaxis(a, -1, 0), b)]
    return sum(a * plane for a, plane in zip(means[:3], guide, strict=True)) + means[3]


@pytest.mark.parametrize("kind", ["smooth", "grey steps", "dark"])
@pytest.mark.parametrize("radius, eps", [(8, 1e-3), (3, 1e-4)])
def test_equations_of_the_article(kind, radius, eps):
    p, guide = torch.sigmoid(8 * (smooth(np.random.default_rng(5), 1, 2, 21, 26)[0] - 0.5)), frames(kind)
    found = guided_filter(p, guide, radius, eps)
    for one, probability, frame in zip(found, p, guide, strict=True):
        expected = by_the_equations(probability, frame, radius, eps).clip(0, 1)
        assert np.abs(one.numpy() - expected).max() < (5e-4 if kind == "grey steps" else 2e-5)
        assert np.abs(expected - probability.numpy()).max() > 0.05  # it does something
    p[1] = 0
    alone = guided_filter(p[:1].double(), guide[:1], radius, eps)
    assert torch.equal(guided_filter(p, guide, radius, eps)[0], found[0]) and alone.dtype == torch.float64
    assert not guided_filter(p, guide, radius, eps)[1].any()  # an absent object stays absent
    assert found.min() >= 0 and found.max() <= 1


def blocky(mask, cell=8):
    """The mask at feature size, upsampled: one pixel of each cell decides for all of it."""
    rows, columns = (torch.arange(length) // cell * cell for length in mask.shape[-2:])
    return mask[..., rows[:, None], columns]


def ellipse(centre=(50, 62), radii=(27, 38)):
    y, x = np.mgrid[:97, :121]
    return torch.from_numpy(((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1)


def painted(mask, noise=0.05, seed=0):
    """An orange object on blue ground, both noisy; [H, W] -> [3, H, W]."""
    colours = torch.tensor([[0.2, 0.4, 0.6], [0.8, 0.3, 0.2]])[mask.long()].movedim(-1, 0)
    grain = torch.randn(colours.shape, generator=torch.Generator().manual_seed(seed))
    return (colours + noise * grain).clamp(0, 1)


def test_the_border_is_found_to_the_pixel():
    truths = torch.stack([ellipse(), ellipse((40, 40), (20, 22)), ellipse((96, 0), (60, 70))])
    masks, guide = blocky(truths), torch.stack([painted(truth, seed=n) for n, truth in enumerate(truths)])
    assert ((masks != truths).sum((1, 2)) > 200).all()
    assert torch.equal(colour_refine(masks.float(), guide), truths)
    assert torch.equal(colour_refine(truths.float(), guide), truths)
    kept = torch.stack([torch.zeros_like(truths[0]), torch.ones_like(truths[0]), torch.ones_like(truths[0])])
    kept[2, :9, :9] = False  # background, but none of it far from the object
    assert torch.equal(colour_refine(kept.float(), guide), kept)


@pytest.mark.parametrize("band", [1, 2, 4, 9])
def test_no_pixel_farther_than_the_band_from_the_border_changes(band):
    """Here the object is elsewhere, so that everything near the border wants to change."""
    masks, guide = blocky(ellipse())[None], painted(ellipse((20, 20), (60, 70)))[None]
    changed = (colour_refine(masks.float(), guide, band) != masks)[0].numpy()
    kinds = [kind.numpy().astype(np.uint8) for kind in (masks[0], ~masks[0])]
    distance = sum(cv2.distanceTransform(kind, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for kind in kinds)
    assert changed.any() and not (distance[changed] > band + 0.5).any()
