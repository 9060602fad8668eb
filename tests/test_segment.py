"""A user's own images in, masks at the video's size out, by the library and by the command."""

import json
import shutil
import weakref
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tasks import toy_encoder

from ttilib.__main__ import main
from ttilib.datasets.masks import decode
from ttilib.datasets.transforms import letterbox
from ttilib.encoders.checkpoints import fingerprint, load_encoder, save_encoder
from ttilib.encoders.layers import MultiLayerEncoder
from ttilib.encoders.pspnet import build_encoder
from ttilib.episodes.clips import clip_from_files, clips_from_files
from ttilib.images import read_image, read_labels, write_image, write_labels
from ttilib.plots import video
from ttilib.results.metrics import iou
from ttilib.segment import segment, support_files
from ttilib.solver.extraction import FeatureExtractor, FeatureMean, save_means
from ttilib.solver.methods import read_method

SIZE = (97, 161)


@pytest.fixture
def folder(tmp_path):
    """Two support images and a video of a red disk that moves over grass, 90 x 160 pixels; masks with 2 labels."""
    rng = np.random.default_rng(0)

    def write(path, x, y):
        image = np.full((90, 160, 3), (40, 140, 50), np.uint8)
        mask = cv2.circle(np.zeros((90, 160), np.uint8), (x, y), 18, 3, -1)
        image[mask > 0] = (200, 40, 40)
        write_image(path.with_suffix(".jpg"), np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8))
        mask[-9:, -9:] = 5  # another object
        write_labels(path.with_suffix(".png"), mask)

    for k, (x, y) in enumerate([(50, 40), (110, 50)]):
        write(tmp_path / f"image{k}", x, y)
    for t in range(8, 12):  # 8, 9, 10, 11: not 10 before 8
        write(tmp_path / "video" / f"{t}", 3 * t, 45)
        (tmp_path / "video" / f"{t}.png").rename(tmp_path / f"{t}.png")
    (tmp_path / "encoder.py").write_text("from tasks import toy_encoder\n\ndef load():\n    return toy_encoder\n")
    return tmp_path


def support(folder, shots=2):
    return ([folder / f"image{k}.{end}" for k in range(shots)] for end in ("jpg", "png"))


def run(folder, method="frozen", encoder=None, label=3, shots=2, **options):
    """The summary, and the masks that were written."""
    images, masks = support(folder, shots)
    encoder = encoder or f"{folder}/encoder.py:load"
    near = SIZE[0] - 1, SIZE[1] - 7  # the next sides of 8 n + 1 pixels are those of SIZE
    summary = segment(images, masks, folder / "video", folder / "out", encoder, method, near, label=label, **options)
    files = sorted((folder / "out" / "masks").iterdir(), key=lambda path: int(path.stem))
    return summary, np.stack([read_labels(path) for path in files]) > 0


def by_steps(folder, text, spec=None, means=None, frames=slice(None)):
    """The same by the steps of the library."""
    film = [frame for _, frame in video.open_video(folder / "video")]
    clip = clip_from_files(*support(folder), film[frames], SIZE, label=3)
    encoder = load_encoder(spec or f"{folder}/encoder.py:load")
    identity = fingerprint(encoder.eval()) if isinstance(encoder, torch.nn.Module) else ""
    found = read_method(text).predict(clip, FeatureExtractor(encoder, identity, means=means))
    placement = letterbox(90, 160, SIZE)
    return np.stack([placement.unpad(mask, (90, 160)) for mask in found.masks.numpy()]), found.solution


def test_masks_lie_on_the_object_at_the_size_of_the_video(folder):
    truth = np.stack([read_labels(folder / f"{t}.png") == 3 for t in range(8, 12)])
    ious = {}
    for text in ("frozen guided=0 cut=0", "frozen"):
        summary, masks = run(folder, text)
        ious[text] = (masks & truth).sum() / (masks | truth).sum()
    assert masks.shape == (4, 90, 160) and ious["frozen"] > max(0.8, ious["frozen guided=0 cut=0"] + 0.05)
    assert summary["frames"] == 4 and summary["objects"] == ["3"] and summary["network_size"] == list(SIZE)
    assert summary["foreground"] == [round(float(mask.mean()), 4) for mask in masks]
    assert json.loads((folder / "out" / "summary.json").read_text()) == summary
    assert (folder / "out" / summary["overlay"]).stat().st_size > 1000
    assert np.unique(read_labels(folder / "out" / "masks" / "8.png")).tolist() == [0, 255]  # what every viewer shows
    assert not np.array_equal(run(folder, label=5)[1], masks)
    image, mask = (str(path) for (path,) in support(folder, 1))  # one path, without a list
    segment(image, mask, folder / "video", folder / "one", f"{folder}/encoder.py:load", size=SIZE, label=3)
    assert np.array_equal(read_labels(folder / "one" / "masks" / "9.png") > 0, run(folder, shots=1)[1][1])


def test_any_method_gives_the_masks_of_the_library(folder):
    """Without a mean the clip gives one, and the method is named so."""
    for text, name in (("TTI+keyframe window=5",) * 2, ("frozen  steps = 20", "frozen steps=20 centring=episode")):
        summary, masks = run(folder, text)
        expected, solution = by_steps(folder, name)
        assert summary["method"] == name and np.array_equal(masks, expected) and summary["means"] is None
        assert solution.keyframe is None or summary["keyframe"] == str(solution.keyframe + 8)


def test_a_mean_is_read_from_the_named_file_or_the_one_beside_the_checkpoint(folder):
    network, spec = build_encoder("resnet18-mini", 10, seed=1).eval(), folder / "best.safetensors"
    save_encoder(spec, network)
    channels = MultiLayerEncoder(network).channels
    values = torch.rand(sum(channels), generator=torch.Generator().manual_seed(0)) / sum(channels) ** 0.5
    means = FeatureMean(fingerprint(network), (), channels, values, 2)
    beside, named = folder / "best.means.safetensors", folder / "named.means.safetensors"
    save_means(beside, means)
    save_means(named, replace(means, values=-values))
    for path, options in ((beside, {}), (named, {"means": named})):
        summary, masks = run(folder, "frozen steps=9", str(spec), **options)
        assert summary["method"] == "frozen steps=9" and summary["means"] == str(path)
        assert np.array_equal(masks, by_steps(folder, "frozen steps=9", spec, path)[0])
    save_means(named, replace(means, encoder="0123456789abcdef"))
    with pytest.raises(ValueError, match=r"named\.means\.safetensors: .*0123456789abcdef"):
        run(folder, "frozen", str(spec), means=named)


def words(folder, *more):
    """The command on the files of the folder."""
    images, masks = (map(str, files) for files in support(folder))
    given = ["segment", "--support", *images, "--masks", *masks, "--video", str(folder / "video"), "--label", "3"]
    given += ["--out", str(folder / "out"), "--encoder", f"{folder}/encoder.py:load", "--size", "97", "161"]
    return [*given, "--method", "TTI window=5 steps=2", *more]


def test_parts_are_episodes_of_their_own_and_the_support_is_encoded_once(folder, monkeypatch):
    """4 frames in parts of at most 3 are 2 and 2; names keep the number in the folder."""
    seen = []
    monkeypatch.setattr("tasks.toy_encoder", lambda images: seen.append(len(images)) or toy_encoder(images))
    summary, masks = run(folder, "TTI", part=3)
    assert summary["parts"] == 2 and seen == [1, 2, 2, 2]  # a first look, the support, the parts
    for part in (slice(0, 2), slice(2, 4)):
        assert np.array_equal(masks[part], by_steps(folder, "TTI", frames=part)[0])
    run(folder, "TTI", start=1, end=4, every=2)
    assert sorted(path.name for path in (folder / "out" / "masks").iterdir()) == ["11.png", "9.png"]
    with pytest.raises(ValueError, match="start=4"):
        run(folder, "TTI", start=4)


def test_several_objects_share_features_and_every_file_says_the_same(folder):
    alone = {label: run(folder, "TTI", label=label)[1] for label in (3, 5)}
    summary, _ = run(folder, "TTI", label=None, probabilities=True)
    out = folder / "out"
    labels = np.stack([read_labels(out / "masks" / f"{t}.png") for t in range(8, 12)])
    assert summary["objects"] == ["3", "5"] and Image.open(out / "masks" / "8.png").getpalette()[3:6] == [128, 0, 0]
    assert video.object_colours(summary["objects"]) == {"3": "#ff0000", "5": "#00ff00"}  # brighter than in the file
    assert np.array_equal(labels > 0, alone[3] | alone[5]) and not (labels == 1)[~alone[3]].any()
    table, outlines = pd.read_csv(out / "frames.csv"), json.loads((out / "masks.json").read_text())
    assert len(table) == 8 and table.area_px.tolist() == [(labels[t] == n).sum() for t in range(4) for n in (1, 2)]
    y, x = np.nonzero(labels[0] == 1)
    assert table.loc[0, ["x", "y", "left", "width"]].tolist() == pytest.approx(
        [x.mean(), y.mean(), x.min(), np.ptp(x) + 1], abs=1e-4
    )
    found = np.zeros_like(labels)
    for entry in outlines["annotations"]:
        found[entry["image_id"] - 1][decode(entry["segmentation"], 90, 160)] = entry["category_id"]
    assert np.array_equal(found, labels)
    sure = np.stack([read_labels(out / "probabilities" / f"{t}-1.png") for t in range(8, 12)])
    assert table.probability[0] == pytest.approx(sure[0][labels[0] == 1].mean() / 255, abs=0.05)
    key = list(range(8, 12)).index(int(summary["keyframe"]))
    assert np.array_equal(read_labels(out / "keyframe.png"), labels[key])
    clips = clips_from_files(
        [out / "keyframe.jpg"], [out / "keyframe.png"], [image := read_image(out / "keyframe.jpg")], SIZE
    )
    assert list(clips) == [str(n) for n in np.unique(labels[key]) if n] and image.shape == (90, 160, 3)


def test_leave_one_out_is_the_iou_of_an_image_under_the_others(folder):
    scores = run(folder, "TTI")[0]["leave_one_out"]["3"]
    images, masks = support(folder)
    for k in (0, 1):
        clip = clip_from_files([images[1 - k]], [masks[1 - k]], [images[k]], SIZE, truth=[masks[k]], label=3)
        found = read_method("TTI").predict(clip, FeatureExtractor(toy_encoder)).masks
        assert scores[k] == pytest.approx(iou(found, clip.truth, clip.query_valid), abs=1e-4)
    assert run(folder, "TTI", shots=1)[0]["leave_one_out"] == {"3": [None]}
    labels = read_labels(masks[0])
    labels[labels == 5] = 0
    labels[0, 0] = 5  # a stray pixel, which no cell of the features keeps
    write_labels(masks[0], labels)
    with pytest.raises(ValueError, match="video, object 5: no foreground"):
        run(folder, "TTI", label=None, shots=1)


def test_masks_are_found_beside_the_images_or_where_notebook_06_draws(folder):
    images, masks = [folder / "image0.jpg", folder / "image1.jpg"], [folder / "image0.png"]
    (folder / "image1.png").rename(folder / "image1.PNG")
    write_image(folder / "third.png", read_image(images[0]))
    with pytest.raises(FileNotFoundError, match=r"third\.png: no mask"):
        support_files([*images, folder / "third.png"])
    write_labels(folder / "masks" / "third.png", read_labels(masks[0]))
    found = support_files([*images, masks[0], folder / "third.png"])  # as in a folder, with the first mask
    assert found[0] == [*images, folder / "third.png"]
    assert found[1] == [*masks, folder / "image1.PNG", folder / "masks" / "third.png"]


def test_support_may_be_folders_and_files_and_masks_in_the_folder_of_the_photos(folder):
    images, masks = map(list, support(folder))
    for k, ends in enumerate((("jpg", "txt", "png"), ("png", "txt", "jpg"))):  # folders are listed in any order
        for end in ends:
            (folder / "own").mkdir(exist_ok=True)
            shutil.copy(folder / f"image{k}.{'png' if end == 'txt' else end}", folder / "own" / f"image{k}.{end}")
    own = [[folder / "own" / path.name for path in paths] for paths in (images, masks)]
    assert support_files([folder / "own", images[1]]) == ([*own[0], images[1]], [*own[1], masks[1]])
    assert support_files(folder / "own", folder / "own") == tuple(own)
    (folder / "other" / "own").mkdir(parents=True)
    with pytest.raises(ValueError, match="same name"):  # the name is that of the object
        support_files(images, [folder / "own", folder / "other" / "own"])
    (other := folder / "own" / "info.json").write_text("{}")
    assert support_files(folder / "own") == tuple(own)  # a mask of the image's name comes first
    for path in (*own[1], other):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"image7\.jpg: no such file"):
        support_files(folder / "own" / "image7.jpg")
    (outlines := folder / "own" / "image0.json").write_text("{}")  # of image 0 only
    assert support_files([own[0][0], outlines]) == ([own[0][0]], [outlines])  # as a shell lists a folder
    with pytest.raises(FileNotFoundError, match=r"image1\.jpg: no mask"):
        support_files(own[0][1])


def test_frames_keep_their_names_in_the_outlines_which_are_masks_again(folder, monkeypatch):
    """Names of files, not of a video's frames; the folder of frames has a dot in its name."""
    write_image(folder / "day.1" / "frame.png", read_image(folder / "video" / "8.jpg"))
    monkeypatch.chdir(folder)
    words = ["--support", "image0.jpg", "--encoder", "encoder.py:load", "--label", "3", "--size", *map(str, SIZE)]
    assert main(["segment", "day.1", *words]) == 0
    out = folder / "outputs" / "own" / "day.1"
    (clip,) = clips_from_files(["day.1/frame.png"], [out / "masks.json"], ["day.1/frame.png"], (90, 160)).values()
    assert np.array_equal(clip.support_masks[0].numpy(), read_labels(out / "masks" / "frame.png") > 0)


WRONG = [  # words of the command, and of what it says
    (["--method", "oracle"], "oracle needs the ground truth"),
    (["--method", "frozen", "--means", "none.safetensors"], "none.safetensors"),
    (["--method", "TTI", "--means", "none.safetensors"], "no mean is subtracted by TTI"),
    (["--method", "frozen centring=pool"], "centring=pool: no means of this encoder"), (["--device", "gpu"], "no such"),
    (["--label", "4"], "label"), (["--example"], "give one VIDEO"),
]  # fmt: skip


def test_the_command_reports_what_it_wrote_and_what_is_wrong(folder, capsys):
    assert main(words(folder)) == 0
    captured = capsys.readouterr()
    assert "4 masks" in captured.out and captured.out.count("\n") == 1 and not captured.err
    assert json.loads((folder / "out" / "summary.json").read_text())["method"] == "TTI window=5 steps=2"
    for wrong, said in WRONG:
        assert main(words(folder, *wrong)) == 2
        assert said in capsys.readouterr().err
    for holding in (["--out", str(folder / "video")], ["--support", str(folder), "--out", f"{folder}/video/.."]):
        assert main(words(folder, *holding)) == 2 and "choose another --out" in capsys.readouterr().err


def test_masks_of_an_earlier_run_are_removed_and_names_keep_their_dots(folder, capsys):
    for t in range(8, 12):
        (folder / "video" / f"{t}.jpg").rename(folder / "video" / f"shot.00{t}.jpg")
    (folder / "video" / "._shot.0008.jpg").write_bytes(b"a note of a Mac")
    assert main(words(folder)) == 0
    names = lambda: sorted(path.name for path in (folder / "out" / "masks").iterdir())  # noqa: E731
    assert names() == ["shot.0010.png", "shot.0011.png", "shot.008.png", "shot.009.png"]
    (folder / "video").rename(folder / "other")
    write_image(folder / "video" / "9.png", read_image(folder / "other" / "shot.009.jpg"))
    write_labels(mine := folder / "out" / "masks" / "mine.png", np.zeros((2, 2), np.uint8))
    assert main(words(folder)) == 2 and "mine.png: is no mask of this video" in capsys.readouterr().err
    mine.unlink()
    shutil.rmtree(folder / "other")
    assert main(words(folder)) == 0 and names() == ["9.png"]


@pytest.mark.filterwarnings("default:.*frames can be read")
def test_a_video_is_never_held_as_a_whole_and_one_that_breaks_off_is_told(folder, capsys, monkeypatch):
    """Frames are kept by weak references only: as soon as one is decoded, at most three older ones are alive."""
    film, seen, alive = folder / "film.avi", [], []
    writer = cv2.VideoWriter(str(film), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 90))
    for t in [8, 9, 10, 11] * 6:
        writer.write(cv2.cvtColor(read_image(folder / "video" / f"{t}.jpg"), cv2.COLOR_RGB2BGR))
    writer.release()
    plain = video._decode

    def counted(path):
        for frame in plain(path):
            seen.append(weakref.ref(frame))
            alive.append(sum(each() is not None for each in seen))
            yield frame

    monkeypatch.setattr(video, "_decode", counted)
    assert main(words(folder, "--video", str(film))) == 0
    captured = capsys.readouterr()
    assert max(alive) <= 4 and len(alive) <= 4 * 24 + 1 and "24/24" in captured.err and "warning" not in captured.err
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    assert main(words(folder, "--video", str(film))) == 0
    told, summary = capsys.readouterr().err, json.loads((folder / "out" / "summary.json").read_text())
    assert "of 24 frames" in told and summary["warning"] in told and 8 <= summary["frames"] < 14
    assert len(list((folder / "out" / "masks").iterdir())) == summary["frames"]
    assert main(words(folder, "--video", str(film), "--start", "20")) == 2
    assert "film.avi: no frame can be read from frame 20 on" in capsys.readouterr().err
