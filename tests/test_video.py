"""Video: what is written can be read back, in colour, size and number."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from ttilib.images import read_labels, write_image
from ttilib.plots import video

GREEN = (30, 200, 60)


def film(count=5, height=40, width=70):
    frames = torch.zeros(count, 3, height, width)
    frames[:] = torch.tensor(GREEN)[:, None, None] / 255
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for t in range(count):
        masks[t, 10:30, 10 + 4 * t : 40 + 4 * t] = True
    return frames, masks


@pytest.mark.parametrize("suffix", [".webm", ".mp4"])
def test_overlay_video_comes_back_as_written(tmp_path, suffix, capfd):
    frames, masks = film()
    path = video.write_overlay(tmp_path / f"film{suffix}", frames, masks, masks, fps=4.5)
    assert path.suffix == (".webm" if video.av is None else suffix)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]  # nothing temporary is left
    back = list(video.read_frames(path))
    zoom = video.zoom_for(frames[0], video.PANEL)
    height, width = 40 * zoom + video.STRIP, 3 * 70 * zoom
    assert len(back) == 5 and back[0].shape == (height, width, 3)
    corner = back[2][video.STRIP + 5 * zoom, 5 * zoom].astype(int)
    assert np.abs(corner - GREEN).max() < 12  # red, green, blue in this order
    inside = [back[2][video.STRIP + 20 * zoom, x * 70 * zoom + 30 * zoom].astype(int) for x in range(3)]
    assert np.abs(inside[0] - GREEN).max() < 12 and np.abs(inside[2] - GREEN).max() < 12
    assert inside[1][0] > 90 and inside[1][1] < 130  # the prediction is magenta over green
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(4.5, abs=0.01)
    capture.release()
    assert "OpenCV" not in capfd.readouterr().err


def test_mask_moves_with_its_frame(tmp_path):
    frames, masks = film()
    path = video.write_overlay(tmp_path / "film.webm", frames, masks)
    zoom = video.zoom_for(frames[0], video.PANEL)
    at = (video.STRIP + 20 * zoom, 70 * zoom + 15 * zoom)  # column 15 of the prediction
    red = [int(frame[at][0]) for frame in video.read_frames(path)]
    assert red[0] > 90 and red[1] > 90 and red[3] < 60 and red[4] < 60


def test_mp4_is_h264_that_browsers_play(tmp_path):
    av = pytest.importorskip("av", reason="PyAV (extra `video`) writes the .mp4")
    frames, masks = film(height=33, width=45)
    path = video.write_overlay(tmp_path / "film.mp4", frames, masks, fps=30000 / 1001)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(30000, 1001)
        assert stream.height % 2 == 0 and stream.width % 2 == 0


def test_a_failure_leaves_no_file_and_keeps_the_old_one(tmp_path):
    frames, masks = film()
    path = video.write_overlay(tmp_path / "film.webm", frames, masks)
    before = path.read_bytes()
    for count in (5, 0):  # frames without masks, and nothing at all
        with pytest.raises(ValueError):
            video.write_overlay(path, frames[:count], masks[:0])
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match=r"\.gif"):
        video.write_overlay(tmp_path / "film.gif", frames, masks)


def test_each_panel_shows_its_own_mask_and_sides_are_even():
    frame, mask, truth = np.zeros((41, 361, 3), np.uint8), np.zeros((41, 361), bool), np.zeros((41, 361), bool)
    mask[:, :100] = truth[:, 200:300] = True
    assert video.side_by_side(frame, mask).shape == (66, 722, 3)
    three = video.side_by_side(frame, mask, truth)
    assert three.shape == (66, 1084, 3)
    assert all(three[: video.STRIP, 361 * n : 361 * n + 120].max() > 200 for n in range(3))  # each has a name
    given, predicted, true = np.split(three[video.STRIP :, : 3 * 361], 3, axis=1)
    assert not given.any()
    assert predicted[20, 50, 0] > 50 and (predicted[20, 200] == 255).all()  # the ground truth is a line above it
    assert (true[20, 200] == 255).all() and not true[:, :199].any()


def test_a_folder_of_images_is_read_in_natural_order(tmp_path):
    for number in (10, 9, 1):
        write_image(tmp_path / f"frame{number}.png", np.full((6, 8, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    assert [int(frame[0, 0, 0]) for frame in video.read_frames(tmp_path)] == [1, 9, 10]
    assert video.frame_names(tmp_path, 2) == ("frame1", "frame9")
    assert video.frame_names(tmp_path / "film.mp4", 2) == ("00000", "00001")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: None, "no such file"), (lambda path: path.write_bytes(b"not a video"), "no frame"),
        (lambda path: path.mkdir(), "no image"),
        (lambda path: [write_image(path / name, np.zeros((4, 4, 3), np.uint8)) for name in ("a.jpg", "a.png")], "both"),
        (lambda path: [write_image(path / f"{n}.png", np.zeros((4, n, 3), np.uint8)) for n in (3, 4)], "4.png"),
        (lambda path: [path.mkdir(), Image.new("1", (20000, 6000)).save(path / "a.png")], "too large"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, make, word):
    make(tmp_path / "film.webm")
    with pytest.raises((ValueError, FileNotFoundError), match=word) as caught:
        video.open_video(tmp_path / "film.webm")
    assert "film.webm" in str(caught.value)


def test_frames_of_a_phone_have_one_size_as_they_are_shown(tmp_path):
    """Two files of 6 x 8 and 8 x 6 pixels, the second to be turned by a quarter."""
    write_image(tmp_path / "a.jpg", np.zeros((6, 8, 3), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (6, 8)).save(tmp_path / "b.jpg", exif=exif)
    film = video.open_video(tmp_path)
    assert film.size == (6, 8) and [frame.shape for _, frame in film] == [(6, 8, 3)] * 2


def test_an_overlay_of_enormous_frames_is_reduced(tmp_path):
    panels = video.side_by_side(np.zeros((3, 60000, 3), np.uint8), np.zeros((3, 60000), bool))
    assert max(panels.shape) == video.LONGEST_SIDE and panels.shape[0] % 2 == 0


def test_masks_are_written_as_indices_named_after_frames(tmp_path):
    _, masks = film(count=2)
    paths = video.write_masks(tmp_path / "out", masks, ["clip/00000", "clip/00.5"])
    assert [path.name for path in paths] == ["00000.png", "00.5.png"]
    np.testing.assert_array_equal(read_labels(paths[1]), masks[1].numpy().astype(np.uint8))
    with pytest.raises(ValueError, match="both be 00000.png"):
        video.write_masks(tmp_path, masks, ["a/00000", "b/00000"])
