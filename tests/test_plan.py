"""The plan: what the protocol's tables ask for, and that every line of it can be asked for at all."""

from dataclasses import asdict, replace

import pytest

from ttilib.episodes.benchmarks import BENCHMARKS
from ttilib.results.tables import read_reported
from ttilib.solver.methods import read_method
from ttilib.sweep.tables import TABLES, changed, on_mini, table


def asked(name, **where):
    """Methods of the table's lines in such settings."""
    lines = table(name).lines
    return {
        line.method for line in lines if all(getattr(line.setting, key) == value for key, value in where.items())
    }


def test_the_tables_of_the_protocol_are_there():
    """Rows of protocol section 5.5, and what RePRI reports."""
    for shots in (1, 5):
        assert asked("ytvis-v1", shots=shots, encoder="resnet50") == {"fine-tune", "RePRI", "TTI", "TTI+keyframe"}
        assert asked("ytvis-v1", shots=shots, encoder="resnet50-dcl") == {"RePRI", "TTI+keyframe"}
        assert {"RePRI", "TTI", "TTI+keyframe"} <= asked("ytvis-v2", shots=shots)
        for encoder in ("resnet50", "resnet101"):
            found = asked("pascal2minivspw", shots=shots, encoder=encoder)
            assert found == {"fine-tune", "RePRI", "TTI", "TTI+keyframe"}
        assert asked("minivspw", shots=shots) == {"RePRI", "TTI", "TTI+keyframe"}
        assert asked("coco2pascal", shots=shots) == {"RePRI", "oracle"}
        assert asked("pascal2davis", shots=shots) >= {"RePRI", "TTI", "TTI+keyframe"}
    for shots in (1, 5, 10):
        assert asked("pascal", shots=shots, encoder="resnet50") == {"RePRI", "oracle"}
        assert asked("coco", shots=shots) == {"RePRI", "oracle"}
    assert {line.setting.shots for line in table("ablation-shots").lines} >= {1, 5, 10}


def test_five_runs_of_four_folds_as_released():
    for plan in TABLES.values():
        if plan.name in ("mini", "cost"):
            continue
        for setting in plan.settings:
            assert (setting.runs, setting.folds, setting.seed, setting.draws) == (5, (0, 1, 2, 3), 2020, "released")
            assert setting.seen_classes == (setting.benchmark == "coco2pascal")


@pytest.mark.parametrize("plan", TABLES.values(), ids=TABLES)
def test_every_line_can_be_asked_for(plan):
    methods = [read_method(line.method) for line in plan.lines]
    assert all(method.name == line.method for method, line in zip(methods, plan.lines, strict=True))
    assert len(set(plan.lines)) == len(plan.lines) and plan.baseline in {line.method for line in plan.lines}
    assert {setting.benchmark for setting in plan.settings} <= set(BENCHMARKS)
    pairs = zip(plan.lines, methods, strict=True)
    configs = {(line.setting, replace(method, name="any")) for line, method in pairs}
    assert len(configs) == len(plan.lines), "two lines of the table are the same computation"


@pytest.mark.parametrize("plan", TABLES.values(), ids=TABLES)
def test_readers_see_short_names_that_tell_lines_apart(plan):
    for setting in plan.settings:
        names = [line.label or line.method for line in plan.lines if line.setting == setting]
        assert len(set(names)) == len(names) and all(0 < len(name) <= 16 for name in names)
    known = ("fine-tune", "RePRI", "TTI", "TTI+keyframe", "oracle")
    assert all((line.label or line.method) == line.method for line in plan.lines if line.method in known)
    assert not any(line.label in known for line in plan.lines if line.method not in known)


def test_term_ablations_switch_off_what_they_say():
    by_name = {line.method: read_method(line.method).config for line in table("ablation-terms").lines}
    alone = [c for c in by_name.values() if c.ce_weight == 0]
    assert len(alone) == 5  # KL, entropy, local, global alone; everything but cross-entropy
    temporal = [c for c in by_name.values() if c.temporal_weight is None and c.kl_weight == 0]
    assert len(temporal) == 5 and all(c.temporal_start == 9 for c in temporal)  # else they would never be on
    for part in ("local_weight", "global_weight"):
        assert sum(getattr(config, part) == 0 for config in by_name.values()) == 3


def test_every_part_of_the_recipe_is_left_out_once_and_added_alone_once():
    whole, plain = read_method("frozen"), read_method("TTI")
    chosen = {**asdict(whole.config), **asdict(whole.pipeline)}
    released = {**asdict(plain.config), **asdict(plain.pipeline)}
    parts = {name for name, value in chosen.items() if value != released[name]}
    left_out, added = set(), set()
    for line in table("ablation-frozen").lines:
        method = read_method(line.method)
        values = {**asdict(method.config), **asdict(method.pipeline)}
        base, tally = (chosen, left_out) if line.method.startswith("frozen") else (released, added)
        tally |= {name for name in parts if values[name] != base[name]}
    assert left_out == parts - {"guided_eps"}
    assert added == parts


def test_a_question_to_davis_is_asked_of_the_embedded_videos():
    assert {setting.benchmark for setting in on_mini(table("ablation-frozen")).settings} == {"ytvis-v1"}


def test_every_reported_line_of_a_planned_benchmark_with_our_methods_is_planned():
    """What others report with our methods can stand beside our number."""
    planned = {
        (line.setting.name, line.setting.shots, line.setting.encoder, line.method)
        for plan in TABLES.values() for line in plan.lines
    }  # fmt: skip
    ours = read_reported().query("method in ['fine-tune', 'RePRI', 'TTI', 'TTI+keyframe', 'oracle']")
    for row in ours.itertuples():
        assert (row.benchmark, row.shots, row.encoder, row.method) in planned, row


def test_names_of_rows_on_the_embedded_corpus_are_never_those_of_a_benchmark():
    for plan in (table("mini"), *map(on_mini, TABLES.values())):
        for setting in plan.settings:
            assert setting.name.startswith("mini-") and setting.encoder == "resnet18-mini"
            assert setting.folds == (0, 1) and setting.runs <= 2


def test_changes_reach_every_setting_and_only_what_is_given():
    plan = changed(table("minivspw"), folds=(2,), runs=None, seed=7)
    assert {(s.folds, s.runs, s.seed) for s in plan.settings} == {((2,), 5, 7)}
    assert [line.method for line in plan.lines] == [line.method for line in table("minivspw").lines]


@pytest.mark.parametrize(
    ("name", "hint"), [("ytvis_v1", "ytvis-v1"), ("ablation-term", "ablation-terms"), ("x", "mini,")]
)
def test_an_unknown_table_is_answered_with_those_like_it(name, hint):
    with pytest.raises(ValueError, match=hint):
        table(name)
