"""Video: what is written can be read back, in colour, size and number."""

import cv2
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import ExifTags, Image

from ttilib.images import write_image
from ttilib.plots import video

GREEN = (30, 200, 60)


def film(count=5, height=40, width=70):
    frames = (torch.tensor(GREEN)[:, None, None] / 255).repeat(count, 1, height, width)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for t in range(count):
        masks[t, 10:30, 10 + 4 * t : 40 + 4 * t] = True
    return frames, masks


def test_overlay_video_comes_back_as_written(tmp_path, capfd):
    frames, masks = film()
    path = video.write_overlay(tmp_path / "film.mp4", frames, masks, masks, 30000 / 1001, {"TTI": "#E6007E"})
    assert [each.name for each in tmp_path.iterdir()] == [path.name]  # nothing temporary is left
    back = np.stack([frame for _, frame in video.open_video(path)]).astype(int)
    zoom = video.zoom_for(frames[0])
    assert back.shape == (5, 40 * zoom + video.STRIP, 3 * 70 * zoom, 3)
    assert np.abs(back[2, video.STRIP + 5 * zoom, 5 * zoom] - GREEN).max() < 12  # red, green, blue in this order
    given, predicted, true = (back[:, video.STRIP + 20 * zoom, x * 70 * zoom + 30 * zoom] for x in range(3))
    assert np.abs(given[2] - GREEN).max() < 12 and np.abs(true[2] - GREEN).max() < 12
    assert predicted[2, 0] > 90 and predicted[2, 1] < 130  # the prediction is magenta over green
    red = back[:, video.STRIP + 20 * zoom, 85 * zoom, 0]  # column 15 of the prediction: masks move with the frames
    assert (red[:2] > 90).all() and (red[3:] < 60).all()
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(30000 / 1001, abs=0.01)
    capture.release()
    with video.av.open(str(path)) as container:  # what browsers play
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate.as_integer_ratio() == (30000, 1001)
    assert "OpenCV" not in capfd.readouterr().err


def test_a_failure_leaves_no_file_and_keeps_the_old_one(tmp_path):
    frames, masks = film()
    path = video.write_overlay(tmp_path / "film.mp4", frames, masks)
    before = path.read_bytes()
    for count in (5, 0):  # frames without masks, and nothing at all
        with pytest.raises(ValueError):
            video.write_overlay(path, frames[:count], masks[:0])
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_sides_are_even_and_an_overlay_of_enormous_frames_is_reduced():
    for width, shape in ((361, (66, 722, 3)), (4000, (38, video.WIDEST, 3))):
        panels = video.side_by_side(np.zeros((41, width, 3), np.uint8), np.zeros((41, width), bool))
        assert panels.shape == shape


def test_every_object_is_in_the_legend_of_a_narrow_frame():
    objects = video.object_colours([f"object {n}" for n in range(6)])
    panels = video.side_by_side(np.zeros((400, 240, 3), np.uint8), np.zeros((400, 240), np.uint8), objects=objects)
    strip = panels[: video.STRIP, 240:].reshape(-1, 3).astype(int)
    for colour in objects.values():
        assert (np.abs(strip - 255 * np.array(to_rgb(colour))).max(axis=1) < 8).any()


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
    make(tmp_path / "film.mp4")
    with pytest.raises((ValueError, FileNotFoundError), match=word) as caught:
        video.open_video(tmp_path / "film.mp4")
    assert "film.mp4" in str(caught.value)


def test_frames_of_a_phone_have_one_size_as_they_are_shown(tmp_path):
    """Two files of 6 x 8 and 8 x 6 pixels, the second to be turned by a quarter."""
    write_image(tmp_path / "a.jpg", np.zeros((6, 8, 3), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (6, 8)).save(tmp_path / "b.jpg", exif=exif)
    film = video.open_video(tmp_path)
    assert film.size == (6, 8) and [frame.shape for _, frame in film] == [(6, 8, 3)] * 2
