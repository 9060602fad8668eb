"""The runner checks parameters, which papermill does not; the notebooks of one's own video and of `frozen` run."""

import nbformat
import numpy as np
import pytest
import torch

import ttilib as tti
from ttilib.datasets.catalog import find_dataset
from ttilib.encoders.checkpoints import save_encoder
from ttilib.episodes.clips import synthetic_clip
from ttilib.files import read_json
from ttilib.images import read_image, read_labels, write_image, write_labels
from ttilib.plots.overlays import as_rgb
from ttilib.results.export import read_table
from ttilib.results.records import RowsFile, append_row, write_index
from ttilib.results.tables import METHOD
from ttilib.solver.extraction import FeatureMean, save_means
from ttilib.sweep.tables import table
from ttilib.sweep.tasks import notebook_parameters, run_notebook

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@pytest.fixture
def notebook(tmp_path):
    """A small real notebook: five parameters, and a file written from them."""
    parameters = nbformat.v4.new_code_cell(
        'shots: int = 5  # K\nrate: float = 0.5  # of a step\nname: str = "x"  # of the file\n'
        "fast: bool = False  # hurry\nfolds: list = [0]  # which"
    )
    parameters.metadata["tags"] = ["parameters"]
    work = nbformat.v4.new_code_cell(
        'from pathlib import Path\nassert shots < 9, "too many shots"\n'
        'Path(f"{name}.txt").write_text(str(shots * rate))'
    )
    path = tmp_path / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters, work], metadata=KERNEL), path)
    return path


def test_parameters_are_read_with_type_default_and_meaning(notebook, tmp_path):
    known = notebook_parameters(notebook)
    assert list(known) == ["shots", "rate", "name", "fast", "folds"]
    assert known["shots"] == {"type": "int", "default": "5", "help": "K"}
    with pytest.raises(FileNotFoundError, match="none.ipynb"):
        notebook_parameters(tmp_path / "none.ipynb")


@pytest.mark.parametrize(
    ("parameters", "key"),
    [({"shot": 1}, "shots"), ({"colour": 1}, "colour"), ({"shots": 1.5}, "float"), ({"shots": True}, "int"),
     ({"name": 3}, "str"), ({"folds": 0}, "list")],
)  # fmt: skip
def test_wrong_parameters_are_refused_before_anything_runs(notebook, tmp_path, parameters, key):
    with pytest.raises(ValueError, match=key):
        run_notebook(notebook, tmp_path / "out.ipynb", parameters)
    assert not (tmp_path / "out.ipynb").exists() and not list(tmp_path.glob("*.txt"))


def test_a_run_in_its_own_folder_survives_a_later_failure(notebook, tmp_path):
    output = tmp_path / "deep" / "out.ipynb"
    run_notebook(notebook, output, {"shots": 8, "rate": 1, "name": "y"})  # an int is a float
    assert (tmp_path / "y.txt").read_text() == "8"
    executed = nbformat.read(output, as_version=4)
    assert executed.metadata["papermill"]["parameters"] == {"shots": 8, "rate": 1, "name": "y"}
    before = output.read_bytes()
    with pytest.raises(RuntimeError, match=r"small\.ipynb.*too many shots.*out\.failed\.ipynb"):
        run_notebook(notebook, output, {"shots": 9})
    assert output.read_bytes() == before
    assert "too many shots" in output.with_name("out.failed.ipynb").read_text()


def test_a_cell_that_does_not_end_is_stopped(tmp_path):
    cells = [nbformat.v4.new_code_cell("import time\ntime.sleep(600)")]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), tmp_path / "slow.ipynb")
    with pytest.raises(RuntimeError, match="2 s"):
        run_notebook(tmp_path / "slow.ipynb", tmp_path / "out.ipynb", timeout=2)


BLOCKS = '''
import torch.nn.functional as F


def load():
    """Mean colour of every 8 x 8 pixels."""
    return lambda images: F.interpolate(images, size=tuple((s + 7) // 8 for s in images.shape[2:]), mode="area")
'''


def printed(path):
    """All that the cells of an executed notebook print."""
    outputs = [out for cell in nbformat.read(path, as_version=4).cells for out in cell.get("outputs", [])]
    return "".join(out.get("text", "") for out in outputs)


def test_the_notebook_of_ones_own_video_takes_files(repository, tmp_path):
    """Two images with masks, where 2 is the object, and a folder of four frames; one method alone."""
    clip = synthetic_clip(frames=4, shots=2, size=(70, 120))
    given = {"support": [], "masks": [], "video": str(tmp_path / "clip"), "label": 2}
    for k, (image, mask) in enumerate(zip(clip.support, clip.support_masks, strict=True)):
        given["support"].append(str(tmp_path / f"image{k}.jpg"))
        given["masks"].append(str(tmp_path / f"image{k}.png"))
        write_image(given["support"][k], as_rgb(image))
        labels = 2 * mask.numpy().astype(np.uint8)
        labels[:3, :3] = 1  # another object, so that `label` is needed
        write_labels(given["masks"][k], labels)
    for t, frame in enumerate(clip.query):
        write_image(tmp_path / "clip" / f"{t + 8}.jpg", as_rgb(frame))
    (tmp_path / "blocks.py").write_text(BLOCKS)
    means = str(tmp_path / "named.means.safetensors")
    save_means(means, FeatureMean("", (), (3,), torch.zeros(3), 2))
    given |= {"encoder": f"{tmp_path}/blocks.py:load", "means": means, "method": "frozen steps=9", "compare": ""}
    more = {"height": 65, "width": 113, "out": str(tmp_path)}
    run_notebook(repository / "notebooks" / "06_your_video.ipynb", tmp_path / "06.ipynb", given | more)
    folder = tmp_path / "own" / "clip" / "frozen_steps=9"
    assert [path.name for path in sorted((folder / "masks").iterdir())] == ["10.png", "11.png", "8.png", "9.png"]
    assert read_labels(folder / "masks" / "8.png").shape == (70, 120)
    summary = read_json(folder / "summary.json")
    assert (summary["method"], summary["means"], summary["network_size"]) == ("frozen steps=9", means, [65, 113])
    assert (folder / summary["overlay"]).stat().st_size > 1000
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {"06_given.png", "06_masks.png", "06_share.png"}  # nothing to compare with
    shown = printed(tmp_path / "06.ipynb")
    assert "2 images, 4 frames of 70 x 120 pixels" in shown and "4 masks in" in shown and "IoU" not in shown


@pytest.mark.study
def test_the_notebook_of_ones_own_video_takes_all_or_nothing(repository, tmp_path):
    notebook = repository / "notebooks" / "06_your_video.ipynb"
    with pytest.raises(RuntimeError, match="support, masks and video"):
        run_notebook(notebook, tmp_path / "06.ipynb", {"video": "clip", "out": str(tmp_path)})


@pytest.mark.study
def test_the_notebook_of_ones_own_video_writes_its_example_as_files(repository, mini, tmp_path):
    """An episode of the synthetic dataset: the same pixels as files, two methods, and what they score."""
    network = tti.build_encoder("resnet18-mini", 10, seed=3)
    save_encoder(tmp_path / "train" / "ytvis-f0" / "best.safetensors", network)
    small = {"height": 65, "width": 113, "shots": 2, "index": 7, "out": str(tmp_path)}
    run_notebook(repository / "notebooks" / "06_your_video.ipynb", tmp_path / "06.ipynb", small)
    data = tti.read_benchmark("ytvis-v1", 0, mini)
    episode = tti.draw_episodes(data, 2)[7]
    reader = find_dataset("ytvis").reader(data.query_root)
    folder = tmp_path / "own" / f"{episode.class_name}-{episode.video}"
    for k, name in enumerate(episode.support):
        assert np.array_equal(read_image(folder / "given" / f"image{k}.png"), reader.image(name))
        mask = read_labels(folder / "given" / f"mask{k}.png")
        assert np.array_equal(mask, reader.mask(name, episode.class_id) == 1) and mask.any()
    truth = np.stack([reader.mask(name, episode.class_id) == 1 for name in episode.query])
    frames = sorted((folder / "given" / folder.name).iterdir())
    assert len(frames) == len(truth) and np.array_equal(read_image(frames[-1]), reader.image(episode.query[-1]))
    shown = printed(tmp_path / "06.ipynb")
    for method, name in {"frozen": "frozen centring=episode", "TTI": "TTI"}.items():
        masks = np.stack([read_labels(folder / method / "masks" / frame.name) > 0 for frame in frames])
        assert f"{name} {100 * tti.iou(masks, truth):.1f}" in shown
        assert read_json(folder / method / "summary.json")["method"] == name
    assert (tmp_path / "figures" / "06_differ.png").is_file()


@pytest.mark.study
def test_the_notebook_of_the_recipe_takes_it_apart_and_reads_what_was_measured(repository, mini, tmp_path):
    """One small episode, every line of the ablation on it; a table of real video only from rows that are there."""
    network = tti.build_encoder("resnet18-mini", 10, seed=3)
    save_encoder(tmp_path / "train" / "ytvis-f0" / "best.safetensors", network)
    rows = [
        {"benchmark": "pascal2davis", "shots": 1, "encoder": "mine", "method": method, "fold": fold, "run": 0,
         "episode": "a", "key": f"{fold}", "index": 0, "class_id": fold, "class_name": "x", "video": f"v{fold}",
         "frames": 2, "intersection": 10 + gain, "union": 20, "predicted": 20, "true": 10 + gain, "j": 0.5, "f": 0.25}
        for method, gain in (("TTI", 0), ("frozen", 8)) for fold in (0, 1)
    ]  # fmt: skip
    measured = tmp_path / "real"
    for row in rows:
        append_row(measured / "rows" / "r.jsonl", row)
    lines = [{**{name: rows[0][name] for name in METHOD}, "method": m, "label": m} for m in ("TTI", "frozen")]
    manifest = tmp_path / "manifest.json"
    write_index(measured, "pascal2davis", "", lines, [RowsFile(measured / "rows/r.jsonl", manifest, "", (9, 9))], {})
    small = {"height": 65, "width": 113, "index": 7, "episodes": 1, "measured": str(measured), "out": str(tmp_path)}
    run_notebook(repository / "notebooks" / "07_frozen_encoder.ipynb", tmp_path / "07.ipynb", small)
    parts = read_table(tmp_path / "tables" / "07_parts.csv")
    assert list(parts["line"]) == [line.label or line.method for line in table("ablation-frozen").lines][: len(parts)]
    assert len(parts) == 15 and parts["F"].nunique() > 4  # the lines are different computations
    scores = read_table(tmp_path / "tables" / "07_pascal2davis.csv").set_index("method")
    assert scores.loc["frozen", "mIoU"] == pytest.approx(90) and scores.loc["frozen", "precision"] == pytest.approx(90)
    gains = read_table(tmp_path / "tables" / "07_pascal2davis-paired.csv")
    assert gains.loc[0, ["mIoU", "better", "worse"]].tolist() == pytest.approx([40, 2, 0])
    assert "ablation-frozen: not measured here" in printed(tmp_path / "07.ipynb")
    assert len(list((tmp_path / "figures").glob("07_*.png"))) == 7
