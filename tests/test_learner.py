"""One batch, one loss: every part against the same put together by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from squares import QUICK, TINY, Squares, Windows
from torch import Tensor

from ttilib.encoders.pspnet import build_encoder
from ttilib.training.config import ContrastConfig, TrainConfig
from ttilib.training.model import Batch, Learner, contrastive, known_cells, weights


def learner(config: TrainConfig) -> Learner:
    """In evaluation mode: an image's loss does not depend on the others."""
    return Learner(build_encoder(TINY, 3, seed=1), config).eval()


def batch(pairs: bool = False) -> Batch:
    frames, windows = Squares(4, 0, ignored=5), Windows(4, 5)
    parts = [torch.stack(each) for each in zip(*(frames[n] for n in range(4)), strict=True)]
    if pairs:
        parts += [torch.stack(each) for each in zip(*(windows[n + 7] for n in range(4)), strict=True)]
    return Batch.of(parts, "cpu")


def pixels(whole: Batch, config: TrainConfig = QUICK) -> Tensor:
    return weights(whole.labels, config.foreground_weight).sum()


def test_the_loss_is_a_weighted_mean_over_known_pixels() -> None:
    config, whole = replace(QUICK, label_smoothing=0.0, foreground_weight=3.0), batch()
    model = learner(config)
    with torch.no_grad():
        loss, parts, counts = model(whole, pixels(whole, config))
        each = F.cross_entropy(model.network.logits(whole.images), whole.labels, reduction="none", ignore_index=255)
        found = model.network.logits(whole.images).argmax(1)
    weight = (whole.labels != 255) * torch.where(whole.labels > 0, 3.0, 1.0)
    torch.testing.assert_close(loss, (each * weight).sum() / weight.sum())
    assert parts == {"ce": loss} and (whole.labels == 255).any()
    assert counts.sum() == (whole.labels != 255).sum()
    assert counts.diagonal().sum() == ((found == whole.labels) & (whole.labels != 255)).sum()


def test_both_losses_add_up() -> None:
    whole = batch()
    with torch.no_grad():
        loss, parts, _ = learner(replace(QUICK, loss="ce+iou"))(whole, pixels(whole))
    torch.testing.assert_close(loss, parts["ce"] + parts["iou"])
    assert list(parts) == ["ce", "iou"] and 0 < parts["iou"] < 1 < parts["ce"]


def test_mixup_mixes_pictures_and_losses() -> None:
    whole, model = batch(), learner(QUICK)
    mixed = whole.mixup(0.4, np.random.default_rng(3))
    share, order = mixed.share, mixed.mixed
    assert 0 < share < 1 and share != 0.5 and not torch.equal(order, torch.arange(4))
    torch.testing.assert_close(mixed.images, share * whole.images + (1 - share) * whole.images[order])
    assert torch.equal(mixed.labels, whole.labels)
    with torch.no_grad():
        loss = model(mixed, pixels(whole)).loss
        first, second = (
            model(replace(mixed, labels=labels, mixed=None), pixels(whole)).loss
            for labels in (whole.labels, whole.labels[order])
        )
    torch.testing.assert_close(loss, share * first + (1 - share) * second)
    assert first != second


@pytest.mark.parametrize(
    "options",
    [
        {}, {"project": False}, {"features": "bottleneck"}, {"features": "bottleneck", "project": False},
        {"pooled": True}, {"temperature": 1.0}, {"weight": 2.0},
    ],
)  # fmt: skip
def test_the_contrast_step_by_step(options: dict) -> None:
    """First frame against the second, features of the layer asked for, the mean over its known cells, weighted."""
    settings = ContrastConfig(width=5, **options)
    whole, model = batch(pairs=True), learner(replace(QUICK, contrast=settings))
    assert whole.pairs.shape == (4, 2, 3, 33, 33) and not whole.known[:, 0].all()
    whole = replace(whole, known=torch.stack([whole.known[:, 0], torch.ones_like(whole.known[:, 1])], 1))
    with torch.no_grad():
        loss, parts, _ = model(whole, pixels(whole))
        maps = []
        for frame in whole.pairs.unbind(1):
            inner = model.network.layer0(frame)
            inner = model.network.layer3(model.network.layer2(model.network.layer1(inner)))
            seen = inner if settings.features == "stage3" else model.network(frame)
            seen = F.adaptive_avg_pool2d(seen, 7) if settings.pooled else seen
            maps.append(model.head(seen) if settings.project else seen)
        rows = contrastive(*maps, settings.temperature)
        known = known_cells(whole.known[:, 0], tuple(maps[0].shape[-2:]))
    assert (model.head is not None) == settings.project and not known.all()
    torch.testing.assert_close(parts["contrast"], rows[known].mean())
    torch.testing.assert_close(loss, parts["ce"] + settings.weight * parts["contrast"])
    other_way = contrastive(*reversed(maps), settings.temperature)
    assert not torch.isclose(parts["contrast"], other_way[known].mean())


def test_parts_of_a_batch_add_up_to_it() -> None:
    """The supervised loss does, whatever is unknown in a part; of the contrast it is the mean of the parts' means."""
    config = replace(QUICK, accumulate=2, contrast=ContrastConfig(width=5))
    whole, model = batch(pairs=True), learner(config)
    with torch.no_grad():
        pieces = [model(piece, pixels(whole)) for piece in whole.split(2)]
        at_once = model(whole, pixels(whole))
        alone = [learner(replace(config, accumulate=1))(piece, pixels(whole)) for piece in whole.split(2)]
    torch.testing.assert_close(sum(piece.parts["ce"] for piece in pieces), at_once.parts["ce"])
    assert torch.equal(pieces[0].counts + pieces[1].counts, at_once.counts)
    mean = sum(each.parts["contrast"] for each in alone) / 2
    torch.testing.assert_close(sum(piece.parts["contrast"] for piece in pieces), mean)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_and_sums_are_single(precision: str) -> None:
    whole, contrast = batch(pairs=True), ContrastConfig(width=5)
    with torch.no_grad():
        full, half = (
            learner(replace(QUICK, contrast=contrast, precision=each))(whole, pixels(whole))
            for each in ("fp32", precision)
        )
    assert half.loss != full.loss and half.loss.dtype == torch.float32
    torch.testing.assert_close(half.loss, full.loss, rtol=0.02, atol=0)


def test_clips_are_as_many_pictures() -> None:
    images, labels = torch.rand(2, 3, 3, 9, 9), torch.randint(3, (2, 3, 9, 9))
    pairs, known = torch.rand(2, 4, 2, 3, 9, 9), torch.rand(2, 4, 2, 9, 9) > 0.5
    flat = Batch.of((images, labels, pairs, known), "cpu")
    assert torch.equal(flat.images[4], images[1, 1]) and torch.equal(flat.labels[4], labels[1, 1])
    assert torch.equal(flat.pairs[5, 1], pairs[1, 1, 1]) and torch.equal(flat.known[5, 1], known[1, 1, 1])
    first, second = flat.split(2)
    assert torch.equal(second.images, flat.images[3:]) and torch.equal(first.pairs, flat.pairs[:4])
