"""An episode as features: masks at feature size, unit features in chunks, and the true proportion for oracles."""

from dataclasses import replace

import torch
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
