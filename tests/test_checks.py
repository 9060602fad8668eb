"""Every defect a file can have is found, named, and told how to mend; a healthy file is left in peace."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from corpora import HEIGHT, WIDTH, block, broken_png, palette_png, pascal, picture, vspw, ytvis
from hypothesis import given
from hypothesis import strategies as st

from ttilib.datasets.base import FrameFiles
from ttilib.datasets.catalog import DATASETS
from ttilib.datasets.pascal import PascalReader
from ttilib.datasets.youtube_vis import ytvis_index
from ttilib.episodes.clips import check_episodes
from ttilib.episodes.episode import Episode
from ttilib.files import read_json, write_json, write_text
from ttilib.images import write_image, write_labels
from ttilib.tools import doctor_checks
from ttilib.tools.doctor_checks import (
    Finding,
        check_flow,
    check_frame,
    check_frames,
    check_labels,
    check_ytvis,
    told,
    ytvis_form,
)


@pytest.mark.parametrize(
    ("error", "file", "found", "mend"),
    [
        (ValueError("a/b.png: two; things are wrong; copy it again"), "a/b.png", "two; things are wrong", "copy it"),
        (ValueError("a.txt, line 3: found 'x: y'; expected one id"), "a.txt, line 3", "found 'x: y'", "expected one"),
        (FileNotFoundError("a/b: no such file"), "a/b", "no such file", "see what"),
        (ValueError("nothing but words"), "ROOT", "nothing but words", "see what"),
        (PermissionError(13, "Permission denied", "c.json"), "c.json", "permission denied", "may be read"),
        (KeyError("height"), "ROOT", "another form than expected (KeyError: 'height')", "fetch the file again"),
    ],
)
def test_the_sentence_of_an_error_becomes_a_finding(error, file, found, mend):
    finding = told(error, "ROOT")
    assert (finding.severity, finding.file, finding.found) == ("error", file, found)
    assert mend in finding.mend


# A picture and its mask --------------------------------------------------------------------------------------------


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
        (lambda s: s.picture.unlink(), "a.jpg", "a mask without its picture", "copy it, or take the other"),
        (lambda s: s.mask.unlink(), "a.png", "a frame without a mask", "copy it, or take the other"),
        (lambda s: broken_png(s.picture, "empty"), "a.jpg", "empty (0 bytes)", "copy it again"),
        (lambda s: broken_png(s.mask, "empty"), "a.png", "empty (0 bytes)", "copy it again"),
        (lambda s: cut(s.picture, lambda d: d[:1]), "a.jpg", "1 bytes, not an image", "copy it"),
        (lambda s: cut(s.picture, lambda d: d[: len(d) // 2]), "a.jpg", "cut off", "copy it again"),
        (lambda s: cut(s.picture, lambda d: d[:-1]), "a.jpg", "cut off", "copy it again"),
        (lambda s: broken_png(s.picture, "not an image"), "a.jpg", "not an image", "copy it again"),
        (lambda s: broken_png(s.mask, "not an image"), "a.png", "cannot be decoded", "copy it again"),
        (lambda s: write_labels(s.mask, np.zeros((HEIGHT, WIDTH - 1), np.uint8)), "a.jpg",
         "picture is 18 x 32, its mask 18 x 31 pixels", "of one edition"),
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
    assert first.found == "picture is 32 x 18 pixels, its annotations say 18 x 32"
    assert second.found == "picture is 32 x 18, its mask 18 x 32 pixels"


def test_a_frame_without_any_file_is_a_mistake_of_the_list(shown):
    shown.picture.unlink()
    shown.mask.unlink()
    findings = check_frame(shown)
    assert [f.found for f in findings] == [f"no such {what}, though it is listed" for what in ("picture", "mask")]


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


def test_looking_at_files_needs_nothing_heavy():
    code = "import sys, ttilib.audit.soundness; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What a mask holds -------------------------------------------------------------------------------------------------


@given(
    counts=st.dictionaries(st.integers(0, 255), st.integers(1, 1000), min_size=1),
    allowed=st.sets(st.integers(1, 254)),
)
def test_labels_are_classes_background_or_not_judged(tmp_path_factory, counts, allowed):
    findings = check_labels(tmp_path_factory.getbasetemp() / "m.png", counts, allowed | {0, 255}, (255,))
    strange = set(counts) - allowed - {0, 255}
    errors = [finding for finding in findings if finding.severity == "error"]
    assert len(errors) == bool(strange)
    for finding in errors:
        assert f"({sum(counts[label] for label in strange)} pixels)" in finding.found
        assert str(min(strange)) in finding.found or "..." in finding.found
    assert any("no judged pixel" in finding.found for finding in findings) == (set(counts) == {255})


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
    assert check_flow(tmp_path, {"whole": ["1", "2"]}) == []


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
        (lambda c: c["videos"][0].update(file_names=[None]), "item 0 of videos has no file_names"),
        (lambda c: c["annotations"].append(7), "item 3 of annotations has no id, video_id, category_id, segmentations"),
        (lambda c: c["annotations"][2].update(segmentations=None), "item 2 of annotations has no segmentations"),
        (lambda c: c["categories"][0].update(name=3), "item 0 of categories has no name"),
    ],
)
def test_annotations_of_another_form_are_told_before_they_are_read(tmp_path, edit, found):
    path = videos(tmp_path)
    assert ytvis_form(path) == []
    (finding,) = ytvis_form(change(path, edit))
    assert finding.severity == "error" and finding.file == str(path) and found in finding.found
    assert "again" in finding.mend or "2019" in finding.mend


def test_a_list_is_no_train_json(tmp_path):
    write_json(tmp_path / "train.json", [1, 2])
    assert "found list" in ytvis_form(tmp_path / "train.json")[0].found


def test_an_object_in_no_frame_and_a_missing_video_are_warned_of(tmp_path):
    path = change(videos(tmp_path), lambda c: c["annotations"][1].update(segmentations=[None, []]))
    number, track = check_ytvis(ytvis_index(tmp_path), expected=3)
    assert number.severity == track.severity == "warning" and number.file == track.file == str(path)
    assert number.found.startswith("2 usable videos, the 2019 edition has 3")
    assert track.found == "annotation 2 of video aa is in no frame"
    assert len(list(check_ytvis(ytvis_index(tmp_path), expected=2))) == 1


def test_only_a_thorough_look_unpacks_run_lengths(tmp_path):
    broken = {"size": [HEIGHT, WIDTH], "counts": "abc"}
    path = change(videos(tmp_path), lambda c: c["annotations"][0].update(segmentations=[broken, None]))
    assert list(check_ytvis(ytvis_index(tmp_path))) == []
    (finding,) = check_ytvis(ytvis_index(tmp_path), thorough=True)
    assert finding.severity == "error" and finding.file == str(path)
    assert finding.found.startswith("annotation 1 of video aa cannot be painted in frame aa/00000 (")


# Episodes ----------------------------------------------------------------------------------------------------------


def stills(tmp_path):
    labels = {name: block(1, 2, 2, 6, 6) for name in "abcd"} | {"empty": block(2, 2, 2, 6, 6)}
    return pascal(tmp_path / "p", labels, val=("a", "b", "c", "d", "empty"))


def about(support, query, corpus="pascal", number=1, **more):
    return Episode(corpus, 0, number, f"kind_{number}", tuple(support), tuple(query), 1, **more)


def test_good_episodes_are_kept_as_they_are(tmp_path):
    episodes = (about("ab", "c"), about("a", "d"), about("b", ["empty"]))  # an empty query is a fair question
    assert check_episodes(episodes, stills(tmp_path)) == episodes
    assert check_episodes((), tmp_path) == ()


@pytest.mark.parametrize("how", ["missing", "empty", "cut off", "not an image"])
@pytest.mark.parametrize("place", ["JPEGImages/b.jpg", "SegmentationClassAug/b.png"])
def test_a_bad_file_keeps_out_the_episodes_that_name_it_and_no_others(tmp_path, how, place):
    root = stills(tmp_path)
    episodes = about("ab", "c"), about("a", "d"), about("a", "b"), about("d", "c")
    path = broken_png(root / place, how)
    with pytest.raises(ValueError, match=rf"^episode pascal/f0/kind_1/c: .*{path.name}"):
        check_episodes(episodes, root)
    errors = []
    assert check_episodes(episodes, root, on_error=errors.append) == (episodes[1], episodes[3])
    assert [str(e).split(": ")[0] for e in errors] == ["episode pascal/f0/kind_1/c", "episode pascal/f0/kind_1/b"]
    assert all(str(path) in str(error) for error in errors)


def test_every_bad_file_of_an_episode_is_told(tmp_path):
    root = stills(tmp_path)
    broken_png(root / "JPEGImages" / "a.jpg", "cut off")
    broken_png(root / "SegmentationClassAug" / "c.png", "empty")
    write_labels(root / "SegmentationClassAug" / "b.png", np.zeros((4, 4), np.uint8))
    errors = []
    assert check_episodes([about("ab", "c")], root, on_error=errors.append) == ()
    assert len(errors) == 3 and "a.jpg" in str(errors[0]) and "c.png" in str(errors[2])
    assert "18 x 32, its mask 4 x 4 pixels" in str(errors[1])


def test_support_without_the_class_is_told(tmp_path):
    errors = []
    episodes = about(["empty"], "c"), about(["empty", "a"], "c")
    assert check_episodes(episodes, stills(tmp_path), on_error=errors.append) == episodes[1:]
    assert "class 1" in str(errors[0])


def test_each_picture_is_read_once_and_a_mask_once_per_class(tmp_path, monkeypatch):
    seen = []

    class Counted(PascalReader):
        def image(self, frame):
            seen.append(frame)
            return super().image(frame)

        def mask(self, frame, class_id):
            seen.append((frame, class_id))
            return super().mask(frame, class_id)

    monkeypatch.setitem(DATASETS, "pascal", replace(DATASETS["pascal"], reader=Counted))
    episodes = about("ab", "c"), about("ab", "d"), about(["empty"], "d", number=2)
    assert check_episodes(episodes, stills(tmp_path)) == episodes
    assert len(seen) == len(set(seen)) and {s for s in seen if isinstance(s, str)} == {"a", "b", "c", "d", "empty"}
    assert ("d", 1) in seen and ("d", 2) in seen


def test_support_is_read_where_it_lies_and_by_its_own_class(tmp_path):
    root = stills(tmp_path)
    other = vspw(tmp_path / "v", {"s": [block(41, 2, 2, 6, 6)] * 2})
    cross = about("a", ["s/8", "s/9"], "vspw", 41, support_corpus="pascal", support_class=1)
    assert check_episodes([cross], other, root) == (cross,)
    wrong = about("a", ["s/8"], "vspw", 41, support_corpus="pascal", support_class=3)
    with pytest.raises(ValueError, match="class 3"):
        check_episodes([wrong], other, root)
    shutil.rmtree(root)
    with pytest.raises(ValueError, match="episode vspw/f0/kind_41/s: .*a.jpg"):
        check_episodes([cross], other, root)


def test_a_missing_annotation_file_is_told_for_each_episode(tmp_path):
    errors = []
    episode = about(["aa/00000"], ["bb/00000"], "ytvis")
    assert check_episodes([episode, episode], tmp_path, on_error=errors.append) == ()
    assert errors and all("train.json" in str(error) for error in errors)


def test_findings_are_values():
    assert Finding("note", "a", "b", "c") == Finding("note", "a", "b", "c")
