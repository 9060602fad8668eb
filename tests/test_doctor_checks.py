"""Every defect a file can have is found, named, and told how to mend; a healthy file is left in peace."""

import numpy as np
import pytest
from corpora import HEIGHT, WIDTH, block, broken_png, palette_png, picture, ytvis
from hypothesis import given
from hypothesis import strategies as st

from ttilib.datasets.base import FrameFiles
from ttilib.datasets.youtube_vis import ytvis_index
from ttilib.files import read_json, write_json, write_text
from ttilib.images import write_image, write_labels
from ttilib.tools import doctor_checks
from ttilib.tools.doctor_checks import (
    check_flow,
    check_frame,
    check_frames,
    check_labels,
    check_ytvis,
    check_ytvis_form,
    finding_of,
)


@pytest.mark.parametrize(
    ("error", "file", "found", "mend"),
    [
        (ValueError("a/b.png: two; things are wrong; copy it again"), "a/b.png", "two; things are wrong", "copy it"),
        (ValueError("a.txt, line 3: found 'x: y'; expected one id"), "a.txt, line 3", "found 'x: y'", "expected one"),
        (FileNotFoundError("a/b: no such file"), "a/b", "no such file", "see what"),
        (ValueError("nothing but words"), "ROOT", "nothing but words", "see what"),
        (PermissionError(13, "Permission denied", "c.json"), "c.json", "permission denied", "may be read"),
        (KeyError("height"), "ROOT", "unexpected form (KeyError: 'height')", "fetch the file again"),
    ],
)
def test_the_sentence_of_an_error_becomes_a_finding(error, file, found, mend):
    finding = finding_of(error, "ROOT")
    assert (finding.severity, finding.file, finding.found) == ("error", file, found)
    assert mend in finding.mend


# An image and its mask --------------------------------------------------------------------------------------------


@pytest.fixture
def shown(tmp_path):
    """A photograph and a mask of 18 x 32 pixels, both whole."""
    write_image(tmp_path / "a.jpg", picture(1))
    write_labels(tmp_path / "a.png", block(3, 2, 2, 5, 5))
    return FrameFiles(tmp_path / "a.jpg", tmp_path / "a.png", (HEIGHT, WIDTH))


def cut(path, spoil):
    path.write_bytes(spoil(path.read_bytes()))


def turned(path):
    write_image(path, picture(1, WIDTH, HEIGHT))


@pytest.mark.parametrize("thorough", [False, True])
def test_whole_files_are_left_in_peace(shown, thorough):
    assert check_frame(shown, thorough) == []
    assert check_frame(FrameFiles(shown.picture), thorough) == []
    cut(shown.picture, lambda data: data + b"\0\0a phone's note")
    palette_png(shown.mask, block(3, 2, 2, 5, 5))
    assert check_frame(shown, thorough) == []


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize(
    ("spoil", "file", "found", "mend"),
    [
        (lambda s: s.picture.unlink(), "a.jpg", "though its mask", "copy it"),
        (lambda s: s.mask.unlink(), "a.png", "though its image", "copy it"),
        (lambda s: broken_png(s.picture, "empty"), "a.jpg", "empty (0 bytes)", "copy it again"),
        (lambda s: broken_png(s.mask, "empty"), "a.png", "empty (0 bytes)", "copy it again"),
        (lambda s: cut(s.picture, lambda d: d[:1]), "a.jpg", "1 bytes, not an image", "copy it"),
        (lambda s: cut(s.picture, lambda d: d[: len(d) // 2]), "a.jpg", "cut off", "copy it again"),
        (lambda s: cut(s.picture, lambda d: d[:-1]), "a.jpg", "cut off", "copy it again"),
        (lambda s: broken_png(s.picture, "not an image"), "a.jpg", "not an image", "copy it again"),
        (lambda s: broken_png(s.mask, "not an image"), "a.png", "cannot be decoded", "copy it again"),
        (lambda s: write_labels(s.mask, np.zeros((HEIGHT, WIDTH - 1), np.uint8)), "a.jpg",
         "18 x 32 pixels, mask 18 x 31", "edition"),
    ],
)  # fmt: skip
def test_one_spoilt_file_gives_one_error(shown, spoil, file, found, mend, thorough):
    spoil(shown)
    (finding,) = check_frame(shown, thorough)
    assert finding.severity == "error" and finding.file == str(shown.picture.parent / file)
    assert found in finding.found and mend in finding.mend


def test_a_turned_picture_does_not_fit_its_annotations_nor_its_mask(shown):
    turned(shown.picture)
    first, second = check_frame(shown)
    assert "32 x 18 pixels, annotations 18 x 32" in first.found and "32 x 18 pixels, mask 18 x 32" in second.found


def test_a_frame_without_any_file_is_a_mistake_of_the_list(shown):
    shown.picture.unlink()
    shown.mask.unlink()
    findings = check_frame(shown)
    assert [f.found for f in findings] == [f"no such {what}, though it is listed" for what in ("image", "mask")]


def test_a_picture_and_its_mask_can_both_be_wrong(shown):
    broken_png(shown.picture, "cut off")
    broken_png(shown.mask, "empty")
    assert [finding.file for finding in check_frame(shown)] == [str(shown.picture), str(shown.mask)]


def test_only_a_thorough_look_sees_a_picture_broken_behind_its_header(shown):
    cut(shown.picture, lambda data: data[: data.index(b"\xff\xda")] + b"\xff\xd9")
    assert check_frame(shown) == []
    (finding,) = check_frame(shown, thorough=True)
    assert finding.file == str(shown.picture) and finding.mend == "copy it again"


def many(folder):
    """Twelve frames, the third and the seventh of them spoilt."""
    shown = [FrameFiles(folder / f"{n}.jpg", folder / f"{n}.png") for n in range(12)]
    for number, (photograph, mask, _) in enumerate(shown):
        write_image(photograph, picture(number))
        write_labels(mask, block(3, 2, 2, 5, 5))
    broken_png(shown[2].picture, "cut off")
    broken_png(shown[6].mask, "empty")
    return shown


def test_many_frames_are_looked_at_in_order_whoever_does_it(tmp_path, monkeypatch, capfd):
    shown = many(tmp_path)
    alone = list(check_frames(shown, "files"))
    assert [len(findings) for findings in alone] == [n in (2, 6) for n in range(12)]
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(doctor_checks, "VERY_MANY", 11)
    monkeypatch.setattr(doctor_checks, "MANY", 11)
    assert list(check_frames(shown, "my files", workers=2)) == alone
    shown_on_screen = capfd.readouterr()
    assert shown_on_screen.out == "" and "my files" in shown_on_screen.err and "12/12" in shown_on_screen.err


# What a mask holds -------------------------------------------------------------------------------------------------


@given(
    counts=st.dictionaries(st.integers(0, 255), st.integers(1, 1000), min_size=1),
    allowed=st.sets(st.integers(1, 254)),
)
def test_labels_are_classes_background_or_not_judged(tmp_path_factory, counts, allowed):
    findings = list(check_labels(tmp_path_factory.getbasetemp() / "m.png", counts, allowed | {0, 255}, (255,)))
    strange = set(counts) - allowed - {0, 255}
    errors = [finding for finding in findings if finding.severity == "error"]
    assert len(errors) == bool(strange)
    for finding in errors:
        assert f"({sum(counts[label] for label in strange)} pixels)" in finding.found
        assert str(min(strange)) in finding.found or "..." in finding.found
    assert any("only ignored pixels" in finding.found for finding in findings) == (set(counts) == {255})


def test_strange_labels_are_named_up_to_six(tmp_path):
    counts = {0: 10, **{label: 2 for label in range(30, 40)}}
    (finding,) = check_labels(tmp_path / "m.png", counts, {0, 1, 2}, (255,), "warning")
    assert finding.severity == "warning" and finding.file.endswith("m.png")
    assert finding.found.startswith("labels 30, 31, 32, 33, 34, 35, ... (20 pixels)") and "smoothing" in finding.mend


def test_flow_missing_at_an_end_is_as_released_and_elsewhere_a_warning(tmp_path):
    frames = {name: ["1", "2", "3"] for name in ("whole", "end", "start", "hole")} | {"none": ["1", "2"]}
    flow = {"whole": "123", "end": "12", "start": "23", "hole": "13", "none": ""}
    for name, numbers in flow.items():
        for number in numbers:
            write_text(tmp_path / name / "flow" / f"{number}.pkl.pkl", "")
    hole, none, note = check_flow(tmp_path, frames)
    assert (hole.severity, hole.file) == ("warning", str(tmp_path / "hole" / "flow"))
    assert hole.found.startswith("1 of 3 frames have no flow, first 2") and "fetch" in hole.mend
    assert none.file == str(tmp_path / "none" / "flow") and none.found.startswith("2 of 2 frames")
    assert note.severity == "note" and note.found.startswith("2 of 5 sequences")
    assert list(check_flow(tmp_path, {"whole": ["1", "2"]})) == []


# YouTube-VIS -------------------------------------------------------------------------------------------------------


def videos(tmp_path):
    return ytvis(tmp_path, {"aa": [[1], [1, 2]], "bb": [[2], []]}) / "train" / "train.json"


def change(path, edit):
    content = read_json(path)
    edit(content)
    write_json(path, content)
    return path


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda c: c.pop("videos"), "expected the lists videos, annotations, categories"),
        (lambda c: c.update(annotations={}), "expected the lists"),
        (lambda c: c["videos"][1].pop("height"), "item 1 of videos has no height"),
        (lambda c: c["videos"][0].update(file_names=None), "item 0 of videos has no file_names"),
        (lambda c: c["annotations"].append(7), "item 3 of annotations has no id, video_id, category_id, segmentations"),
        (lambda c: c["annotations"][2].update(segmentations=None), "item 2 of annotations has no segmentations"),
        (lambda c: c["categories"][0].update(name=3), "item 0 of categories has no name"),
    ],
)
def test_annotations_of_another_form_are_told_before_they_are_read(tmp_path, edit, found):
    path = videos(tmp_path)
    assert list(check_ytvis_form(path)) == []
    (finding,) = check_ytvis_form(change(path, edit))
    assert finding.severity == "error" and finding.file == str(path) and found in finding.found
    assert "again" in finding.mend or "2019" in finding.mend


def test_a_list_is_no_train_json(tmp_path):
    write_json(tmp_path / "train.json", [1, 2])
    assert "expected the lists" in next(check_ytvis_form(tmp_path / "train.json")).found


def test_an_object_in_no_frame_and_a_missing_video_are_warned_of(tmp_path):
    path = change(videos(tmp_path), lambda c: c["annotations"][1].update(segmentations=[None, []]))
    number, track = check_ytvis(ytvis_index(tmp_path), expected=3)
    assert number.severity == track.severity == "warning" and number.file == track.file == str(path)
    assert number.found.startswith("2 usable videos, the 2019 edition has 3")
    assert track.found == "annotation 2 of video aa is in no frame"
    assert len(list(check_ytvis(ytvis_index(tmp_path), expected=2))) == 1
    assert next(check_ytvis(ytvis_index(tmp_path), expected=1)).found.startswith("2 usable videos")


def test_only_a_thorough_look_unpacks_run_lengths(tmp_path):
    broken = {"size": [HEIGHT, WIDTH], "counts": "abc"}
    path = change(videos(tmp_path), lambda c: c["annotations"][0].update(segmentations=[broken, None]))
    assert list(check_ytvis(ytvis_index(tmp_path))) == []
    (finding,) = check_ytvis(ytvis_index(tmp_path), thorough=True)
    assert finding.severity == "error" and finding.file == str(path)
    assert finding.found.startswith("annotation 1 of video aa cannot be decoded in frame aa/00000 (")
