"""Settings of a run are changed by name; its log is right, and survives being cut off anywhere."""

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ttilib.training import log
from ttilib.training.config import LEAK, ContrastConfig, TrainConfig, changed


def row(step, per_epoch=3, epochs=3, **more):
    """A step that took 2 s, half a second of it waiting, with a loss that equals its number."""
    measured = {"val_miou": 0.1 * step, "val_loss": None, "train_miou": 0.2, "train_accuracy": 0.5}
    measured |= {"train_class_accuracy": 0.25}
    return {
        "epoch": (step - 1) // per_epoch + 1, "step": step, "steps": per_epoch * epochs, "loss": float(step),
        "parts": {"ce": step / 2, "contrast": 5.0 * step}, "learning_rate": 1 / step, "seconds": 2.0 * step,
        "waited": 0.5, "eta": 1.0, **(measured if step % per_epoch == 0 else dict.fromkeys(measured)), **more,
    }  # fmt: skip


def written(folder, steps):
    for step in range(1, steps + 1):
        log.append(folder, row(step))
    return folder / "log.jsonl"


def steps_of(folder):
    return [each["step"] for each in log.read_log(folder)]


def table(folder):
    with open(folder / "epochs.csv", newline="") as file:
        return list(csv.DictReader(file))


@given(cut=st.integers(0, 2000), steps=st.integers(0, 8))
@example(cut=len(json.dumps(row(1))), steps=8)  # just before the end of the line
@settings(max_examples=30)
def test_a_log_cut_off_anywhere_is_read_up_to_there_and_goes_on(tmp_path_factory, cut, steps):
    folder = tmp_path_factory.mktemp("cut")
    data = written(folder, 6).read_bytes()[:cut]
    (folder / "log.jsonl").write_bytes(data)
    complete = data.count(b"\n")
    assert log.read_log(folder) == [row(step) for step in range(1, complete + 1)]
    log.trim(folder, steps, 0)
    kept = min(complete, steps)
    log.append(folder, row(kept + 1))
    with pytest.raises(ValueError):
        log.append(folder, row(2, loss=float("nan")))
    assert steps_of(folder) == list(range(1, kept + 2))


def test_a_damaged_line_is_named(tmp_path):
    path = written(tmp_path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    for damage in (b"\xff\n", json.dumps(row(2) | {"step": -1}).encode() + b"\n"):
        path.write_bytes(b"".join([lines[0], damage, *lines[2:]]))
        with pytest.raises(ValueError, match="log.jsonl: line 2"):
            log.read_log(tmp_path)


def test_trimming_leaves_the_table_and_plots_of_what_was_done_by_then(tmp_path):
    written(tmp_path, 9)
    log.write_epochs(tmp_path)
    (tmp_path / "samples").mkdir()
    for name in ("epoch_001", "epoch_002", "pairs_001", "pairs_003", "epoch_mine", "mine_003"):
        (tmp_path / "samples" / f"{name}.png").touch()
    log.trim(tmp_path, 5, 1)
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5] and [each["epoch"] for each in table(tmp_path)] == ["1"]
    left = {path.stem for path in (tmp_path / "samples").iterdir()}
    assert left == {"epoch_001", "pairs_001", "epoch_mine", "mine_003"}


def test_the_table_has_means_ends_and_shares_of_each_epoch(tmp_path):
    for step in range(1, 9):  # a term that came later is averaged over the steps that had it
        log.append(tmp_path, row(step) if step < 5 else row(step, parts={"ce": step / 2, "iou": 7.0}))
    log.write_epochs(tmp_path)
    _, second, third = table(tmp_path)
    assert list(second.values())[:2] == ["2", "3"]
    assert [second[name] for name in ("loss", "ce", "contrast", "iou")] == ["5", "2.5", "20", "7"]
    assert [second[name] for name in ("val_miou", "train_miou", "train_accuracy")] == ["0.6", "0.2", "0.5"]
    assert [float(second[name]) for name in ("learning_rate", "seconds", "waiting")] == [0.166667, 6.0, 0.25]
    assert [third[name] for name in ("steps", "seconds", "val_miou")] == ["2", "4", ""]  # not yet at its end


RELEASED = {  # dataset: epochs, batch, frames of a clip, frame stride, repeats; docs/protocol.md 1.3 and 4
    "ytvis": (10, 6, 5, 5, 10), "pascal": (100, 12, 0, 1, 1), "coco": (20, 12, 0, 1, 1),
    "coco-full": (20, 12, 0, 1, 1), "vspw": (10, 6, 0, 1, 1),
}  # fmt: skip


def test_released_settings() -> None:
    for corpus, due in RELEASED.items():
        config = TrainConfig.released(corpus)
        assert (config.epochs, config.batch, config.clip_frames, config.every, config.repeats) == due
    assert TrainConfig.released("vspw").validation == "minivspw-val"
    with pytest.raises(ValueError, match="'davis'.*ytvis"):
        TrainConfig.released("davis")


def test_fields_are_changed_by_name() -> None:
    before = TrainConfig(epochs=5, milestones=(5, 7), pretrained="")
    assert changed(before, {}) == before and changed(before, {"milestones": 30}).milestones == (30,)
    once = changed(before, {"contrast.weight": 0.5, "every": 3})
    assert once == replace(before, contrast=ContrastConfig(weight=0.5), every=3), "without the prefix it is the run's"
    twice = changed(once, {"contrast.videos": LEAK, "epochs": 2, "contrast.pooled": True})
    assert twice.contrast == ContrastConfig(weight=0.5, videos=LEAK, pooled=True) and twice.epochs == 2
    assert changed(twice, {"contrast": None}).contrast is None
    with pytest.raises(ValueError, match=r"'contrast.wieght' is not known; did you mean contrast\.weight\?"):
        changed(before, {"contrast.wieght": 0.5})
