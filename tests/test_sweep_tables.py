"""The tables: rows as in the paper, every line a different computation that the library knows."""

from dataclasses import asdict, replace

import pytest

from ttilib.episodes.benchmarks import BENCHMARKS
from ttilib.results.tables import read_reported
from ttilib.solver.methods import read_method
from ttilib.sweep.tables import TABLES, changed, on_mini, table


def settings_of(method):
    """Settings of solver and pipeline by name, of a method text."""
    found = read_method(method)
    return {**asdict(found.config), **asdict(found.pipeline)}


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
    named = ("fine-tune", "RePRI", "TTI", "TTI+keyframe", "oracle")
    assert all(len(line.label) <= 16 and (line.label in named) <= (line.label == line.method) for line in plan.lines)


def test_labels_of_the_term_ablation_are_what_the_method_does():
    """Each term alone, with CE, and left out; without a KL term, an explicit start enables the temporal terms."""
    terms = {"CE": "ce_weight", "KL": "kl_weight", "entropy": "entropy_weight", "local": "local_weight",
             "global": "global_weight"}  # fmt: skip
    for line in table("ablation-terms").lines[2:-1]:  # between TTI, fine-tune and RePRI
        settings = settings_of(line.method)
        on = {term for term, name in terms.items() if settings[name] != 0}  # a weight of none is the release's own
        if settings["temporal_weight"] == 0:
            on -= {"local", "global"}
        named = set(line.label.replace(" alone", "").replace("without ", "").split(" + "))
        assert on == (set(terms) - named if "without" in line.label else named), line.label
        assert settings["temporal_start"] == (9 if "KL" not in on and on & {"local", "global"} else None), line.label


def test_the_frozen_ablation_leaves_out_and_adds_every_part_once():
    parts = {name for name, value in settings_of("frozen").items() if value != settings_of("TTI")[name]}
    left_out, added = [], []
    for line in table("ablation-frozen").lines[: len(table("ablation-frozen").lines) // 2]:
        base, found = ("frozen", left_out) if line.method.startswith("frozen") else ("TTI", added)
        values = settings_of(line.method)
        found += [name for name in parts if values[name] != settings_of(base)[name]]
        cut, guided = values["cut"] == 0, values["guided"] == 0
        assert (line.label in ("no cut", "no edges")) == (base == "frozen" and cut)
        assert (line.label == "no edges") == (base == "frozen" and guided)
    assert set(left_out) == parts - {"guided_eps"} and set(added) == parts


def test_reported_results_of_our_methods_have_a_line_to_compare_with():
    lines = {(s.name, s.shots, s.encoder, line.method) for plan in TABLES.values() for line in plan.lines
             for s in [line.setting]}  # fmt: skip
    ours = read_reported().query("method in ['fine-tune', 'RePRI', 'TTI', 'TTI+keyframe', 'oracle']")
    assert len(ours) and all((row.benchmark, row.shots, row.encoder, row.method) in lines for row in ours.itertuples())


def test_rows_on_synthetic_data_are_never_named_after_a_benchmark_and_changes_reach_every_setting():
    for plan in (table("mini"), *map(on_mini, TABLES.values())):
        for setting in plan.settings:
            assert setting.name.startswith("mini-") and setting.encoder == "resnet18-mini"
            assert setting.folds == (0, 1) and setting.runs <= 2 and setting.benchmark != "pascal2davis"
    plan = changed(table("minivspw"), folds=(2,), runs=None, seed=7)
    assert {(s.folds, s.runs, s.seed) for s in plan.settings} == {((2,), 5, 7)}
    with pytest.raises(ValueError, match="ytvis-v1"):
        table("ytvis_v1")
