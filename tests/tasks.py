"""Small tasks: random ones with a known object for the solver, and notebooks for the sweep; processes, and waiting."""

import multiprocessing
import time

import nbformat
import torch

from ttilib.solver.task import Task, unit

LIMIT = 300  # seconds after which a test gives up

FRESH = multiprocessing.get_context("forkserver")
"""Makes processes by forking one that has only imported the library: as good as new ones, without its seconds."""
FRESH.set_forkserver_preload(["ttilib.training.train"])


def toy_encoder(images: torch.Tensor) -> torch.Tensor:
    """Mean colour of every 8 x 8 pixels, and what is above and below 0: features [N, 9, h, w] without weights."""
    cells = tuple((side + 7) // 8 for side in images.shape[2:])
    c = torch.nn.functional.interpolate(images, size=cells, mode="area")
    return torch.cat([c, c.relu(), (-c).relu()], dim=1)


def random_task(
    frames: int = 5, shots: int = 2, channels: int = 8, grid: tuple[int, int] = (4, 5), seed: int = 0,
    dtype: torch.dtype = torch.float64, padding: float = 0.1, noise: float = 0.6,
) -> Task:  # fmt: skip
    """Features around two class means, a random object in every image, some cells that do not count."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(shots + frames, *grid, generator=generator) < 0.4
    masks[:, 0, 0], masks[:, -1, -1] = True, False
    means = torch.randn(2, channels, generator=generator, dtype=dtype)
    features = means[masks.long()].movedim(-1, 1)
    features = features + noise * torch.randn(features.shape, generator=generator, dtype=dtype)
    features, _ = unit(features)
    valid = torch.rand(masks.shape, generator=generator) >= padding
    valid[:, 0, 0] = valid[:, -1, -1] = True
    size = (8 * (grid[0] - 1) + 1, 8 * (grid[1] - 1) + 1)
    names = tuple(f"image{k}" for k in range(shots))
    return Task(
        "test/f0/blob/v0", features[:shots], masks[:shots], valid[:shots], features[shots:], valid[shots:], size, names
    )


def write_notebook(path, parameters, *work):
    """A notebook with a cell of parameters and cells of work."""
    cells = [nbformat.v4.new_code_cell(text) for text in (parameters, *work)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def eventually(condition, process=None):
    """What `condition` returns once it is true, while `process` runs."""
    end = time.monotonic() + LIMIT
    while not (found := condition()):
        assert process is None or process.poll() is None, "the process has ended"
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
    return found
