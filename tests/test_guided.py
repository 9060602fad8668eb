"""The guided filter against its equations written out, on images whose answer is known, in both implementations."""

import inspect

import cv2
import numpy as np
import pytest
import torch

from ttilib.solver import edges
from ttilib.solver.edges import guided_filter

installed = pytest.mark.skipif(edges.OPENCV is None, reason="OpenCV's contributed modules are not installed")


@pytest.fixture(params=["boxes", pytest.param("contributed", marks=installed)])
def way(request, monkeypatch):
    """Each implementation in turn."""
    if request.param == "boxes":
        monkeypatch.setattr(edges, "OPENCV", None)


def smooth(rng, *shape):
    """Values in [0, 1] with detail at three scales."""
    coarse = [rng.normal(0, 0.25 / n, (*shape[:-2], n + 2, n + 3)) for n in (1, 3, 9)]
    planes = [torch.nn.functional.interpolate(torch.tensor(c), shape[-2:], mode="bilinear") for c in coarse]
    return (0.5 + sum(planes)).clamp(0, 1).float()


def pictures(kind, size=(21, 26), frames=2):
    """Frames to be guided by."""
    rng = np.random.default_rng(3)
    if kind == "noise":
        return torch.tensor(rng.random((frames, 3, *size)), dtype=torch.float32)
    if kind == "grey steps":  # channels all alike, black and white: the worst for an inverse
        rows, columns = np.mgrid[: size[0], : size[1]]
        return torch.tensor((rows // 6 + columns // 6) % 2).float().expand(frames, 3, *size).clone()
    return smooth(rng, frames, 3, *size) * (0.05 if kind == "dark" else 1)


def chances(size=(21, 26), frames=2):
    return torch.sigmoid(8 * (smooth(np.random.default_rng(5), 1, frames, *size)[0] - 0.5))


def by_the_book(p, guide, radius, eps):
    """Equations 11 to 13 of the article, window by window in float64, the frame mirrored at its border."""
    width, padding = 2 * radius + 1, (radius, radius)

    def windows(plane):
        return np.lib.stride_tricks.sliding_window_view(np.pad(plane, padding, "symmetric"), (width, width))

    p, guide = p.double().numpy(), guide.double().numpy()
    colours = np.stack([windows(plane) for plane in guide], -1).reshape(*p.shape, -1, 3)
    chance = windows(p).reshape(*p.shape, -1)
    letterbox = colours - colours.mean(-2, keepdims=True)
    covariance = np.einsum("hwni,hwnj->hwij", letterbox, letterbox) / width**2 + eps * np.eye(3)
    side = np.einsum("hwni,hwn->hwi", letterbox, chance - chance.mean(-1, keepdims=True)) / width**2
    slope = np.linalg.solve(covariance, side[..., None])[..., 0]
    offset = chance.mean(-1) - (slope * colours.mean(-2)).sum(-1)
    means = [windows(plane).mean((-1, -2)) for plane in (*np.moveaxis(slope, -1, 0), offset)]
    return sum(a * plane for a, plane in zip(means[:3], guide, strict=True)) + means[3]


@pytest.mark.parametrize("kind", ["smooth", "noise", "grey steps", "dark"])
@pytest.mark.parametrize("radius, eps", [(8, 1e-3), (2, 1e-2), (3, 1e-4)])
def test_equations_of_the_article(way, kind, radius, eps):
    p, guide = chances(), pictures(kind)
    found = guided_filter(p, guide, radius, eps)
    for one, chance, frame in zip(found, p, guide, strict=True):
        expected = by_the_book(chance, frame, radius, eps).clip(0, 1)
        assert np.abs(one.numpy() - expected).max() < (5e-4 if kind == "grey steps" else 2e-5)
        assert np.abs(expected - chance.numpy()).max() > 0.05  # it does something


def test_box_filters_keep_their_digits_where_channels_are_alike(monkeypatch):
    monkeypatch.setattr(edges, "OPENCV", None)
    p, guide = chances(), pictures("grey steps")
    for eps in (1e-3, 1e-5):
        found = guided_filter(p, guide, 8, eps)
        assert np.abs(found[1].numpy() - by_the_book(p[1], guide[1], 8, eps).clip(0, 1)).max() < 1e-5


def test_defaults_are_radius_8_and_eps_a_thousandth():
    p, guide = chances(), pictures("smooth")
    assert torch.equal(guided_filter(p, guide), guided_filter(p, guide, 8, 1e-3))
    assert not torch.equal(guided_filter(p, guide), guided_filter(p, guide, 8, 2e-3))


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_blurred_border_snaps_to_the_edge_of_any_colour(way, channel):
    truth = torch.zeros(1, 40, 60, dtype=torch.bool)
    truth[:, :, 23:] = True
    guide = torch.full((1, 3, 40, 60), 0.4)
    guide[:, channel] += 0.2 * truth
    blurred = torch.sigmoid((torch.arange(60.0) - 26) / 4).expand(1, 40, 60).contiguous()  # three columns too far right
    before, after = blurred > 0.5, guided_filter(blurred, guide) > 0.5
    assert (before != truth).sum() >= 3 * 40
    assert torch.equal(after, truth)


def test_an_even_picture_is_blurred_twice(way):
    p = chances()
    twice = [cv2.blur(cv2.blur(one.numpy(), (7, 7), borderType=cv2.BORDER_REFLECT), (7, 7)) for one in p]
    found = guided_filter(p, torch.full((2, 3, 21, 26), 0.8), radius=3)
    inner = (slice(None), slice(3, -3), slice(3, -3))  # cv2.blur's own border is another one
    assert found[inner].numpy() == pytest.approx(np.stack(twice)[inner], abs=1e-6)


def test_an_object_that_is_absent_stays_absent_and_frames_keep_apart(way):
    p, guide = chances(frames=3), pictures("smooth", frames=3)
    p[1] = 0
    found = guided_filter(p, guide)
    assert (found[1] == 0).all() and (found[0] > 0).any()
    assert torch.equal(found[2:], guided_filter(p[2:], guide[2:]))
    assert len(guided_filter(p[:0], guide[:0])) == 0


def test_the_answer_is_a_probability_of_the_kind_that_was_given(way):
    guide = pictures("noise")
    p = (guide[:, 0] > 0.5).double()
    given = p.clone(), guide.clone()
    found = guided_filter(p.requires_grad_(), guide, 2)
    assert found.dtype == torch.float64 and not found.requires_grad
    assert found.min() == 0 and found.max() == 1  # clipped: lines lead out of [0, 1]
    assert torch.equal(p.detach(), given[0]) and torch.equal(guide, given[1])
    assert guided_filter(p.half(), guide.half()).dtype == torch.float16


def test_a_window_may_be_larger_than_the_picture(way):
    p, guide = chances((5, 4)), pictures("noise", (5, 4))
    found = guided_filter(p, guide, radius=30)
    assert torch.isfinite(found).all()
    assert found.std() < p.std()


def test_opencv_is_asked_where_it_is_there(monkeypatch):
    asked = []

    def filtered(colours, p, radius, eps):
        asked.append((colours.shape, radius, eps))
        return p + 2 * colours[..., 0]

    monkeypatch.setattr(edges, "OPENCV", filtered)
    p, guide = torch.full((1, 4, 6), 0.25), torch.full((1, 3, 4, 6), 0.5)
    guide[:, 0, 0], guide[:, 2] = 0.502, 0.9  # in units of sqrt(0.0016): 0.05 and 10
    found = guided_filter(p, guide, 5, 0.0016)
    assert asked == [((4, 6, 3), 5, 1.0)]
    assert found[0, :, 0].tolist() == pytest.approx([0.35, 0.25, 0.25, 0.25], abs=1e-5)
    guided_filter(p, guide, 5, 0.0009)
    assert len(asked) == 1  # too even for its single precision
    guided_filter(torch.zeros_like(p), guide, 5, 0.0016)
    assert len(asked) == 1  # nothing to filter


@installed
def test_both_ways_agree_on_a_whole_frame(monkeypatch):
    p, guide = chances((241, 425)), pictures("smooth", (241, 425))
    theirs = guided_filter(p, guide)
    monkeypatch.setattr(edges, "OPENCV", None)
    assert (guided_filter(p, guide) - theirs).abs().max() < 1e-4


def test_what_is_no_filter_is_refused():
    p, guide = chances(), pictures("smooth")
    with pytest.raises(ValueError, match="radius=0"):
        guided_filter(p, guide, radius=0)
    for eps in (0.0, -1e-3, float("nan")):
        with pytest.raises(ValueError, match=f"eps={eps}"):
            guided_filter(p, guide, eps=eps)
    unchecked = inspect.unwrap(guided_filter)  # as users have it: shapes are checked in tests only
    for wrong in (guide[:1], guide[:, :2], guide[..., :-1], guide[0]):
        with pytest.raises(ValueError, match=r"the guide is .* \[2, 3, 21, 26\]"):
            unchecked(p, wrong)
