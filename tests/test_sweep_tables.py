"""The tables: rows as in the paper, every line a different computation that the library knows."""

from dataclasses import replace

import pytest

from ttilib.episodes.benchmarks import BENCHMARKS
from ttilib.solver.methods import read_method
from ttilib.sweep.tables import TABLES, changed, on_mini, table


def test_rows_of_the_paper():
    """docs/protocol.md 5.5, and RePRI's README for images."""
    expected = {
        "ytvis-v1": ("TTI+keyframe RePRI TTI fine-tune", (5, 1), ("resnet50",)),
        "ytvis-v2": ("TTI+keyframe RePRI TTI fine-tune", (5, 1), ("resnet50",)),
        "pascal2minivspw": ("TTI+keyframe RePRI TTI fine-tune", (1, 5), ("resnet50", "resnet101")),
        "minivspw": ("TTI+keyframe RePRI TTI", (1, 5), ("resnet50",)),
        "pascal": ("RePRI oracle", (1, 5, 10), ("resnet50", "resnet101")),
        "coco": ("RePRI oracle", (1, 5, 10), ("resnet50",)),
        "coco2pascal": ("RePRI oracle", (1, 5), ("resnet50",)),
    }
    for name, (methods, shots, encoders) in expected.items():
        lines = {(line.setting.shots, line.setting.encoder, line.method) for line in table(name).lines}
        if name == "ytvis-v1":
            dcl = {(k, "resnet50-dcl", m) for k in (5, 1) for m in ("RePRI", "TTI+keyframe")}
            assert dcl <= lines
            lines -= dcl
        assert lines == {(k, e, m) for k in shots for e in encoders for m in methods.split()}
        for setting in table(name).settings:
            assert (setting.runs, setting.folds, setting.seed, setting.draws) == (5, (0, 1, 2, 3), 2020, "released")
            assert setting.seen_classes == (name == "coco2pascal")


@pytest.mark.parametrize("plan", TABLES.values(), ids=TABLES)
def test_lines_are_different_computations_with_different_labels(plan):
    methods = [read_method(line.method) for line in plan.lines]
    assert [method.name for method in methods] == [line.method for line in plan.lines]
    computations = {(line.setting, replace(m, name="any")) for line, m in zip(plan.lines, methods, strict=True)}
    assert len(computations) == len(plan.lines) == len({(line.setting, line.label) for line in plan.lines})
    assert plan.baseline in {line.method for line in plan.lines}
    assert {setting.benchmark for setting in plan.settings} <= set(BENCHMARKS)


def test_rows_on_synthetic_data_are_never_named_after_a_benchmark_and_changes_reach_every_setting():
    for plan in map(on_mini, TABLES.values()):
        assert plan == table("mini") or plan.name.startswith("mini-") and "synthetic" in plan.title
        for setting in plan.settings:
            assert setting.name.startswith("mini-") and setting.encoder == "resnet18-mini"
            assert setting.folds == (0, 1) and setting.runs <= 2 and setting.benchmark != "pascal2davis"
    plan = changed(table("minivspw"), folds=(2,), seed=7)
    assert {(s.folds, s.runs, s.seed) for s in plan.settings} == {((2,), 5, 7)}
