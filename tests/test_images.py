"""Images come back as they were written, label maps exactly; broken files are named."""

import zlib

import numpy as np
import pytest
from corpora import palette_png, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ttilib.datasets.masks import census, count
from ttilib.images import image_files, read_image, read_labels, write_image, write_labels


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


def test_sixteen_bits_are_scaled_and_transparency_is_dropped(tmp_path):
    image = picture(1, 40, 60)
    deep = image[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[..., 2], image[..., 0])
    Image.fromarray(np.dstack([image, image[..., 0]])).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), image)
    Image.fromarray(image).convert("CMYK").save(tmp_path / "inks.jpg")
    assert np.abs(read_image(tmp_path / "inks.jpg").astype(int) - image).mean() < 5


def test_files_of_a_folder_are_listed_as_people_count(tmp_path):
    for name in ("a10.png", "a9.JPG", ".hidden.png", "notes.txt", "in/b.png", ".git/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path)] == ["a9.JPG", "a10.png"]
    assert image_files(tmp_path, recursive=True)[-1] == tmp_path / "in" / "b.png"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image in this folder"):
        image_files(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        image_files(tmp_path / "none")


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
    assert sum(count(read_labels(folder / "grey.png")).values()) == labels.size


def test_black_and_white_files_give_zero_and_one(tmp_path):
    mask = np.eye(4, dtype=bool)
    Image.fromarray(mask).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "bits.png"), mask.astype(np.uint8))


def test_counts_follow_a_changed_file(tmp_path):
    path = tmp_path / "labels.png"
    write_labels(path, np.full((3, 4), 7, dtype=np.uint8))
    assert census([path]) == {path: {7: 12}}
    write_labels(path, np.array([[1, 1, 255]], dtype=np.uint8))
    assert census([path]) == {path: {1: 2, 255: 1}}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99, 0.9999])  # the last: one byte short
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
    text.write_text("not an image")
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
        with pytest.raises(ValueError, match=r"cut\.png: .* cannot be decoded"):
            read(png)


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(path, rows, bits, colour_type, palette=b""):
    """A PNG by hand: `rows` are the packed bytes of each row, `bits` of each sample."""
    width = len(rows[0]) * 8 // bits
    header = width.to_bytes(4, "big") + len(rows).to_bytes(4, "big") + bytes([bits, colour_type, 0, 0, 0])
    colours = chunk(b"PLTE", palette) if palette else b""
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + colours + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


def test_colour_and_deep_label_maps_are_refused(tmp_path):
    write_image(tmp_path / "colour.png", picture(0))
    with pytest.raises(ValueError, match=r"colour\.png: label map has RGB pixels of 576 colours \(.*; save it as one"):
        read_labels(tmp_path / "colour.png")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png: label map has I;16 pixels; save it as one channel"):
        read_labels(tmp_path / "deep.png")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_palettes_are_indices_and_few_bits_of_grey_are_not_guessed_at(tmp_path, bits):
    rows = [bytes([0b11100100]), bytes([0b00000001])]
    shifts = range(8 - bits, -1, -bits)
    indices = [[row[0] >> shift & 2**bits - 1 for shift in shifts] for row in rows]
    path = png(tmp_path / "palette.png", rows, bits, 3, bytes(range(30, 30 + 3 * 2**bits)))
    np.testing.assert_array_equal(read_labels(path), indices)
    path = png(tmp_path / "grey.png", rows, bits, 0)
    if bits == 1:
        np.testing.assert_array_equal(read_labels(path), indices)
    else:  # Pillow would say 85 or 17 times the index
        with pytest.raises(ValueError, match=rf"grey\.png: label map has {bits}-bit grey pixels; save it as one"):
            read_labels(path)


COLOURS = {(0, 0, 0): 0, (9, 9, 9): 5, (255, 0, 1): 200}


@settings(max_examples=30, deadline=None)
@given(labels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 5, 200])))
def test_colours_of_a_table_are_its_labels(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("labels") / "colours.png"
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[list(COLOURS.values())] = list(COLOURS)
    Image.fromarray(colours[labels]).save(path)
    np.testing.assert_array_equal(read_labels(path, COLOURS), labels)
    assert count(read_labels(path, COLOURS)) == {n: int((labels == n).sum()) for n in (0, 5, 200) if n in labels}


@settings(max_examples=30, deadline=None)
@given(labels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))), more=st.sampled_from(["", "A", "LA"]))
def test_equal_channels_are_the_label(tmp_path_factory, labels, more):
    path = tmp_path_factory.mktemp("labels") / "equal.png"
    channels = [labels] * (1 if more == "LA" else 3) + ([255 - labels] if more else [])
    Image.fromarray(np.dstack(channels)).save(path)
    np.testing.assert_array_equal(read_labels(path), labels)
    table = {(1, 2, 3): 4}
    np.testing.assert_array_equal(read_labels(path, table), labels)


def test_a_table_comes_before_equal_channels_and_must_hold_every_colour(tmp_path):
    path = tmp_path / "a.png"
    rgb = np.zeros((2, 3, 3), dtype=np.uint8)
    rgb[0] = 9
    Image.fromarray(rgb).save(path)
    assert count(read_labels(path, COLOURS)) == {0: 3, 5: 3}
    assert count(read_labels(path)) == {0: 3, 9: 3}  # not what another table made of it
    assert count(read_labels(path, {**COLOURS, (9, 9, 9): 6})) == {0: 3, 6: 3}
    rgb[1, 1] = 255, 0, 2
    Image.fromarray(rgb).save(path)
    with pytest.raises(
        ValueError, match=r"a\.png: .* RGB pixels of 3 colours, 1 of which mean no label \(\(255, 0, 2\)\)"
    ):
        read_labels(path, COLOURS)
    with pytest.raises(ValueError, match=r"RGB pixels of 3 colours \(\(0, 0, 0\), \(9, 9, 9\), \(255, 0, 2\)\);"):
        read_labels(path)
    for one in ((9, 9, 8), (8, 9, 9), (9, 8, 9)):  # two equal channels are not enough
        rgb[1, 1] = one
        Image.fromarray(rgb).save(path)
        with pytest.raises(ValueError, match="of 3 colours"):
            read_labels(path)


def damaged(path):
    """Whether a file is refused, or still gives labels."""
    try:
        return read_labels(path)
    except ValueError as error:
        assert str(path) in str(error) and "decoded" in str(error) and "BytesIO" not in str(error)
        return None


def test_a_damaged_label_map_is_refused_or_whole_but_never_other_labels(tmp_path):
    rng = np.random.default_rng(1)
    labels = np.repeat(np.repeat(rng.integers(0, 21, (6, 8)), 4, axis=0), 4, axis=1).astype(np.uint8)
    path = tmp_path / "labels.png"
    write_labels(path, labels)
    data = path.read_bytes()
    for length in range(1, len(data)):
        path.write_bytes(data[:length])
        found = damaged(path)
        assert found is None or np.array_equal(found, labels)
    refused = 0
    for _ in range(400):  # one bit flipped: Pillow alone would take one in five for other labels
        place, bit = rng.integers(len(data)), rng.integers(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        found = damaged(path)
        refused += found is None
        assert found is None or np.array_equal(found, labels)
    assert refused > 350


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(min_size=1, max_size=80),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a"]),
)
def test_bytes_that_are_no_picture_are_named(tmp_path_factory, data, start):
    path = tmp_path_factory.mktemp("noise") / "noise.png"
    path.write_bytes(start + data)
    damaged(path)


def test_labels_are_never_written_with_loss(tmp_path):
    with pytest.raises(ValueError, match="must be .png"):
        write_labels(tmp_path / "labels.jpg", np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="cannot write '.xyz'"):
        write_image(tmp_path / "image.xyz", picture(0))
