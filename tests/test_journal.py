"""What a run writes for people is right, survives being cut off anywhere, and never stops the run."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import closing

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ttilib.datasets.transforms import normalise
from ttilib.images import read_image
from ttilib.training import log as journal


def row(step, per_epoch=3, epochs=3, **more):
    """A step that took 2 s, half a second of it waiting, with a loss that equals its number."""
    end = step % per_epoch == 0
    judged = {"val_miou": 0.1 * step, "train_miou": 0.2, "train_accuracy": 0.5, "train_class_accuracy": 0.25}
    numbers = {name: value if end else None for name, value in judged.items()}
    where = {"epoch": (step - 1) // per_epoch + 1, "step": step, "steps": per_epoch * epochs}
    losses = {"loss": float(step), "parts": {"ce": step / 2, "contrast": 5.0 * step}}
    times = {"learning_rate": 1 / step, "seconds": 2.0 * step, "waited": 0.5, "eta": 1.0}
    return {**where, **losses, **times, **numbers, **more}


def written(folder, steps, **more):
    for step in range(1, steps + 1):
        journal.append(folder, row(step, **more))
    return folder / "log.jsonl"


def sheets_of(folder, *epochs):
    (folder / "samples").mkdir(parents=True)
    for epoch in epochs:
        for kind in ("epoch", "pairs"):
            (folder / "samples" / f"{kind}_{epoch:03d}.png").write_bytes(b"x")


def left(folder):
    return sorted(path.name for path in (folder / "samples").iterdir())


def table(folder):
    with open(folder / "epochs.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_log_is_read_as_it_was_written_one_line_per_step(tmp_path):
    log = written(tmp_path / "new", 4)
    assert len(log.read_text().splitlines()) == 4
    assert journal.read_log(tmp_path / "new") == [row(step) for step in (1, 2, 3, 4)]
    assert journal.read_log(tmp_path / "none") == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_and_leaves_no_line(tmp_path, bad):
    log = written(tmp_path, 1)
    with pytest.raises(ValueError, match=r"log\.jsonl: step 2 holds a number that is not finite"):
        journal.append(tmp_path, row(2, loss=bad))
    assert log.read_text().count("\n") == 1


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(OSError, match=r"log\.jsonl: cannot be written \(.+\); make room"):
        journal.append(tmp_path, row(1))


@given(cut=st.integers(0, 2000), steps=st.integers(0, 8))
@example(cut=len(json.dumps(row(1))), steps=8)  # just before the end of the line
@settings(deadline=None, max_examples=60)
def test_a_log_cut_off_anywhere_is_read_up_to_there_and_goes_on(tmp_path_factory, cut, steps):
    folder = tmp_path_factory.mktemp("cut")
    data = "".join(json.dumps(row(step)) + "\n" for step in range(1, 7)).encode()
    cut = min(cut, len(data))
    (folder / "log.jsonl").write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    assert [each["step"] for each in journal.read_log(folder)] == list(range(1, whole + 1))
    journal.trim(folder, steps)
    kept = min(whole, steps)
    journal.append(folder, row(kept + 1))
    assert [each["step"] for each in journal.read_log(folder)] == list(range(1, kept + 2))


def test_a_damaged_line_is_named_by_the_reader_but_does_not_stop_a_run(tmp_path):
    log = written(tmp_path, 5)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([lines[0], b"\x00\x00\xff{\n", *lines[2:]]))
    with pytest.raises(ValueError, match=r"log\.jsonl: line 2 is damaged"):
        journal.read_log(tmp_path)
    journal.trim(tmp_path, 4)  # of which one is damaged
    assert [each["step"] for each in journal.read_log(tmp_path)] == [1, 3, 4]
    log.write_bytes(lines[0] + b"\x00\x00\n")
    assert [each["step"] for each in journal.read_log(tmp_path)] == [1]


@pytest.mark.parametrize(("steps", "done"), [(0, 0), (2, 0), (3, 1), (5, 1), (6, 2), (7, 2), (9, 3), (99, 3)])
def test_trimming_leaves_rows_table_and_sheets_of_what_was_done_by_then(tmp_path, steps, done):
    written(tmp_path, 9)
    journal.write_epochs(tmp_path)
    sheets_of(tmp_path, 1, 2, 3)
    (tmp_path / "samples" / "epoch_mine.png").write_bytes(b"x")
    journal.trim(tmp_path, steps)
    assert [each["step"] for each in journal.read_log(tmp_path)] == list(range(1, min(steps, 9) + 1))
    assert [each["epoch"] for each in table(tmp_path)] == [str(epoch) for epoch in range(1, done + 1)]
    sheets = [f"{kind}_{epoch:03d}.png" for kind in ("epoch", "pairs") for epoch in range(1, done + 1)]
    assert left(tmp_path) == sorted([*sheets, "epoch_mine.png"])


def test_trimming_an_empty_folder_makes_nothing(tmp_path):
    journal.trim(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_means_ends_and_shares_of_each_epoch(tmp_path):
    written(tmp_path, 8)
    journal.write_epochs(tmp_path)
    first, second, third = table(tmp_path)
    assert list(first) == [
        "epoch", "steps", "loss", "ce", "contrast", "train_miou", "train_accuracy", "train_class_accuracy",
        "val_miou", "val_loss", "learning_rate", "seconds", "waiting",
    ]  # fmt: skip
    assert [first[name] for name in ("epoch", "steps", "loss", "ce", "contrast")] == ["1", "3", "2", "1", "10"]
    assert [second[name] for name in ("loss", "ce", "contrast")] == ["5", "2.5", "25"]
    assert [second[name] for name in ("val_miou", "train_miou", "train_accuracy")] == ["0.6", "0.2", "0.5"]
    assert [float(second[name]) for name in ("learning_rate", "seconds", "waiting")] == [0.166667, 6.0, 0.25]
    assert [third[name] for name in ("steps", "seconds", "val_miou")] == ["2", "4", ""]  # not yet at its end


def test_a_part_that_came_later_is_averaged_over_the_steps_that_had_it(tmp_path):
    journal.append(tmp_path, row(1, parts={"ce": 1.0}))
    journal.append(tmp_path, row(2, parts={"ce": 3.0, "iou": 7.0}))
    journal.write_epochs(tmp_path)
    (only,) = table(tmp_path)
    assert (only["ce"], only["iou"]) == ("2", "7")


def test_curves_are_drawn_of_any_log(tmp_path):
    journal.write_curves(tmp_path)
    empty = read_image(tmp_path / "curves.png")
    written(tmp_path, 9)
    assert journal.write_curves(tmp_path) == tmp_path / "curves.png"
    full = read_image(tmp_path / "curves.png")
    assert full.shape == empty.shape and (full != empty).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "log.jsonl"]  # nothing half done


def colour_at(picture, colour, tolerance=40):
    """How many pixels are about of that colour."""
    return int((abs(picture.astype(int) - colour) < tolerance).all(-1).sum())


def test_samples_show_the_pictures_before_they_were_normalised(tmp_path):
    image = torch.tensor([0.8, 0.2, 0.6])[:, None, None].expand(3, 24, 40)  # no class's colour
    images = normalise(image[None].repeat(2, 1, 1, 1))
    labels = torch.zeros(2, 24, 40, dtype=torch.int64)
    path = journal.write_samples(tmp_path, 7, images, labels, labels, ["background", "bird"])
    assert path == tmp_path / "samples" / "epoch_007.png"
    assert colour_at(read_image(path), (204, 51, 153), 2) > 20000


def test_pairs_keep_their_order(tmp_path):
    colours = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 0]])  # two pairs
    pictures = normalise(colours[:, :, None, None].expand(4, 3, 24, 40)).unflatten(0, (2, 2))
    path = journal.write_pairs(tmp_path, 12, pictures)
    assert path == tmp_path / "samples" / "pairs_012.png"
    sheet = read_image(path).astype(int)
    alike = [(abs(sheet - 255 * colour.numpy()) < 3).all(-1) for colour in colours]
    centres = [[where.mean() for where in place.nonzero()] for place in alike]
    (y0, x0), (y1, x1), (y2, x2), (y3, x3) = centres
    assert abs(x0 - x1) < 2 and abs(x2 - x3) < 2 and x0 < x2  # a pair is a column
    assert abs(y0 - y2) < 2 and abs(y1 - y3) < 2 and y0 < y1  # its first frame is above


def events_of(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    return events.Reload()


def test_the_board_gets_the_numbers_and_a_resumed_run_takes_back_what_it_forgot(tmp_path):
    pytest.importorskip("tensorboard")
    with closing(journal.tensorboard(tmp_path)) as board:
        for step in range(1, 7):
            journal.append(tmp_path, row(step), board)
        labels = torch.zeros(1, 24, 40, dtype=torch.int64)
        journal.write_samples(tmp_path, 2, torch.zeros(1, 3, 24, 40), labels, labels, ["none"], board)
    with closing(journal.tensorboard(tmp_path, step=4)) as board:
        journal.append(tmp_path, row(5, loss=55.0, parts={"iou": 0.5}), board)
    events = events_of(tmp_path)
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 55)]
    assert [each.step for each in events.Scalars("val_miou")] == [3]
    assert [(each.step, each.value) for each in events.Scalars("parts/iou")] == [(5, 0.5)]
    (sheet,) = events.Images("samples/epoch")
    assert sheet.step == 2 and sheet.encoded_image_string.startswith(b"\x89PNG")


def test_without_tensorboard_nothing_is_written_and_nothing_said(tmp_path, monkeypatch, recwarn):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    assert journal.tensorboard(tmp_path, 3) is None
    assert list(tmp_path.iterdir()) == [] and not recwarn


def test_drawing_needs_no_pyplot_and_no_backend(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it is an error
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    written(tmp_path, 3)
    journal.write_curves(tmp_path)
    journal.write_pairs(tmp_path, 1, torch.zeros(1, 2, 3, 8, 8))
    journal.write_samples(tmp_path, 1, torch.zeros(1, 3, 8, 8), labels, labels, ["none"])
