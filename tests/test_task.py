"""An episode as features: masks at feature size, unit features in chunks, and the true proportion for oracles."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import config
from tasks import random_task, toy_encoder

from ttilib.episodes.clips import synthetic_clip
from ttilib.solver.task import downsample, extract, oracle_prior


def test_a_clip_becomes_unit_features_in_chunks_and_masks_by_legacy_nearest():
    clip, seen = synthetic_clip(frames=5, shots=2, size=(65, 97)), []
    task = extract(lambda images: seen.append(len(images)) or toy_encoder(images), clip, chunk=2)
    assert seen == [2, 2, 2, 1] and task.shots == 2 and task.grid == (9, 13) and task.size == (65, 97)
    for features in (task.support, task.query):
        torch.testing.assert_close(features.norm(dim=1), torch.ones_like(features[:, 0]))
    assert torch.equal(task.support_masks, downsample(clip.support_masks, (9, 13)))
    torch.testing.assert_close(extract(toy_encoder, clip).query, task.query)
    rows = [241 * cell // 31 for cell in range(31)]  # 241 pixels on 31 cells (docs/protocol.md S13)
    assert rows[:4] == [0, 7, 15, 23]
    masks = torch.rand(2, 241, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(downsample(masks, (31, 3)), masks[:, rows][:, :, [0, 3, 6]])


def test_features_in_half_precision_become_float32():
    clip = synthetic_clip(frames=3, size=(65, 97))
    task = extract(lambda images: toy_encoder(images).bfloat16(), clip)
    assert task.support.dtype == task.query.dtype == torch.float32
    torch.testing.assert_close(task.query, extract(toy_encoder, clip).query, atol=0.01, rtol=0)


def test_an_encoder_is_in_evaluation_mode_and_gives_a_feature_map():
    clip, network = synthetic_clip(frames=3, shots=2, size=(33, 49)), torch.nn.BatchNorm2d(3)
    task = extract(network, clip)
    assert network.training and network.num_batches_tracked == 0
    assert torch.equal(task.query, extract(network.eval(), clip).query) and task.grid == clip.size
    flat = torch.nn.Sequential(torch.nn.Flatten())
    with pytest.raises(ValueError, match=r"Sequential: its output is torch.float32 \[2, 4851\], not a feature map"):
        extract(flat, clip)


def empty(parts):
    return parts[:0]


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        (("support", "support_masks", "support_valid"), empty),
        (("query", "query_valid"), empty),
        (("query",), torch.Tensor.float),
        (("support",), lambda features: features[:, 1:]),
        (("support_masks",), lambda masks: masks[:1]),
        (("query_valid",), lambda masks: masks[..., 1:]),
    ],
)
def test_a_task_with_parts_that_do_not_fit_is_refused(fields, change, monkeypatch):
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # as for users, whose shapes it does not check
    task = random_task()
    with pytest.raises(ValueError, match=r"test/f0/blob/v0: support torch.float.*; give features \[N, C, h, w\]"):
        replace(task, **{field: change(getattr(task, field)) for field in fields})


def test_the_oracle_prior_is_the_true_proportion_of_valid_cells_with_a_relative_error():
    task = random_task(frames=3, padding=0.3)
    truth = torch.zeros(3, *task.size, dtype=torch.bool)
    truth[:-1, : task.size[0] // 2] = True
    expected = task.query_valid[:, :2].sum(dim=(1, 2)) / task.query_valid.sum(dim=(1, 2)) * torch.tensor([1, 1, 0])
    assert expected[0] not in (0, 0.5)
    torch.testing.assert_close(oracle_prior(truth, task), expected)
    torch.testing.assert_close(oracle_prior(truth, task, -0.2), 0.8 * expected)
    assert oracle_prior(truth, task, 9.0).tolist() == [1, 1, 0]  # clamped
    norm = torch.rand(task.query_valid.shape, dtype=torch.float64)
    assert torch.equal(replace(task, query_norm=norm).query_weight, norm * task.query_valid)
