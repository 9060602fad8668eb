"""Episodes with a damaged file are left out and named; the others are kept as they are."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from corpora import block, broken_png, pascal, vspw

from ttilib.datasets.catalog import DATASETS
from ttilib.datasets.pascal import PascalReader
from ttilib.episodes.clips import check_episodes
from ttilib.episodes.episode import Episode
from ttilib.images import write_labels


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
