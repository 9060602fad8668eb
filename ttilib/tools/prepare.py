"""What is done once to the data of a benchmark before it is used: drawing masks, and counting the labels of masks."""

from __future__ import annotations

from pathlib import Path

from ttilib.datasets.base import OnError, stop
from ttilib.datasets.catalog import find_dataset
from ttilib.datasets.masks import census, write_census
from ttilib.episodes.benchmarks import benchmark, find_roots, read_tables


def prepare(
    name: str,
    root: Path | str,
    support_root: Path | str | None = None,
    workers: int = 1,
    on_error: OnError = stop,
) -> dict[Path, int]:
    """Draw the masks of COCO, and count the labels of every mask into lists/census.json of each dataset's folder.

    Returns the files written, with the number of masks counted in each; every later scan starts from them. Masks that
    are there already are neither drawn nor counted again. `on_error` is given whatever cannot be used.
    """
    plan, written = benchmark(name), {}
    roots = find_roots(plan, root, support_root)
    tables = read_tables(plan, *roots)
    for corpus, folder in dict(zip((plan.query, plan.support), roots, strict=True)).items():
        dataset = find_dataset(corpus)
        if dataset.make_masks:
            dataset.make_masks(folder, on_error, workers)
        files = dataset.files(folder, tables[corpus], on_error) if dataset.files else {}
        masks = [frame.mask for frame in files.values() if frame.mask is not None]
        if masks:
            path = folder / "lists" / "census.json"
            colours = getattr(dataset.reader(folder), "colours", None)
            counts = census(masks, on_error, workers, path, colours)
            write_census(path, counts)
            written[path] = len(counts)
    return written
