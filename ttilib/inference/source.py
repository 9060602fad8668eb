"""From pictures to the features that a recipe wants: one frozen encoder, looked through in several ways.

`Source` computes the layers that are asked for once, keeps them, and takes off the mean that is asked for.
`open_source` makes one of an encoder's name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ttilib.data.clips import Clip, Frames
from ttilib.data.lists import Fold
from ttilib.files import digest
from ttilib.inference.cache import CachedEncoder
from ttilib.inference.centring import Centred, Means, load_means, means_path, measure_means, save_means
from ttilib.inference.features import Task, extract
from ttilib.inference.recipe import Recipe
from ttilib.networks.checkpoints import fingerprint, load_encoder
from ttilib.networks.layers import Tapped


class Source:
    """A frozen encoder, whose features are computed once for all recipes.

    `weights` names the encoder by its content. `folder` keeps features and means for later runs; None keeps nothing.
    The mean of a pool is read from the file `means`, else measured on the pictures of `pool`, and kept in `folder`.
    `seconds` is what extracting the features of all tasks so far took, those read back included.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Tensor],
        weights: str = "",
        folder: Path | str | None = None,
        means: Path | str | None = None,
        pool: Frames | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.encoder, self.weights, self.device = encoder, weights, device
        self.folder = None if folder is None else Path(folder)
        self.file, self.pool = means, pool
        self._layers: dict[tuple[str, ...], Tapped | CachedEncoder] = {}
        self._means: dict[tuple[str, ...], Means] = {}
        self.seconds = 0.0

    def task(self, clip: Clip, recipe: Recipe | None = None) -> Task:
        """The clip as the solver sees it under a recipe.

        Raises ValueError if the recipe asks for layers that do not exist, or for the mean of a pool and there is none.
        """
        recipe = recipe or Recipe()
        encoder = self.at(recipe.layers)
        if recipe.features != Recipe().features:
            means = None if recipe.centring == "none" else self.means(recipe, clip)
            encoder = Centred(encoder, means, recipe.layer_weights, encoder.channels)
        before, begin = self._clock(), time.perf_counter()
        task = extract(encoder, clip, self.device)
        self.seconds += self._clock() - before if self.folder else time.perf_counter() - begin
        return task

    def means(self, recipe: Recipe, clip: Clip) -> Means:
        """What the recipe takes off: the mean of the episode's own pictures, or that of a pool."""
        encoder = self.at(recipe.layers)
        if recipe.centring == "episode":  # asked in the batches of the features, so that what is kept is found
            seen = [(clip.support, clip.support_valid), (clip.query, clip.query_valid)]
            return measure_means(encoder, self.weights, seen, self.device)
        if recipe.layers not in self._means:
            self._means[recipe.layers] = self._pool_means(encoder)
        return self._means[recipe.layers]

    def _pool_means(self, encoder: Tapped | CachedEncoder) -> Means:
        """The mean over the pool, read from a file if it is there."""
        if self.file:
            return load_means(self.file, self.weights, encoder.layers)
        if self.pool is None:
            raise ValueError(
                "centring=pool: no means of this encoder and no pictures to measure them on; make them by "
                "python -m ttilib means, or take the episode's own by centring=episode"
            )
        about = digest(self.weights, encoder.layers, self.pool.names, self.pool.size)
        path = None if self.folder is None else self.folder / "means" / f"{about}.means.safetensors"
        if path is not None and path.is_file():
            return load_means(path, self.weights, encoder.layers)
        pictures = ((image[None], valid[None]) for image, _, valid in self.pool)
        means = measure_means(Tapped(self.encoder, encoder.layers), self.weights, pictures, self.device)
        if path is not None:
            save_means(path, means)
        return means

    def at(self, layers: tuple[str, ...] = ()) -> Tapped | CachedEncoder:
        """The encoder at these layers, its features kept if there is a folder for them."""
        if layers not in self._layers:
            tapped, name = Tapped(self.encoder, layers), f"{self.weights}-{digest(layers)[:8]}"
            kept = self.folder and CachedEncoder(tapped, name if layers else self.weights, self.folder)
            self._layers[layers] = kept or tapped
        return self._layers[layers]

    def _clock(self) -> float:
        """What the encoder took for all that was asked of it, where there is a memory that knows."""
        return sum(each.seconds for each in self._layers.values() if isinstance(each, CachedEncoder))


def open_source(
    spec: Path | str,
    folder: Path | str | None = None,
    means: Path | str = "",
    pool: Frames | None = None,
    device: str | torch.device = "cpu",
    fold: Fold | None = None,
) -> Source:
    """The encoder that `spec` names (see `load_encoder`) as a source, in evaluation mode and on the device.

    Without `means`, those that lie beside a checkpoint are taken (best.means.safetensors). Features of an encoder whose
    weights cannot be seen, being no torch.nn.Module, are not kept.
    """
    encoder, weights = load_encoder(spec, fold=fold), ""
    if isinstance(encoder, nn.Module):
        encoder, weights = encoder.eval().to(device), fingerprint(encoder)
    return Source(encoder, weights, folder if weights else None, means or _beside(spec), pool, device)


def _beside(spec: Path | str) -> Path | None:
    """The means that lie beside a checkpoint; None if there are none, or the encoder is no file."""
    try:
        path = means_path(str(spec))
    except ValueError:
        return None
    return path if path.is_file() else None
