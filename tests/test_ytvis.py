"""YouTube-VIS: outlines of every kind become the right masks, and what cannot be used is told and left out."""

import json
import pickle

import numpy as np
import pytest
from corpora import HEIGHT, WIDTH, block, polygon, run_lengths, ytvis
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from ttilib.datasets.catalog import read_fold, read_table
from ttilib.datasets.masks import decode, rle_error, to_compressed_rle
from ttilib.datasets.youtube_vis import YtvisReader, scan_ytvis, ytvis_index
from ttilib.files import read_json, write_json

SHOWS = {
    "aa": [[1], [1, 3], [3], [1]],
    "bb": [[2], [2], [2, 4]],
    "cc": [[], [1], []],
    "dd": [[5, 3], [5], [5]],
}


@pytest.fixture
def root(tmp_path):
    return ytvis(tmp_path, SHOWS)


def change(root, edit):
    """Rewrite train.json after `edit` has changed its content in place."""
    path = root / "train" / "train.json"
    content = read_json(path)
    edit(content)
    write_json(path, content)
    return path


def scan(root, on_error, fold=0):
    table = read_table("ytvis", root)
    novel = table["novel"][fold]
    return scan_ytvis(root, table, [c for c in table["classes"] if c not in novel], novel, on_error)


def packed_text(mask):
    """Compressed run lengths with text counts, as JSON holds them."""
    lengths = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": lengths["counts"].decode()}


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_both_run_lengths_of_any_mask_give_it_back(mask):
    plain = run_lengths(mask)
    read = json.loads(json.dumps({"outer": [plain, None]}), object_hook=to_compressed_rle)["outer"][0]
    assert isinstance(read["counts"], np.ndarray) and read["size"] == list(mask.shape)
    for outline in (plain, read, packed_text(mask)):
        np.testing.assert_array_equal(decode(outline, *mask.shape), mask)


def test_a_triangle_has_an_inside_and_a_line_has_none():
    triangle = decode([[2.0, 2.0, 10.0, 2.0, 2.0, 10.0]], 12, 14)
    assert triangle[3, 3] and not triangle[9, 9] and 24 <= triangle.sum() <= 40  # half of 8 x 8, more or less an edge
    both = decode([[2.0, 2.0, 10.0, 2.0], [2.0, 2.0, 10.0, 2.0, 2.0, 10.0]], 12, 14)
    np.testing.assert_array_equal(both, triangle)


@pytest.mark.parametrize(
    ("outline", "wrong"),
    [
        ({"size": [4, 5], "counts": [20]}, ""),
        ({"size": [4, 5], "counts": "whatever"}, ""),
        ([[0.0, 0.0, 1.0]], ""),
        ({"size": [5, 4], "counts": [20]}, r"size is \[5, 4\], the image's \[4, 5\]"),
        ({"size": [4, 5], "counts": [19]}, "add up to 19, not 20"),
        ({"size": [4, 5], "counts": [25, -5]}, "not whole numbers"),
        ({"size": [4, 5], "counts": [19.5, 0.5]}, "not whole numbers"),
        ({"size": [4, 5], "counts": []}, "not whole numbers|add up to 0"),
        ({"size": [4, 5], "counts": ["20"]}, "not whole numbers"),
        ({"counts": [20]}, "expected polygons or run lengths"),
        (7, "found '7'"),
    ],
)
def test_what_an_outline_must_fit(outline, wrong):
    for form in (outline, to_compressed_rle(outline)):
        if not wrong:
            assert rle_error(form, 4, 5) == ""
            continue
        with pytest.raises(ValueError, match=f"^here: .*({wrong}).*; fix"):
            decode(form, 4, 5, "here")


def test_a_track_may_mix_all_kinds_and_be_null_in_between(root):
    box = block(1, 4, 6, 7, 9).astype(bool)
    kinds = [polygon(4, 6, 7, 9), None, run_lengths(box), packed_text(box)]
    change(root, lambda content: content["annotations"][0].update(segmentations=kinds))
    fold, reader = read_fold("ytvis", 0, root), YtvisReader(root)
    assert fold.presence[1]["aa"] == ("aa/00000", "aa/00010", "aa/00015")  # it leaves and comes back
    for frame in fold.presence[1]["aa"]:
        np.testing.assert_array_equal(reader.mask(frame, 1), box)
    assert not reader.mask("aa/00005", 1).any() and reader.mask("aa/00005", 3).any()
    stored = ytvis_index(root)["annotations"]["aa"][0]["segmentations"]
    assert stored[2]["counts"].dtype == np.uint32  # lists of integers would fill the memory


def test_instances_that_overlap_are_one_mask_and_one_presence(root):
    def crowd(content):
        near = [None, polygon(4, 5, 6, 6), polygon(0, 0, 2, 2), None]  # over the first one by 4 x 4 pixels
        content["annotations"].append({**content["annotations"][0], "id": 80, "iscrowd": 1, "segmentations": near})

    change(root, crowd)
    fold, reader = read_fold("ytvis", 0, root), YtvisReader(root)
    assert fold.presence[1]["aa"] == ("aa/00000", "aa/00005", "aa/00010", "aa/00015")
    mask = reader.mask("aa/00005", 1)  # squares of 36 pixels at (2, 3) and (4, 5)
    assert set(np.unique(mask)) == {0, 1} and mask.sum() == 36 + 36 - 16
    np.testing.assert_array_equal(reader.mask("aa/00010", 1), block(1, 0, 0, 2, 2))


def test_videos_come_by_id_and_a_video_of_two_base_classes_is_listed_twice(tmp_path):
    shows = {f"v{n:02d}": [[2, 3]] for n in range(11)} | {"w": [[3], [1]]}
    root = ytvis(tmp_path, shows)
    # Class 2: 11 videos, 9 train, v09 and v10 validate. Class 3: 12 videos, 10 train but for v09; v10, w validate.
    fold = read_fold("ytvis", 0, root)
    nine = tuple(f"v{n:02d}" for n in range(9))
    assert fold.train == nine + nine and fold.val == ("v09", "v10", "v10", "w")
    assert tuple(fold.frames) == (*nine, "v09", "v10", "w") and list(fold.presence[1]) == ["w"]


def test_everything_that_cannot_be_used_is_told_at_once_and_left_out(root):
    whole = scan(root, pytest.fail)

    def spoil(content):
        first = content["annotations"][0]
        box = block(1, 4, 6, 7, 9).astype(bool)
        wrong = run_lengths(np.zeros((HEIGHT, WIDTH + 1)))
        content["annotations"] += [
            {**first, "id": 70, "video_id": 99},
            {**first, "id": 71, "segmentations": [None]},
            {**first, "id": 72, "segmentations": [None, wrong, None, run_lengths(box)]},
            {**first, "id": 73, "segmentations": [None, "text", None, None]},
            {**first, "id": 74, "category_id": 66, "segmentations": [polygon(0, 0, 9, 9)] * 4},
            {**first, "id": 75, "segmentations": None},
            {key: value for key, value in first.items() if key != "category_id"} | {"id": 76},
            {**first, "id": 77, "video_id": 90},
        ]
        video = content["videos"][-1]  # aa
        content["videos"] += [
            {**video, "id": 90, "file_names": []},
            {**video, "id": 91},
            {**video, "id": 92, "file_names": ["ee/0.jpg", "ff/1.jpg"]},
            {**video, "id": 93, "file_names": ["0.jpg"]},
        ]
        content["categories"].append({"id": 41, "name": "sofa"})

    path = change(root, spoil)
    errors = []
    assert scan(root, errors.append) == whole
    assert all(isinstance(error, ValueError) for error in errors)
    expected = [
        "video 90 has no frames",
        "video 91 is in the folder aa of an earlier one",
        "video 92 has a frame 'ff/1.jpg', expected <video>/<frame>.jpg of one video",
        "video 93 has a frame '0.jpg', expected <video>/<frame>.jpg of one video",
        "annotation 70 is of no listed video",
        "annotation 71 has 1 outlines, video aa has 4 frames",
        "annotation 72 cannot be used in frame aa/00005 (size is [18, 33], the image's [18, 32])",
        "annotation 73 cannot be used in frame aa/00005 (found 'text', expected polygons or run lengths)",
        "annotation 75 has 0 outlines, video aa has 4 frames",
        "annotation 76 has no category_id",
        "category 41 is 'sofa', the class table says 'nothing'; use the 2019 edition, or give the folder its own "
        "lists.json",
        "annotation 74 is of category 66, which the file does not name",
    ]
    told = [str(error).removeprefix(f"{path}: ").removesuffix("; fetch the file again") for error in errors]
    assert told == expected
    with pytest.raises(ValueError, match="video 90 has no frames"):
        read_fold("ytvis", 0, root)
    # The reader leaves out the same annotations: the square of class 1 is alone.
    np.testing.assert_array_equal(YtvisReader(root).mask("aa/00015", 1), block(1, 2, 3, 6, 6))
    np.testing.assert_array_equal(YtvisReader(root).labels("aa/00015", (1, 2)), block(1, 2, 3, 6, 6))


def test_the_annotations_of_a_renamed_category_are_left_out(root):
    change(root, lambda content: content["categories"][2].update(name="another"))
    errors = []
    found = scan(root, errors.append)
    assert found.presence[3] == {} and list(found.presence[1]) == ["aa", "cc"]
    assert len(errors) == 1 and "category 3 is 'another', the class table says 'kind_3'" in str(errors[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"videos": [}', r"train\.json: not valid JSON at line 1, column 13"),
        ("[]", r"train\.json: no \['annotations', 'categories', 'videos'\] in it"),
        ('{"videos": [1], "annotations": null, "categories": [1]}', r"no \['annotations'\] in it"),
        (b"\xff\xfe\xfd", r"train\.json: not UTF-8"),
        (None, r"train\.json: no such file"),
    ],
)
def test_without_a_usable_train_json_there_is_no_scan(root, text, message):
    path = root / "train" / "train.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for action in (lambda: scan(root, pytest.fail), lambda: YtvisReader(root)):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            action()


def test_the_file_is_parsed_once_and_again_when_it_changes(root):
    index = ytvis_index(root)
    reader = YtvisReader(root)
    assert ytvis_index(str(root)) is index
    change(root, lambda content: content["annotations"].pop(0))
    assert ytvis_index(root) is not index and not reader.mask("aa/00000", 1).any()


def test_a_reader_travels_light_and_reads_only_what_is_asked(root):
    reader = YtvisReader(root)
    size = len(pickle.dumps(reader))
    change(root, lambda content: content["annotations"].extend(content["annotations"] * 50))
    assert len(pickle.dumps(YtvisReader(root))) == size
    for path in (root / "train" / "JPEGImages").rglob("*.jpg"):
        if path.parent.name != "bb":
            path.unlink()
    again = pickle.loads(pickle.dumps(reader))
    assert again.image("bb/00005").shape == (HEIGHT, WIDTH, 3) and again.mask("aa/00000", 1).sum() == 36
    with pytest.raises(FileNotFoundError, match=r"aa/00000\.jpg"):
        again.image("aa/00000")
