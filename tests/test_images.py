"""Pictures come back as they were written, label maps exactly; broken files are named."""

import numpy as np
import pytest
from corpora import palette_png, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ttilib.images import label_counts, read_image, read_labels, write_image, write_labels


def test_red_is_red_and_png_is_exact(tmp_path):
    image = np.zeros((5, 7, 3), dtype=np.uint8)
    image[..., 0] = 200
    write_image(tmp_path / "red.png", image)
    assert Image.open(tmp_path / "red.png").getpixel((0, 0)) == (200, 0, 0)
    np.testing.assert_array_equal(read_image(tmp_path / "red.png"), image)


def test_jpeg_comes_back_close_and_grey_files_become_colour(tmp_path):
    image = picture(1, 40, 60)
    write_image(tmp_path / "a.jpg", image)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - image).mean() < 4
    Image.fromarray(image[..., 0]).save(tmp_path / "grey.jpg")
    assert read_image(tmp_path / "grey.jpg").shape == (40, 60, 3)


def test_a_rotation_note_does_not_part_picture_and_labels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown a quarter turn round
    Image.fromarray(picture(0, 10, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (10, 20, 3)


@settings(max_examples=30, deadline=None)
@given(labels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_label_maps_are_exact(tmp_path_factory, labels):
    folder = tmp_path_factory.mktemp("labels")
    write_labels(folder / "grey.png", labels)
    np.testing.assert_array_equal(read_labels(folder / "grey.png"), labels)
    np.testing.assert_array_equal(read_labels(palette_png(folder / "palette.png", labels)), labels)
    assert sum(label_counts(folder / "grey.png").values()) == labels.size


def test_black_and_white_files_give_zero_and_one(tmp_path):
    mask = np.eye(4, dtype=bool)
    Image.fromarray(mask).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "bits.png"), mask.astype(np.uint8))


def test_label_counts_follow_a_changed_file(tmp_path):
    path = tmp_path / "labels.png"
    write_labels(path, np.full((3, 4), 7, dtype=np.uint8))
    assert label_counts(path) == {7: 12}
    write_labels(path, np.array([[1, 1, 255]], dtype=np.uint8))
    assert label_counts(path) == {1: 2, 255: 1}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_cut_off_jpeg_is_refused(tmp_path, share):
    path = tmp_path / "cut.jpg"
    write_image(path, picture(2, 60, 80))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"cut\.jpg.*cut off"):
        read_image(path)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm_and_a_thumbnail_does_not_hide_a_cut(tmp_path):
    path = tmp_path / "phone.jpg"
    exif_thumbnail = b"\xff\xe1\x00\x08ab\xff\xd9cd"  # a header segment of 8 bytes with an end mark inside
    write_image(path, picture(2, 60, 80))
    data = path.read_bytes()
    path.write_bytes(data[:2] + exif_thumbnail + data[2:] + b"film" * 5000)
    assert read_image(path).shape == (60, 80, 3)
    path.write_bytes(data[:2] + exif_thumbnail + data[2:-300])
    with pytest.raises(ValueError, match="cut off"):
        read_image(path)


def test_broken_files_are_named_with_what_was_found(tmp_path):
    empty, text, png = tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "cut.png"
    empty.write_bytes(b"")
    text.write_text("not a picture")
    write_labels(png, np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8))
    png.write_bytes(png.read_bytes()[:700])
    for read in (read_image, read_labels):
        with pytest.raises(ValueError, match=r"empty\.png: image file is empty"):
            read(empty)
        with pytest.raises(ValueError, match=r"text\.png.*decoded"):
            read(text)
        with pytest.raises(FileNotFoundError, match=r"none\.png: no such file"):
            read(tmp_path / "none.png")
        with pytest.raises(FileNotFoundError, match="is a folder"):
            read(tmp_path)
    with pytest.raises(ValueError, match=r"cut\.png: label map cannot be decoded"):
        read_labels(png)


def test_colour_and_deep_label_maps_are_refused(tmp_path):
    write_image(tmp_path / "colour.png", picture(0))
    with pytest.raises(ValueError, match=r"colour\.png: label map has RGB pixels; save it as one channel"):
        read_labels(tmp_path / "colour.png")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png: label map has I;16 pixels"):
        read_labels(tmp_path / "deep.png")


def test_labels_are_never_written_with_loss(tmp_path):
    with pytest.raises(ValueError, match="must be .png"):
        write_labels(tmp_path / "labels.jpg", np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="cannot write '.xyz'"):
        write_image(tmp_path / "image.xyz", picture(0))
