"""YouTube-VIS: segmentations of every kind become the right masks; what cannot be used is reported and left out."""

import numpy as np
import pytest
from corpora import HEIGHT, WIDTH, block, compressed, polygon, rewrite, run_lengths, ytvis

from ttilib.datasets.catalog import read_fold
from ttilib.datasets.youtube_vis import YtvisReader, split_videos


@pytest.fixture
def root(tmp_path):
    shows = {"aa": [[1], [1, 3], [3], [1]], "bb": [[2], [2], [2, 4]], "cc": [[], [1], []], "dd": [[5, 3], [5], [5]]}
    return ytvis(tmp_path, shows)


def test_presence_is_where_a_segmentation_is(root):
    fold = read_fold("ytvis", 0, root)
    assert fold.novel == (1, 5) and fold.base == (2, 3, 4)
    assert list(fold.frames) == ["aa", "bb", "cc", "dd"]  # ascending id, not file order
    assert fold.frames["cc"] == ("cc/00000", "cc/00005", "cc/00010")
    assert fold.presence[1] == {"aa": ("aa/00000", "aa/00005", "aa/00015"), "cc": ("cc/00005",)}
    # class 2 has bb: floor(0.9) = 0 train; class 3 has aa, dd: one train; class 4 has bb, in val already
    assert fold.train == ("aa",) and fold.val == ("bb", "dd", "bb")


def test_the_ninety_percent_rule_by_hand():
    names = [f"v{n}" for n in range(12)]
    # 10 videos: 9 train; then v8..v11: 0.9 * 4 = 3.6, so v8, v9, v10; v9 is in val and does not change sides
    presence = {
        7: {v: (v,) for v in names[:10]},
        9: {v: (v,) for v in names[8:]},
        11: {"v10": ("v10",)},  # would validate, but trains already
        13: {"v0": ("v0",), "v1": ("v1",)},  # v0 trains once more
    }
    train, val = split_videos(presence, [7, 9, 11, 13])
    assert train == (*names[:9], "v8", "v10", "v0") and val == ("v9", "v11")


def test_a_track_may_mix_all_kinds_and_instances_of_a_class_are_one_mask(root):
    box = block(1, 4, 6, 7, 9).astype(bool)

    def change(content):
        first = content["annotations"][0]
        first["segmentations"] = [polygon(4, 6, 7, 9), None, run_lengths(box), compressed(box)]
        over = [None, polygon(4, 5, 6, 6), polygon(4, 6, 7, 9), None]
        content["annotations"].append({**first, "id": 80, "iscrowd": 1, "segmentations": over})
        content["annotations"].append({**first, "id": 81, "category_id": 2, "segmentations": [polygon(2, 9, 6, 3)] * 4})

    rewrite(root, change)
    fold, reader = read_fold("ytvis", 0, root), YtvisReader(root)
    assert fold.presence[1]["aa"] == ("aa/00000", "aa/00005", "aa/00010", "aa/00015")
    for frame in ("aa/00000", "aa/00010", "aa/00015"):
        np.testing.assert_array_equal(reader.mask(frame, 1), box)
    np.testing.assert_array_equal(reader.mask("aa/00005", 1), block(1, 4, 5, 6, 6))
    expected = block(2, 2, 9, 6, 6)  # 3 is the second base class; later objects lie over it
    expected[2:8, 9:12] = 1
    np.testing.assert_array_equal(reader.labels("aa/00005", (2, 3, 4)), expected)
    with pytest.raises(ValueError, match="no frame aa/00007"):
        reader.labels("aa/00007", (2,))


def test_everything_that_cannot_be_used_is_reported_and_left_out(root):
    complete = read_fold("ytvis", 0, root)

    def spoil(content):
        first, video = content["annotations"][0], content["videos"][0]
        wide = run_lengths(np.zeros((HEIGHT, WIDTH + 1)))
        content["annotations"] += [
            {**first, "id": 70, "video_id": 99},
            {**first, "id": 72, "segmentations": [None, wide, None, None]},
            {**first, "id": 74, "category_id": 66},
        ]
        content["videos"] += [{**video, "id": 50, "file_names": ["../x.jpg"]}, {**video, "file_names": ["u/1.jpg"]}]
        content["categories"] += [{"id": 41, "name": "sofa"}]

    path, errors = rewrite(root, spoil), []
    assert read_fold("ytvis", 0, root, on_error=errors.append) == complete
    words = ["videos[4]: file_names", "id 14", "annotation 70 is", "72, frame aa/00005: size", "74 is", "category 41"]
    for error, word in zip(errors, words, strict=True):
        assert str(error).startswith(f"{path}: ") and word in str(error)
