"""The runner checks parameters, which papermill does not; the notebooks of one's own video and of `frozen` run."""

import inspect

import nbformat
import numpy as np
import pytest
import torch
from tasks import toy_encoder, write_notebook

import ttilib as tti
from ttilib.encoders.checkpoints import save_encoder
from ttilib.episodes.clips import synthetic_clip
from ttilib.files import read_json
from ttilib.images import read_labels, write_image, write_labels
from ttilib.plots.overlays import as_rgb
from ttilib.results.export import read_table
from ttilib.segment import example_files
from ttilib.solver.extraction import FeatureMean, save_means
from ttilib.sweep.tables import table
from ttilib.sweep.tasks import run_notebook


@pytest.fixture
def notebook(tmp_path):
    """A small real notebook: four parameters, and a file written from them."""
    return write_notebook(
        tmp_path / "small.ipynb",
        'shots: int = 5  # K\nrate: float = 0.5  # of a step\nname: str = "x"  # of file\nfolds: list = [0]  # which',
        'assert shots < 9, "too many shots"\nopen(f"{name}.txt", "w").write(str(shots * rate))',
    )


@pytest.mark.parametrize(
    ("parameters", "key"),
    [({"shot": 1}, "shots"), ({"shots": 1.5}, "float"), ({"shots": True}, "int"), ({"folds": 0}, "list")],
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
    write_notebook(tmp_path / "slow.ipynb", "import time\ntime.sleep(600)")
    with pytest.raises(RuntimeError, match="2 s"):
        run_notebook(tmp_path / "slow.ipynb", tmp_path / "out.ipynb", timeout=2)


def printed(path):
    """All that the cells of an executed notebook print, and the text that they display."""
    outputs = [out for cell in nbformat.read(path, as_version=4).cells for out in cell.get("outputs", [])]
    return "".join(out.get("text", "") + out.get("data", {}).get("text/markdown", "") for out in outputs)


@pytest.mark.study
def test_the_notebook_of_ones_own_video_takes_files(repository, tmp_path):
    """Two images with masks, where 2 is the object, and a folder of four frames; one method alone."""
    clip = synthetic_clip(frames=4, shots=2, size=(70, 120))
    images, masks = ([str(tmp_path / f"image{k}.{end}") for k in (0, 1)] for end in ("jpg", "png"))
    for k in (0, 1):
        write_image(images[k], as_rgb(clip.support[k]))
        labels = 2 * clip.support_masks[k].numpy().astype(np.uint8)
        labels[:3, :3] = 1  # another object, so that `label` is needed
        write_labels(masks[k], labels)
    for t, frame in enumerate(clip.query):
        write_image(tmp_path / "clip" / f"{t + 8}.jpg", as_rgb(frame))
    code = f"import torch\n\n{inspect.getsource(toy_encoder)}\ndef load():\n    return toy_encoder\n"
    (tmp_path / "toy.py").write_text(code)
    means = str(tmp_path / "named.means.safetensors")
    save_means(means, FeatureMean("", (), (9,), torch.zeros(9), 2))
    given = {"support": images, "masks": masks, "video": str(tmp_path / "clip"), "label": 2, "means": means,
             "encoder": f"{tmp_path}/toy.py:load", "method": "frozen steps=9", "compare": "", "height": 65,
             "width": 113, "out": str(tmp_path)}  # fmt: skip
    run_notebook(repository / "notebooks" / "06_your_video.ipynb", tmp_path / "06.ipynb", given)
    (folder,) = (tmp_path / "own").glob("clip-*/frozen_steps=9")  # another clip has another number
    assert [path.name for path in sorted((folder / "masks").iterdir())] == ["10.png", "11.png", "8.png", "9.png"]
    summary = read_json(folder / "summary.json")
    assert (summary["method"], summary["means"], summary["network_size"]) == ("frozen steps=9", means, [65, 113])
    shown = printed(tmp_path / "06.ipynb")
    assert "2 images, 4 frames of 70 x 120 pixels" in shown and "4 masks in" in shown and "ground truth" not in shown
    assert len(list((tmp_path / "figures").iterdir())) == 5


@pytest.mark.study
def test_the_notebook_of_ones_own_video_writes_its_example_as_files(repository, mini, tmp_path):
    """An episode of the synthetic dataset: the same pixels as files, two methods, and what they score."""
    save_encoder(tmp_path / "train" / "ytvis-f0" / "best.safetensors", tti.build_encoder("resnet18-mini", 10, seed=3))
    small = {"height": 65, "width": 113, "shots": 2, "index": 7, "out": str(tmp_path), "headless": True}
    run_notebook(repository / "notebooks" / "06_your_video.ipynb", tmp_path / "06.ipynb", small)
    *given, truth = example_files(tmp_path / "again", mini, 2, 7)
    with pytest.raises(ValueError, match=r"index is 35; give the number of an episode, 0 to 34"):
        example_files(tmp_path / "none", mini, 2, 35)
    folder, shown = tmp_path / "own" / "example-7-2", printed(tmp_path / "06.ipynb")
    assert (folder / "given" / "mask1.png").read_bytes() == given[1][1].read_bytes()
    for method, name in {"frozen": "frozen centring=episode", "TTI": "TTI"}.items():
        masks = np.stack([read_labels(path) > 0 for path in sorted((folder / method / "masks").iterdir())])
        assert f"{name} {100 * tti.iou(masks, truth):.1f}" in shown
        assert read_json(folder / method / "summary.json")["method"] == name
    assert "no file of means" in shown


@pytest.mark.study
def test_the_notebook_of_the_recipe_takes_it_apart(repository, mini, tmp_path):
    """One small episode, every line of the ablation on it; of real video the committed table only, marked as such."""
    save_encoder(tmp_path / "train" / "ytvis-f0" / "best.safetensors", tti.build_encoder("resnet18-mini", 10, seed=3))
    small = {"height": 65, "width": 113, "index": 7, "episodes": 1, "measured": str(tmp_path), "out": str(tmp_path)}
    run_notebook(repository / "notebooks" / "07_frozen_encoder.ipynb", tmp_path / "07.ipynb", small)
    parts = read_table(tmp_path / "tables" / "07_parts.csv")
    lines = dict.fromkeys(line.label or line.method for line in table("ablation-frozen").lines)
    assert list(parts["line"]) == list(lines)
    assert parts["F"].nunique() > 4  # the lines are different computations
    shown = printed(tmp_path / "07.ipynb")
    assert "pascal2davis: COMMITTED" in shown and "ablation-frozen: not measured here" in shown
