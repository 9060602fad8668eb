"""The losses of base training against numbers worked out by hand and the formulas written out in full."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ttilib.training.config import CHOICES
from ttilib.training.model import (
    TERMS,
    class_accuracy,
    class_iou,
    confusion,
    iou_loss,
    mix,
    pixel_accuracy,
    smoothed_cross_entropy,
    weights,
)

# three pixels side by side: class 0, class 2, not known; the logits are off by a constant that must not matter
P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.98, 0.01, 0.01]])
LOGITS = (P.log() + torch.tensor([[1.0], [2.0], [3.0]])).T.reshape(1, 3, 1, 3)
LABELS = torch.tensor([[[0, 2, 255]]])


def some(seed: int, classes: int = 5, size: tuple[int, int, int] = (3, 4, 6)) -> tuple[Tensor, Tensor]:
    """Any logits and labels, a fifth of them not known."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(size) < 0.2, 255, rng.integers(0, classes, size))
    logits = rng.normal(0, 3, (size[0], classes, *size[1:]))
    return torch.from_numpy(logits), torch.from_numpy(labels.astype(np.int64))


def loss_map(name: str, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """A loss of the settings: the sum of its terms."""
    return torch.stack([term(logits, labels, smoothing) for term in TERMS[name].values()]).sum(0)


# --- cross-entropy ---


def test_smoothed_cross_entropy_by_hand() -> None:
    """True class 0.9, the other two 0.05 each; an ignored pixel is 0."""
    first = -(0.9 * math.log(0.7) + 0.05 * math.log(0.2) + 0.05 * math.log(0.1))
    second = -(0.05 * math.log(0.1) + 0.05 * math.log(0.3) + 0.9 * math.log(0.6))
    smooth = smoothed_cross_entropy(LOGITS, LABELS, 0.1)
    torch.testing.assert_close(smooth, torch.tensor([[[first, second, 0.0]]]))
    sharp = smoothed_cross_entropy(LOGITS, LABELS, 0.0)
    torch.testing.assert_close(sharp, torch.tensor([[[-math.log(0.7), -math.log(0.6), 0.0]]]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("classes", [2, 5, 31])
def test_cross_entropy_is_the_formula_averaged_over_known_pixels(classes: int, smoothing: float) -> None:
    logits, labels = some(0, classes)
    total, count = 0.0, 0
    for n, y, x in np.ndindex(*labels.shape):
        if labels[n, y, x] == 255:
            continue
        q = [1 - smoothing if c == labels[n, y, x] else smoothing / (classes - 1) for c in range(classes)]
        p = logits[n, :, y, x].softmax(0)
        total, count = total - sum(q[c] * math.log(p[c]) for c in range(classes)), count + 1
    weight = weights(labels)
    mean = (smoothed_cross_entropy(logits, labels, smoothing) * weight).sum() / weight.sum()
    assert mean.item() == pytest.approx(total / count, rel=1e-9)


# --- overlap ---


def released_iou(p: Tensor, q: Tensor, known: Tensor) -> float:
    """mean over classes of 1 - mean over known pixels of q p / (q + p - q p + 1e-10), class by class."""
    losses = []
    for c in range(p.shape[1]):
        a, b = p[:, c][known], q[:, c][known]
        losses.append(1 - (a * b / (a + b - a * b + 1e-10)).mean().item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("background", [True, False])
def test_iou_loss_is_the_released_one_over_known_pixels(background: bool, smoothing: float) -> None:
    logits, labels = some(1)
    known, start = labels != 255, 0 if background else 1
    truth = torch.nn.functional.one_hot(torch.where(known, labels, 0), 5).permute(0, 3, 1, 2).double()
    q = truth * (1 - smoothing) + (1 - truth) * smoothing / 4
    expected = released_iou(logits.softmax(1)[:, start:], q[:, start:], known)
    found = iou_loss(logits, labels, smoothing, background)
    assert found.shape == labels.shape and not found[~known].any()
    assert (found.sum() / known.sum()).item() == pytest.approx(expected, rel=1e-6)


def test_iou_loss_by_hand() -> None:
    """Without smoothing only the true class overlaps, by exactly its probability."""
    all_classes = iou_loss(LOGITS, LABELS, 0.0)
    torch.testing.assert_close(all_classes, torch.tensor([[[1 - 0.7 / 3, 1 - 0.6 / 3, 0.0]]]))
    objects = iou_loss(LOGITS, LABELS, 0.0, background=False)
    torch.testing.assert_close(objects, torch.tensor([[[1.0, 1 - 0.6 / 2, 0.0]]]))
    doubted = [0.9 * 0.7 / (0.9 + 0.7 - 0.9 * 0.7), 0.05 * 0.2 / (0.25 - 0.01), 0.05 * 0.1 / (0.15 - 0.005)]
    assert iou_loss(LOGITS, LABELS, 0.1)[0, 0, 0].item() == pytest.approx(1 - sum(doubted) / 3, rel=1e-5)


def test_losses_by_name_are_the_sums_of_their_terms() -> None:
    assert set(TERMS) == set(CHOICES["loss"])
    logits, labels = some(2)
    ce, iou = smoothed_cross_entropy(logits, labels, 0.1), iou_loss(logits, labels, 0.1)
    objects = iou_loss(logits, labels, 0.1, background=False)
    for name, expected in {"ce": ce, "iou": iou, "ce+iou": ce + objects}.items():
        torch.testing.assert_close(loss_map(name, logits, labels, 0.1), expected)
        assert set(TERMS[name]) == set(name.split("+"))


# --- both ---


@pytest.mark.parametrize("name", TERMS)
def test_nothing_known_is_no_loss_and_no_gradient(name: str) -> None:
    logits, labels = some(3)
    logits.requires_grad_()
    loss = loss_map(name, logits, torch.full_like(labels, 255), 0.1)
    loss.sum().backward()
    assert not loss.any() and not logits.grad.any() and not weights(torch.full_like(labels, 255), 4.0).any()


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_true_and_stay_finite_far_out(name: str) -> None:
    logits, labels = some(4, 3, (1, 2, 3))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss_map(name, x, labels, 0.1), logits)
    far = (logits.detach().float() * 1e4).requires_grad_()
    for smoothing in (0.0, 0.1):
        loss_map(name, far, labels, smoothing).sum().backward()
    assert far.grad.isfinite().all()


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(name: str, half: torch.dtype) -> None:
    logits, labels = some(5)
    narrow = logits.to(half)
    assert torch.equal(loss_map(name, narrow, labels, 0.1), loss_map(name, narrow.float(), labels, 0.1))
    assert loss_map(name, narrow, labels, 0.1).dtype == torch.float32


@given(st.integers(0, 10**6), st.integers(2, 7), st.sampled_from(sorted(TERMS)), st.floats(0, 0.4))
@settings(max_examples=60, deadline=None)
def test_classes_may_be_renamed_and_every_pixel_stands_alone(seed: int, classes: int, name: str, s: float) -> None:
    logits, labels = some(seed, classes)
    loss, known = loss_map(name, logits, labels, s), labels != 255
    assert (loss[~known] == 0).all() and (loss >= 0).all()
    order = torch.from_numpy(np.r_[0, 1 + np.random.default_rng(seed).permutation(classes - 1)])
    renamed = torch.where(known, order.argsort()[torch.where(known, labels, 0)], 255)
    torch.testing.assert_close(loss_map(name, logits[:, order], renamed, s), loss)  # background stays what it is
    torch.testing.assert_close(loss_map(name, logits.flip(-1), labels.flip(-1), s), loss.flip(-1))
    halves = [loss_map(name, logits[part], labels[part], s) for part in (slice(0, 1), slice(1, None))]
    torch.testing.assert_close(torch.cat(halves), loss)


def test_weights_of_background_class_and_unknown() -> None:
    assert weights(torch.tensor([[[0, 1, 255, 7]]]), 4.0).tolist() == [[[1, 4, 0, 4]]]
    assert weights(torch.tensor([[[0, 1, 255, 7]]])).tolist() == [[[1, 1, 0, 1]]]


# --- mixup ---


def test_mixed_pictures_are_shares_of_two() -> None:
    images = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    mixed, order, share = mix(images, 0.2, np.random.default_rng(3))
    assert torch.equal(images, before) and sorted(order.tolist()) == [0, 1, 2, 3, 4] != order.tolist()
    for i, other in enumerate(order.tolist()):
        torch.testing.assert_close(mixed[i], share * images[i] + (1 - share) * images[other])
    again, same, equal = mix(images, 0.2, np.random.default_rng(3))
    assert torch.equal(again, mixed) and torch.equal(same, order) and equal == share
    assert mix(images, 0.2, np.random.default_rng(4))[2] != share


def test_shares_are_beta_distributed() -> None:
    """Mean 1/2, variance 1 / (4 (2 a + 1)); both labels' means add up to the loss of a pixel."""
    images, rng = torch.zeros(2, 3, 1, 1), np.random.default_rng(0)
    for alpha in (0.2, 2.0):
        shares = np.array([mix(images, alpha, rng)[2] for _ in range(4000)])
        assert shares.mean() == pytest.approx(0.5, abs=0.03)
        assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_a_picture_alone_is_mixed_with_itself() -> None:
    image = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    mixed, order, _ = mix(image, 0.2, np.random.default_rng(0))
    torch.testing.assert_close(mixed, image)
    assert order.tolist() == [0]


# --- counts ---


def test_scores_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 1, 1], [2, 255, 1, 0]]])
    found = torch.tensor([[[0, 1, 1, 1], [0, 2, 0, 0]]])
    counts = confusion(found, labels, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # background 2 of 5, class 1 2 of 4, class 2 0 of 1, class 3 never seen and counted as 0
    torch.testing.assert_close(class_iou(counts), torch.tensor([0.4, 0.5, 0.0, 0.0], dtype=torch.float64))
    assert pixel_accuracy(counts).item() == pytest.approx(4 / 7)
    assert class_accuracy(counts).item() == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)


def test_scores_of_nothing_are_zero() -> None:
    nothing = confusion(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), 255), 3)
    assert nothing.tolist() == [[0] * 3] * 3
    assert class_iou(nothing).tolist() == [0] * 3
    assert pixel_accuracy(nothing) == class_accuracy(nothing) == 0


@given(st.integers(0, 10**6), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_scores_agree_with_masks(seed: int, classes: int) -> None:
    logits, labels = some(seed, classes)
    found, known = logits.argmax(1), labels != 255
    counts = confusion(found, labels, classes)
    assert counts.sum() == known.sum()
    for c in range(classes):
        both, either = ((found == c) & (labels == c)).sum(), ((found == c) & known | (labels == c)).sum()
        assert class_iou(counts)[c].item() == pytest.approx(both.item() / max(either.item(), 1), abs=1e-9)
    assert pixel_accuracy(counts).item() == pytest.approx((found == labels)[known].double().mean().item())
    each = [(found == labels)[labels == c].double().mean().item() if (labels == c).any() else 0 for c in range(classes)]
    assert class_accuracy(counts).item() == pytest.approx(sum(each) / classes)
    halves = [confusion(found[part], labels[part], classes) for part in (slice(0, 1), slice(1, None))]
    assert torch.equal(sum(halves), counts), "counts of parts add up"
