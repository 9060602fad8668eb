"""YouTube-VIS: segmentations of every kind become the right masks; what cannot be used is reported and left out."""


import numpy as np
import pytest
from corpora import HEIGHT, WIDTH, block, compressed, polygon, rewrite, run_lengths, ytvis

from ttilib.datasets.catalog import read_fold, read_table
from ttilib.datasets.youtube_vis import YtvisReader, scan_ytvis, split_videos, ytvis_index

SHOWS = {
    "aa": [[1], [1, 3], [3], [1]],
    "bb": [[2], [2], [2, 4]],
    "cc": [[], [1], []],
    "dd": [[5, 3], [5], [5]],
}


@pytest.fixture
def root(tmp_path):
    return ytvis(tmp_path, SHOWS)


def scan(root, on_error, fold=0):
    table = read_table("ytvis", root)
    novel = table["novel"][fold]
    return scan_ytvis(root, table, [c for c in table["classes"] if c not in novel], novel, on_error)


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
    assert not set(train) & set(val)


def test_a_track_may_mix_all_kinds_and_be_null_in_between(root):
    box = block(1, 4, 6, 7, 9).astype(bool)
    kinds = [polygon(4, 6, 7, 9), None, run_lengths(box), compressed(box)]
    rewrite(root, lambda content: content["annotations"][0].update(segmentations=kinds))
    fold, reader = read_fold("ytvis", 0, root), YtvisReader(root)
    assert fold.presence[1]["aa"] == ("aa/00000", "aa/00010", "aa/00015")  # it leaves and comes back
    for frame in fold.presence[1]["aa"]:
        np.testing.assert_array_equal(reader.mask(frame, 1), box)
    assert not reader.mask("aa/00005", 1).any() and reader.mask("aa/00005", 3).any()


def test_instances_that_overlap_are_one_mask_and_one_presence(root):
    def crowd(content):
        near = [None, polygon(4, 5, 6, 6), polygon(0, 0, 2, 2), None]  # over the first one by 4 x 4 pixels
        content["annotations"].append({**content["annotations"][0], "id": 80, "iscrowd": 1, "segmentations": near})

    rewrite(root, crowd)
    fold, reader = read_fold("ytvis", 0, root), YtvisReader(root)
    assert fold.presence[1]["aa"] == ("aa/00000", "aa/00005", "aa/00010", "aa/00015")
    mask = reader.mask("aa/00005", 1)  # squares of 36 pixels at (2, 3) and (4, 5)
    assert set(np.unique(mask)) == {0, 1} and mask.sum() == 36 + 36 - 16
    np.testing.assert_array_equal(reader.mask("aa/00010", 1), block(1, 0, 0, 2, 2))


def test_later_annotations_lie_over_earlier_ones_and_novel_classes_are_background(root):
    def cover(content):
        over = {"id": 91, "category_id": 2, "segmentations": [polygon(2, 9, 6, 3)] * 4}
        content["annotations"].append({**content["annotations"][0], **over})

    rewrite(root, cover)
    expected = block(2, 2, 9, 6, 6)  # class 3 is second of the base classes
    expected[2:8, 9:12] = 1
    np.testing.assert_array_equal(YtvisReader(root).labels("aa/00005", (2, 3, 4)), expected)
    with pytest.raises(ValueError, match="no frame aa/00007"):
        YtvisReader(root).labels("aa/00007", (2,))


def test_everything_that_cannot_be_used_is_reported_and_left_out(root):
    complete = scan(root, pytest.fail)

    def spoil(content):
        first = content["annotations"][0]
        wrong = run_lengths(np.zeros((HEIGHT, WIDTH + 1)))
        content["annotations"] += [
            {**first, "id": 70, "video_id": 99},
            {**first, "id": 71, "segmentations": [None]},
            {**first, "id": 72, "segmentations": [None, wrong, None, None]},
            {**first, "id": 73, "segmentations": None},
            {**first, "id": 74, "category_id": 66, "segmentations": [polygon(0, 0, 9, 9)] * 4},
        ]
        content["categories"].append({"id": 41, "name": "sofa"})

    path, errors = rewrite(root, spoil), []
    assert scan(root, errors.append) == complete
    for error, *words in zip(
        map(str, errors),
        ("annotation 70", "annotation 71", "annotation 72", "annotation 73", "annotation 74", "category 41"),
        ("no listed video", "4 frames", "aa/00005", "4 frames", "category 66", "sofa"),
        strict=True,
    ):
        assert error.startswith(f"{path}: ") and all(word in error for word in words)
    with pytest.raises(ValueError, match="annotation 70"):
        read_fold("ytvis", 0, root)
    np.testing.assert_array_equal(YtvisReader(root).mask("aa/00015", 1), block(1, 2, 3, 6, 6))


def test_another_edition_is_noticed(root):
    rewrite(root, lambda content: content["categories"][2].update(name="another"))
    errors = []
    found = scan(root, errors.append)
    assert found.presence[3] == {} and list(found.presence[1]) == ["aa", "cc"]
    assert len(errors) == 1 and "category 3" in str(errors[0]) and "kind_3" in str(errors[0])


@pytest.mark.parametrize(
    ("text", "word"), [("[]", "YouTube-VIS 2019"), ('{"videos": [{}]}', "YouTube-VIS 2019"), (None, "no such file")]
)
def test_without_a_usable_train_json_there_is_no_scan(root, text, word):
    path = root / "train" / "train.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    for action in (lambda: scan(root, pytest.fail), lambda: YtvisReader(root)):
        with pytest.raises((ValueError, FileNotFoundError), match=rf"train\.json: .*{word}"):
            action()


def test_the_file_is_parsed_once_and_again_when_it_changes(root):
    index = ytvis_index(root)
    reader = YtvisReader(root)
    assert ytvis_index(str(root)) is index
    rewrite(root, lambda content: content["annotations"].pop(0))
    assert ytvis_index(root) is not index and not reader.mask("aa/00000", 1).any()
