"""DAVIS: official editions with the classes of the table, and masks of class ids."""

import numpy as np
import pytest
from corpora import HEIGHT, WIDTH, block, broken_png, davis, davis_2016, davis_2017, full
from PIL import Image

from ttilib.datasets.catalog import find_dataset, read_fold, read_table

DAVIS = {
    "bus": [block(1, 2, 2, 5, 5), full(0), block(1, 3, 3, 5, 5) + block(2, 12, 20, 2, 3)],
    "libby": [block(4, 0, 0, 2, 2)] * 3,
    "bear": [full(1)] * 2,
    "gold-fish": [full(1)] * 2,
}


@pytest.mark.parametrize(("make", "resolution"), [(davis_2016, "480p"), (davis_2017, "Full-Resolution")])
def test_official_davis_shows_the_class_of_the_table(tmp_path, make, resolution):
    root = make(tmp_path, DAVIS, resolution)
    fold = read_fold("davis", 1, root)
    # bear is left out for a reason, gold-fish has no entry
    assert fold.frames == {"bus": ("bus/8", "bus/9", "bus/10"), "libby": ("libby/8", "libby/9", "libby/10")}
    assert fold.presence == dict.fromkeys(range(1, 21), {}) | {
        6: {"bus": ("bus/8", "bus/10")}, 12: {"libby": ("libby/8", "libby/9", "libby/10")},
    }  # fmt: skip
    assert fold.train == fold.val == () and fold.novel == (6, 7, 8, 9, 10)
    reader = find_dataset("davis").reader(root)
    np.testing.assert_array_equal(reader.mask("bus/10", 6), DAVIS["bus"][2] > 0)  # both parts, none of them ignored
    np.testing.assert_array_equal(reader.mask("bus/9", 6), full(0))
    assert reader.image("bus/8").shape == (HEIGHT, WIDTH, 3) and not reader.episode_rule.padding_is_background
    with pytest.raises(ValueError, match="DAVIS cannot be trained on"):
        reader.labels("bus/8", (6,))


def test_an_official_edition_prefers_480p_follows_the_size_rule_and_reports_bad_masks(tmp_path):
    davis_2016(tmp_path, {"bus": [block(1, 0, 0, 9, 9, size=(36, 64))]}, "1080p")
    root = davis_2017(tmp_path, DAVIS, "480p")
    fold = read_fold("davis", 1, root, table={**read_table("davis"), "min_pixels": 10})
    assert [*fold.presence[12], *fold.presence[6]] == ["bus"]  # libby has 4 pixels
    reader = find_dataset("davis").reader(root)
    assert reader.image("bus/8").shape[:2] == (HEIGHT, WIDTH)
    path, errors = root / "Annotations" / "480p" / "bus", []
    Image.fromarray(block(255, 2, 2, 5, 5)).convert("1").save(path / "8.png")
    np.testing.assert_array_equal(reader.mask("bus/8", 6), block(1, 2, 2, 5, 5))
    for video in ("bus", "bear"):  # the second is of no class
        broken_png(path.parent / video / "9.png", "cut off")
    fold = read_fold("davis", 1, root, on_error=errors.append)
    assert fold.frames["bus"] == ("bus/8", "bus/10") and "480p/bus/9.png" in str(*errors)


def test_masks_of_class_ids(tmp_path):
    void = block(8, 0, 0, 3, 3)
    void[9:] = 255
    root = davis(tmp_path, {"pets": [void, block(21, 0, 0, 3, 3), block(12, 5, 5, 4, 4)], "bear": [full(8)] * 3})
    colour = np.full((HEIGHT, WIDTH, 3), (64, 0, 0), dtype=np.uint8)
    Image.fromarray(colour).save(root / "Annotations" / "bear" / "9.png")
    errors = []
    fold = read_fold("davis", 1, root, on_error=errors.append)
    assert fold.frames == {"bear": ("bear/8", "bear/10"), "pets": ("pets/8", "pets/10")}
    assert fold.presence[8] == {"bear": ("bear/8", "bear/10"), "pets": ("pets/8",)}
    assert fold.presence[12] == {"pets": ("pets/10",)}
    assert [word in str(error) for word, error in zip(("9.png", "label 21"), errors, strict=True)] == [True, True]
    reader = find_dataset("davis").reader(root)
    for labels in (reader.mask("pets/8", 8), reader.labels("pets/8", (8,))):
        np.testing.assert_array_equal(labels, np.where(void == 8, 1, void))
    with pytest.raises(ValueError, match=r"bear/9\.png"):
        read_fold("davis", 0, root)
