"""Images survive writing and reading, label maps exactly; damaged and ambiguous files are refused by name."""

import zlib

import cv2
import numpy as np
import pytest
from corpora import palette_png, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from ttilib.images import header_size, read_image, read_labels, write_image, write_labels

COLOURS = {(0, 0, 0): 0, (9, 9, 9): 5, (255, 0, 1): 200}


def test_images_of_all_kinds_become_rgb(tmp_path):
    image = picture(1, 40, 60)
    grey = np.dstack([image[..., 0]] * 3)
    write_image(tmp_path / "a.png", image)
    assert Image.open(tmp_path / "a.png").getpixel((3, 2)) == tuple(image[2, 3])
    Image.fromarray(np.dstack([image, image[..., 0]])).save(tmp_path / "alpha.png")
    Image.fromarray(image[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(image[..., 0]).save(tmp_path / "grey.png")
    for name, expected in (("a", image), ("alpha", image), ("deep", grey), ("grey", grey)):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), expected)
    write_image(tmp_path / "a.jpg", image)
    Image.fromarray(image).convert("CMYK").save(tmp_path / "inks.jpg")
    for name in ("a.jpg", "inks.jpg"):
        assert np.abs(read_image(tmp_path / name).astype(int) - image).mean() < 5


@pytest.mark.parametrize("orientation", (2, 6, 8))
def test_images_and_label_maps_are_turned_as_viewers_and_opencv_show_them(tmp_path, orientation):
    exif, image = Image.Exif(), np.repeat(np.repeat(picture(0, 3, 4) // 64 * 64, 8, axis=0), 8, axis=1)
    exif[0x0112] = orientation
    path, labels = tmp_path / "a.jpg", tmp_path / "a.png"
    Image.fromarray(image).save(path, exif=exif, quality=95)
    Image.fromarray(image[..., 0]).save(labels, exif=exif)
    np.testing.assert_array_equal(read_image(path), cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))
    np.testing.assert_array_equal(read_image(path, upright=False), np.asarray(Image.open(path)))
    np.testing.assert_array_equal(read_labels(labels), np.asarray(ImageOps.exif_transpose(Image.open(labels))))
    np.testing.assert_array_equal(read_labels(labels, upright=False), image[..., 0])


@settings(max_examples=30)
@given(labels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))), alpha=st.booleans())
def test_label_maps_and_colours_of_a_table_are_exact(tmp_path_factory, labels, alpha):
    folder, numbers = tmp_path_factory.mktemp("labels"), labels % 3
    write_labels(folder / "grey.png", labels)
    palette_png(folder / "palette.png", labels)
    Image.fromarray(np.dstack([labels] * 3 + [255 - labels] * alpha)).save(folder / "equal.png")
    for name in ("grey.png", "palette.png", "equal.png"):
        np.testing.assert_array_equal(read_labels(folder / name, {(1, 2, 3): 4}), labels)
    Image.fromarray(np.array(list(COLOURS), np.uint8)[numbers]).save(folder / "colours.png")
    np.testing.assert_array_equal(read_labels(folder / "colours.png", COLOURS), np.array([*COLOURS.values()])[numbers])


def test_the_table_comes_before_equal_channels_and_must_contain_every_colour(tmp_path):
    path, rgb = tmp_path / "a.png", np.zeros((2, 3, 3), dtype=np.uint8)
    rgb[0] = 9
    Image.fromarray(rgb).save(path)
    assert read_labels(path, COLOURS)[:, 0].tolist() == [5, 0] and read_labels(path)[:, 0].tolist() == [9, 0]
    for unknown in ((255, 0, 2), (9, 9, 8), (8, 9, 9), (9, 8, 9)):  # two equal channels are not enough
        rgb[1, 1] = unknown
        Image.fromarray(rgb).save(path)
        with pytest.raises(ValueError, match=r"a\.png: .* 3 colours"):
            read_labels(path, COLOURS if unknown[2] != 9 else None)


def png(path, rows, bits, colour_type, palette=b""):
    """A PNG by hand: `rows` are the packed bytes of each row, `bits` of each sample."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    width = len(rows[0]) * 8 // bits
    header = width.to_bytes(4, "big") + len(rows).to_bytes(4, "big") + bytes([bits, colour_type, 0, 0, 0])
    colours = chunk(b"PLTE", palette) if palette else b""
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + colours + data + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_palettes_are_indices_and_few_bits_of_grey_are_ambiguous(tmp_path, bits):
    rows = [bytes([0b11100100]), bytes([0b00000001])]
    indices = [[row[0] >> shift & 2**bits - 1 for shift in range(8 - bits, -1, -bits)] for row in rows]
    path = png(tmp_path / "palette.png", rows, bits, 3, bytes(range(30, 30 + 3 * 2**bits)))
    np.testing.assert_array_equal(read_labels(path), indices)
    path = png(tmp_path / "grey.png", rows, bits, 0)
    if bits == 1:
        np.testing.assert_array_equal(read_labels(path), indices)
    else:  # Pillow would give 85 or 17 times the index
        with pytest.raises(ValueError, match=rf"grey\.png: .*{bits}-bit grey"):
            read_labels(path)
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png: .*I;16"):
        read_labels(tmp_path / "deep.png")


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_missing_empty_and_other_files_are_named(tmp_path, read):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "large.png").write_bytes(b"P5 20000 20000 255\n")
    for name, error, word in (
        ("empty.png", ValueError, "empty"), ("text.png", ValueError, "not an image"), ("", FileNotFoundError, "folder"),
        ("none.png", FileNotFoundError, "no such file"), ("large.png", ValueError, "pixels; save it smaller"),
    ):  # fmt: skip
        with pytest.raises(error, match=f"{name}: .*{word}"):
            read(tmp_path / name)
    assert header_size(tmp_path / "large.png") is None


def test_a_truncated_jpeg_is_refused_and_trailing_bytes_are_not(tmp_path):
    path, thumbnail = tmp_path / "phone.jpg", b"\xff\xe1\x00\x08ab\xff\xd9cd"  # a segment with an end marker inside
    write_image(path, picture(2, 60, 80))
    data = path.read_bytes()
    path.write_bytes(data[:2] + thumbnail + data[2:] + b"film" * 5000)
    assert read_image(path).shape == (60, 80, 3)
    for damaged in (data[: len(data) // 3], data[:-1], data[:2] + thumbnail + data[2:-300]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"phone\.jpg: image cannot be decoded"):
            read_image(path)


def test_a_damaged_label_map_is_refused_or_intact_but_never_other_labels(tmp_path):
    rng, path = np.random.default_rng(1), tmp_path / "labels.png"
    labels = np.repeat(np.repeat(rng.integers(0, 21, (6, 8)), 4, axis=0), 4, axis=1).astype(np.uint8)
    write_labels(path, labels)
    data, refused = path.read_bytes(), 0
    truncated = [data[:length] for length in range(1, len(data))]
    flipped = [(rng.integers(len(data)), rng.integers(8)) for _ in range(200)]  # Pillow's load() alone misses a fifth
    for damaged in truncated + [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at, bit in flipped]:
        path.write_bytes(damaged)
        try:
            assert np.array_equal(read_labels(path), labels)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "decoded" in str(error)
    assert refused > len(truncated) - 20 + 175
