"""Losses, learner and optimizer of base training against values by hand, the formulas in full, and torch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from squares import QUICK, TINY, Squares, Windows
from torch import Tensor
from torch.optim import lr_scheduler

from ttilib.encoders.pspnet import build_encoder
from ttilib.solver.task import downsample
from ttilib.training import model as tm
from ttilib.training.config import ContrastConfig, TrainConfig

# three pixels side by side: class 0, class 2, ignored; the logits are off by a constant that must not matter
P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.98, 0.01, 0.01]])
LOGITS = (P.log() + torch.tensor([[1.0], [2.0], [3.0]])).T.reshape(1, 3, 1, 3)
LABELS = torch.tensor([[[0, 2, 255]]])


def loss_map(name: str, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return torch.stack([term(logits, labels, smoothing) for term in tm.TERMS[name].values()]).sum(0)


def test_losses_by_hand() -> None:
    """Smoothed: true class 0.9, the other two 0.05 each; an ignored pixel is 0."""
    first = -(0.9 * math.log(0.7) + 0.05 * math.log(0.2) + 0.05 * math.log(0.1))
    second = -(0.05 * math.log(0.1) + 0.05 * math.log(0.3) + 0.9 * math.log(0.6))
    torch.testing.assert_close(tm.smoothed_cross_entropy(LOGITS, LABELS, 0.1), torch.tensor([[[first, second, 0.0]]]))
    sharp = torch.tensor([[[-math.log(0.7), -math.log(0.6), 0.0]]])
    torch.testing.assert_close(tm.smoothed_cross_entropy(LOGITS, LABELS, 0.0), sharp)
    classes = torch.tensor([[[1 - 0.7 / 3, 1 - 0.6 / 3, 0.0]]])  # only the true class overlaps, by its probability
    torch.testing.assert_close(tm.iou_loss(LOGITS, LABELS, 0.0), classes)
    objects = torch.tensor([[[1.0, 1 - 0.6 / 2, 0.0]]])
    torch.testing.assert_close(tm.iou_loss(LOGITS, LABELS, 0.0, background=False), objects)
    smooth = [0.9 * 0.7 / (0.9 + 0.7 - 0.9 * 0.7), 0.05 * 0.2 / (0.25 - 0.01), 0.05 * 0.1 / (0.15 - 0.005)]
    assert tm.iou_loss(LOGITS, LABELS, 0.1)[0, 0, 0].item() == pytest.approx(1 - sum(smooth) / 3, rel=1e-5)
    both = tm.smoothed_cross_entropy(LOGITS, LABELS, 0.1) + tm.iou_loss(LOGITS, LABELS, 0.1, background=False)
    torch.testing.assert_close(loss_map("ce+iou", LOGITS, LABELS, 0.1), both)
    assert tm.pixel_weights(torch.tensor([[[0, 1, 255, 7]]]), 4.0).tolist() == [[[1, 4, 0, 4]]]


@pytest.mark.parametrize("name", tm.TERMS)
def test_gradients_are_true_finite_far_out_and_zero_at_the_ignore_label(name: str) -> None:
    rng = np.random.default_rng(4)
    logits = torch.from_numpy(rng.normal(0, 3, (1, 3, 2, 3))).requires_grad_()
    labels = torch.tensor([[[0, 2, 255], [1, 1, 0]]])
    assert torch.autograd.gradcheck(lambda x: loss_map(name, x, labels, 0.1), logits)
    far = (logits.detach().float() * 1e4).requires_grad_()
    loss_map(name, far, labels, 0.0).sum().backward()
    assert far.grad.isfinite().all()
    loss = loss_map(name, logits, torch.full_like(labels, 255), 0.1)
    loss.sum().backward()
    assert not loss.any() and not logits.grad.any()
    narrow = logits.detach().to(torch.bfloat16)  # widened before logarithms and ratios
    assert torch.equal(loss_map(name, narrow, labels, 0.1), loss_map(name, narrow.float(), labels, 0.1))


def test_scores_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 1, 1], [2, 255, 1, 0]]])
    found = torch.tensor([[[0, 1, 1, 1], [0, 2, 0, 0]]])
    counts = tm.confusion(F.one_hot(found, 4).movedim(-1, 1).float(), labels)
    assert counts.tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # background 2 of 5, class 1 2 of 4, class 2 0 of 1, class 3 without pixels, counted as 0
    torch.testing.assert_close(tm.class_iou(counts), torch.tensor([0.4, 0.5, 0.0, 0.0], dtype=torch.float64))
    expected = {"train_miou": 0.9 / 4, "train_accuracy": 4 / 7, "train_class_accuracy": (2 / 3 + 2 / 3) / 4}
    assert tm.training_scores(counts) == pytest.approx(expected)
    assert set(tm.training_scores(torch.zeros_like(counts)).values()) == {0.0}


@pytest.mark.parametrize("pairs", [1, tm.CHUNK + 1])
def test_contrastive_loss_is_cross_entropy_with_the_best_match(pairs: int) -> None:
    """Cell by cell: the best match first, then all others, divided by the temperature; pairs do not mix."""
    rng = np.random.default_rng(0)
    first, second = (torch.from_numpy(rng.normal(0, 1, (pairs, 3, 2, 3))) for _ in range(2))
    for temperature in (0.1, 7.0):
        products = torch.einsum("pci,pcj->pij", first.flatten(2), second.flatten(2)) / temperature
        ordered = products.sort(-1, descending=True).values.flatten(0, 1)
        due = F.cross_entropy(ordered, torch.zeros(len(ordered), dtype=torch.int64), reduction="none")
        torch.testing.assert_close(tm.contrastive(first, second, temperature), due.reshape(pairs, 6))
    assert not torch.allclose(tm.contrastive(first, second, 1.0), tm.contrastive(second, first, 1.0))
    first, second = (x[:1].requires_grad_() for x in (first, second))
    assert torch.autograd.gradcheck(lambda a, b: tm.contrastive(a, b, 0.7), (first, second))


def test_large_products_lose_no_digits() -> None:
    """Products of stage-3 features are in the thousands; the loss of a near tie is not, also under autocast."""
    first, second = torch.full((1, 1, 1, 2), 4096.0), torch.tensor([[[[64.0, 64.0 - 2**-12]]]])  # differ by 1
    with torch.autocast("cpu", torch.bfloat16):
        due = torch.full((1, 2), math.log(1 + math.exp(-2)))
        torch.testing.assert_close(tm.contrastive(first, second, 0.5), due, rtol=1e-6, atol=0)


def test_the_head_is_as_released() -> None:
    """Padded, weighted, normalised, ReLU, padded, weighted; the outermost ring is 0."""
    head, x = tm.contrast_head(3, 2).eval(), torch.rand(2, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head[1].running_mean.copy_(torch.tensor([0.1, -0.2]))
        head[1].bias.copy_(torch.tensor([0.3, -0.1]))
        inner = torch.einsum("oc,nchw->nohw", head[0].weight[:, :, 0, 0], F.pad(x, (1, 1, 1, 1)))
        inner = (inner - head[1].running_mean.view(1, 2, 1, 1)) / math.sqrt(1 + 1e-5) + head[1].bias.view(1, 2, 1, 1)
        expected = torch.einsum("oc,nchw->nohw", head[3].weight[:, :, 0, 0], F.pad(inner.clamp_min(0), (1, 1, 1, 1)))
        torch.testing.assert_close(head(x), expected)
    assert {"0.weight", "1.running_mean", "3.weight"} <= head.state_dict().keys()


def learner(**changes: object) -> tm.Learner:
    """In evaluation mode: an image's loss does not depend on the others."""
    return tm.Learner(build_encoder(TINY, 3, seed=1), replace(QUICK, **changes)).eval()


def make_batch(pairs: bool = False) -> tm.Batch:
    frames, windows = Squares(4, 0, ignored=5), Windows(4, 5)
    parts = [torch.stack(each) for each in zip(*(frames[n] for n in range(4)), strict=True)]
    if pairs:
        parts += [torch.stack(each) for each in zip(*(windows[n + 7] for n in range(4)), strict=True)]
    return tm.Batch.of(parts, "cpu")


@torch.no_grad()
def test_the_loss_is_a_weighted_mean_over_valid_pixels() -> None:
    batch, model = make_batch(), learner(label_smoothing=0.0, foreground_weight=3.0, loss="ce+iou")
    weight = (batch.labels != 255) * torch.where(batch.labels > 0, 3.0, 1.0)
    loss, parts, counts = model(batch, weight.sum())
    logits = model.network.logits(batch.images)
    each = F.cross_entropy(logits, batch.labels, reduction="none", ignore_index=255)
    torch.testing.assert_close(parts["ce"], (each * weight).sum() / weight.sum())
    torch.testing.assert_close(loss, parts["ce"] + parts["iou"])
    assert list(parts) == ["ce", "iou"] and (batch.labels == 255).any()
    assert torch.equal(counts, tm.confusion(logits, batch.labels))


@torch.no_grad()
def test_mixup_mixes_images_and_losses() -> None:
    batch, model = make_batch(), learner()
    mixed, again = (batch.mixup(0.4, np.random.default_rng(3)) for _ in range(2))
    share, order = mixed.share, mixed.mixed
    assert sorted(order.tolist()) == [0, 1, 2, 3] != order.tolist() and torch.equal(again.images, mixed.images)
    torch.testing.assert_close(mixed.images, share * batch.images + (1 - share) * batch.images[order])
    both = [replace(mixed, labels=labels, mixed=None) for labels in (batch.labels, batch.labels[order])]
    loss, first, second = (model(each, 100.0).loss for each in (mixed, *both))
    torch.testing.assert_close(loss, share * first + (1 - share) * second)
    shares = np.array([batch.mixup(0.2, rng).share for rng in map(np.random.default_rng, range(1000))])
    assert shares.mean() == pytest.approx(0.5, abs=0.05) and first != second
    assert shares.var() == pytest.approx(1 / (4 * 1.4), rel=0.1)  # Beta: variance 1 / (4 (2 a + 1))


OPTIONS = {"project": False, "weight": 2.0, "pooled": True}, {"features": "bottleneck", "temperature": 1.0}


@pytest.mark.parametrize("options", [{}, {"pooled": True}, *OPTIONS])
@torch.no_grad()
def test_the_contrast_step_by_step(options: dict) -> None:
    """First frame against the second, features of the layer asked for, the mean over its valid cells, weighted."""
    settings = ContrastConfig(width=5, **options)
    batch, model = make_batch(pairs=True), learner(contrast=settings)
    batch = replace(batch, valid=torch.stack([batch.valid[:, 0], torch.ones_like(batch.valid[:, 1])], 1))
    loss, parts, _ = model(batch, 1000.0)
    maps = []
    for frame in batch.pairs.unbind(1):
        found = model.network.stage3(frame) if settings.features == "stage3" else model.network(frame)
        if settings.project:  # pooling acts through the head only
            found = model.head(F.adaptive_avg_pool2d(found, 7) if settings.pooled else found)
        maps.append(found)
    valid = downsample(batch.valid[:, 0], tuple(maps[0].shape[-2:])).flatten(1)
    assert (model.head is not None) == settings.project and not valid.all()
    torch.testing.assert_close(parts["contrast"], tm.contrastive(*maps, settings.temperature)[valid].mean())
    torch.testing.assert_close(loss, parts["ce"] + settings.weight * parts["contrast"])


@pytest.mark.parametrize("statistics", ["all", "features"])
def test_unlabelled_frames_move_the_statistics_of_the_complete_network(statistics: str) -> None:
    """By labelled and unlabelled images in turn, as by calling the network twice; later layers get no gradient."""
    batch, model = make_batch(pairs=True), learner(contrast=ContrastConfig(width=5, statistics=statistics)).train()
    due = learner().train().network
    with torch.no_grad():
        due(batch.images)
        (due if statistics == "all" else due.stage3)(batch.pairs.flatten(0, 1))
    model.contrast(batch).backward()
    assert model.network.layer4[0].conv1.weight.grad is None and model.network.layer3[0].conv1.weight.grad.any()
    model = learner(contrast=ContrastConfig(width=5, statistics=statistics)).train()
    model(batch, 1000.0)
    for name, value in due.named_buffers():
        torch.testing.assert_close(model.network.get_buffer(name), value, msg=name)


@torch.no_grad()
def test_parts_of_a_batch_add_up_to_it() -> None:
    """The supervised loss does, whatever is ignored in a part; the contrast is the mean of the parts' means."""
    contrast, batch = ContrastConfig(width=5), make_batch(pairs=True)
    model, single = learner(accumulate=2, contrast=contrast), learner(contrast=contrast)
    once = single(batch, 1000.0)
    pieces, alone = ([each(piece, 1000.0) for piece in batch.split(2)] for each in (model, single))
    torch.testing.assert_close(sum(piece.parts["ce"] for piece in pieces), once.parts["ce"])
    assert torch.equal(pieces[0].counts + pieces[1].counts, once.counts)
    mean = sum(each.parts["contrast"] for each in alone) / 2
    torch.testing.assert_close(sum(piece.parts["contrast"] for piece in pieces), mean)
    half = learner(contrast=contrast, precision="bf16")(batch, 1000.0).loss
    assert half != once.loss and half.dtype == torch.float32
    torch.testing.assert_close(half, once.loss, rtol=0.02, atol=0)


CONFIG = TrainConfig(learning_rate=0.01, new_layers_rate=10.0, weight_decay=0.1, epochs=4)


def test_every_layer_is_a_group_with_its_own_rate() -> None:
    network, head = build_encoder(TINY, 3), tm.contrast_head(16, 4)
    names = ("layer0", "layer1", "layer2", "layer3", "layer4", "ppm", "bottleneck", "classifier")
    layers = [*(network.get_submodule(name) for name in names), head]
    for name in ("sgd", "adam", "adamw"):
        optimizer = tm.build_optimizer(network, head, replace(CONFIG, optimizer=name))
        found = [([id(p) for p in g["params"]], g["scale"], g["weight_decay"]) for g in optimizer.param_groups]
        scales = [1.0] * 5 + [10.0] * 4
        assert found == [([id(p) for p in x.parameters()], k, 0.1) for x, k in zip(layers, scales, strict=True)]
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.01 * scale for scale in scales])
        assert type(optimizer).__name__.lower() == name


@given(st.integers(1, 8), st.integers(1, 5), st.sampled_from([0.1, 1.0]), st.lists(st.integers(1, 9), min_size=1))
@settings(max_examples=15)
def test_rates_are_those_of_torch(epochs: int, per_epoch: int, factor: float, ends: list[int]) -> None:
    config = TrainConfig(epochs=epochs, step_epochs=ends[0], milestones=tuple(ends), decay_factor=factor)
    steps = per_epoch * epochs
    for schedule, build in {
        "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, steps, config.last_learning_rate),
        "step": lambda optimizer: lr_scheduler.StepLR(optimizer, config.step_epochs, factor),
        "multi-step": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, ends, factor),
    }.items():
        optimizer, expected = torch.optim.SGD([torch.zeros(1, requires_grad=True)], config.learning_rate), []
        reference = build(optimizer)
        for step in range(1, steps + 1):  # stepped as the release steps it
            expected.append(reference.get_last_lr()[0])
            optimizer.step()
            if schedule == "cosine" or step % per_epoch == 0:
                reference.step()
        found = [tm.learning_rate(step, per_epoch, replace(config, schedule=schedule)) for step in range(steps)]
        assert found == pytest.approx(expected, rel=1e-9)


def test_rates_of_new_layers_fall_to_the_same_end() -> None:
    """As torch's cosine does for every group; as an option to ten times it."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 10 * CONFIG.learning_rate)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, 8, CONFIG.last_learning_rate)
    for step in range(9):
        base = tm.learning_rate(step, 2, CONFIG)
        assert tm.learning_rate(step, 2, CONFIG, 10.0) == pytest.approx(cosine.get_last_lr()[0], rel=1e-9)
        assert tm.learning_rate(step, 2, replace(CONFIG, last_rates="scaled"), 10.0) == pytest.approx(10 * base)
        optimizer.step(), cosine.step()
