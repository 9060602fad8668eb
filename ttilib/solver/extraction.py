"""From images to the features that a recipe wants, and the mean feature of an encoder.

Features that come out of a ReLU are all positive: any two of them point almost the same way, and a cosine tells little.
What they share is their mean over many images, whatever these show. It is a constant of the encoder: `measure_means`
computes it over a pool of images, `save_means` and `load_means` keep it in a small file, `Centred` subtracts it.

`FeatureExtractor` is a frozen encoder that gives the features of a clip under any `Recipe`; `load_extractor` makes one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from jaxtyping import Bool, Float
from safetensors.torch import save
from torch import Tensor, nn

from ttilib.datasets.catalog import Fold
from ttilib.datasets.transforms import normalise
from ttilib.encoders.checkpoints import fingerprint, load_encoder
from ttilib.encoders.external import SUFFIXES
from ttilib.encoders.feature_cache import CachedEncoder
from ttilib.encoders.layers import Tapped
from ttilib.episodes.clips import Clip, Frames, unlabelled_frames
from ttilib.files import atomic, digest
from ttilib.images import image_files, read_image
from ttilib.solver.settings import Recipe
from ttilib.solver.task import Task, downsample, extract, unit

ENDING = ".means.safetensors"
KIND = "means of an encoder's features"
CHUNK = 8  # images given to the encoder together
AGAIN = "measure them again with this encoder and these layers"


@dataclass(frozen=True)
class Means:
    """The mean unit feature of an encoder, layer after layer; each part is at most one long.

    `encoder` is the fingerprint of the weights ("" if the encoder has none), `layers` are those it was measured at
    (none: its output) with `channels` each, `images` is over how many images.
    """

    encoder: str
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    values: Float[Tensor, " C"]
    images: int


class Centred:
    """An encoder [N, 3, H, W] -> [N, sum C_l, h, w] of unit features from which the constant mean is subtracted.

    Layer by layer f <- f/|f| - mean, then f <- w f/|f|; joined, and divided by their length. `means` None subtracts
    nothing. `weights` are one w per layer, 1 by default. An encoder that is no `Tapped` is one layer.

    Raises ValueError if weights, means and encoder do not fit together, a weight is negative, or all are 0.
    """

    def __init__(
        self, encoder: Callable[[Tensor], Tensor], means: Means | None, weights: Sequence[float] = ()
    ) -> None:
        self.encoder = encoder if isinstance(encoder, Tapped | CachedEncoder) else Tapped(encoder)
        self.means, self.channels = means, self.encoder.channels
        if means and (means.layers, means.channels) != (self.encoder.layers, self.channels):
            found = f"{_named(self.encoder.layers)} with {self.channels} channels"
            due = f"{_named(means.layers)} with {means.channels}"
            raise ValueError(f"means of {due}: the encoder gives {found}; {AGAIN}")
        layers = len(self.channels)
        self.weights = tuple(float(weight) for weight in weights) or (1.0,) * layers
        if len(self.weights) != layers:
            raise ValueError(f"weights {self.weights}: there are {layers} layers; give one weight for each")
        if not all(0 <= weight < float("inf") for weight in self.weights) or not any(self.weights):
            raise ValueError(f"weights {self.weights}: none may be negative or infinite, nor all 0; change them")

    def __call__(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Centred unit features of normalised images."""
        features = self.encoder(images)
        parts = [unit(part)[0] for part in features.split(self.channels, dim=1)]
        if self.means:
            means = self.means.values.to(features).split(self.channels)
            parts = [unit(part - mean[:, None, None])[0] for part, mean in zip(parts, means, strict=True)]
        joined = torch.cat([weight * part for weight, part in zip(self.weights, parts, strict=True)], dim=1)
        return unit(joined)[0]


@torch.no_grad()
def measure_means(
    encoder: Tapped | CachedEncoder,
    weights: str,
    images: Iterable[tuple[Float[Tensor, "_ 3 _ _"], Bool[Tensor, "_ _ _"]]],
    device: str | torch.device = "cpu",
) -> Means:
    """The mean over all valid cells, of all images, of the unit feature of every layer.

    mean_l = sum f_l/|f_l| / cells, added up in float64, a few images at a time, so that the memory does not grow with
    the pool. `images` are in [0, 1], each batch with its valid pixels (cells by the rule of the masks, see
    `downsample`); `weights` is the encoder's fingerprint.
    Raises ValueError if fewer than two images have valid pixels, or a feature is infinite or no number.
    """
    total = torch.zeros(sum(encoder.channels), dtype=torch.float64, device=device)
    count = cells = 0
    for batch, pixels in images:
        for some, some_valid in zip(batch.split(CHUNK), pixels.split(CHUNK), strict=True):
            features = encoder(normalise(some.to(device)))
            valid = downsample(some_valid, (features.shape[-2], features.shape[-1])).to(device)
            parts = [unit(part)[0].movedim(1, -1)[valid] for part in features.split(encoder.channels, dim=1)]
            total += torch.cat([part.sum(0, dtype=torch.float64) for part in parts])
            count += int(valid.flatten(1).any(1).sum())
            cells += int(valid.sum())
    if count < 2:
        raise ValueError(f"means of {count} images: give two or more, better a hundred")
    values = (total / cells).float().cpu()
    if not values.isfinite().all():
        raise ValueError("means: features of these images are infinite or not numbers; check encoder and images")
    return Means(weights, encoder.layers, encoder.channels, values, count)


def save_means(path: Path | str, means: Means) -> None:
    """Write the means with their metadata into a .safetensors file, whole or not at all; another ending: ValueError."""
    path = means_path("", path)
    page = {"encoder": means.encoder, "layers": means.layers, "channels": means.channels, "images": means.images}
    with atomic(path) as temporary:
        temporary.write_bytes(save({"values": means.values.cpu()}, {"kind": KIND, "page": json.dumps(page)}))


def load_means(path: Path | str, weights: str | None = None, layers: Sequence[str] | None = None) -> Means:
    """Read the means back, on the CPU, if they are those of the encoder with these `weights` and `layers`.

    `weights` is the encoder's fingerprint, "" for one without; `layers` () is its output. None accepts any.
    Raises FileNotFoundError if there is no such file, ValueError if it holds something else or those of others.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of means; measure them by python -m ttilib means")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about, values = file.metadata() or {}, file.get_tensor("values")
        page = json.loads(about["page"])
        names, channels = tuple(page["layers"]), tuple(int(number) for number in page["channels"])
        means = Means(page["encoder"], names, channels, values, int(page["images"]))
        fits = about["kind"] == KIND and values.shape == (sum(channels),) and len(channels) == max(len(names), 1)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a file of means ({' '.join(str(error).split())[:120]}); {AGAIN}") from error
    if not fits:
        raise ValueError(f"{path}: not a complete file of means; {AGAIN}")
    if weights is not None and weights != means.encoder:
        found = f"the encoder {means.encoder}" if means.encoder else "an encoder without fingerprint"
        raise ValueError(f"{path}: means of {found}, not of {weights or 'one without fingerprint'}; {AGAIN}")
    if layers is not None and tuple(layers) != means.layers:
        raise ValueError(f"{path}: means of {_named(means.layers)}, not of {_named(tuple(layers))}; {AGAIN}")
    return means


def means_path(spec: str, out: Path | str = "") -> Path:
    """The file of the means of an encoder: `out`, by default best.means.safetensors beside its best.safetensors.

    Raises ValueError if `out` does not end in .safetensors, or is not given for an encoder not named by a file.
    """
    if out and Path(out).suffix != ".safetensors":
        raise ValueError(f"{out}: means are saved as .safetensors; end the name in {ENDING}")
    if out:
        return Path(out)
    path = Path(spec) / "best.safetensors" if Path(spec).is_dir() else Path(spec)
    if path.suffix not in (".safetensors", *SUFFIXES):
        raise ValueError(f"encoder {spec}: no file beside which to save its means; name one by --out, as own{ENDING}")
    return path.with_suffix(ENDING)


def pool(folder: Path | str, size: tuple[int, int], limit: int = 0) -> Frames:
    """The images of a folder and of those inside it, letterboxed; the padding is not valid.

    In natural order, evenly thinned to `limit` (0 keeps all). Raises as `image_files` does.
    """
    folder = Path(folder)
    names = [str(path.relative_to(folder)) for path in image_files(folder, recursive=True)]
    return unlabelled_frames(names, lambda name: read_image(folder / name), size, limit)


def _named(layers: tuple[str, ...]) -> str:
    return f"layers {' '.join(layers)}" if layers else "the output"


class FeatureExtractor:
    """A frozen encoder, whose features are computed once for all recipes.

    `weights` names the encoder by its content. `folder` keeps features and means for later runs; None keeps nothing.
    The mean of a pool is read from the file `means`, else measured on the images of `pool`, and kept in `folder`.
    The tasks of the latest clip are kept, so that several methods share them. `seconds` is what extracting all tasks
    took that were handed out so far; one that was kept, or read back, counts as much as when it was computed.
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
        self._clip: Clip | None = None
        self._tasks: dict[tuple, tuple[Task, float]] = {}  # of this clip, by what decides the features
        self.seconds = 0.0

    def task(self, clip: Clip, recipe: Recipe | None = None) -> Task:
        """The clip as the solver sees it under a recipe.

        Raises ValueError if the recipe names layers that do not exist, or needs the mean of a pool and there is none.
        """
        recipe = recipe or Recipe()
        if clip is not self._clip:
            self._clip, self._tasks = clip, {}
        if recipe.features not in self._tasks:
            self._tasks[recipe.features] = self._extract(clip, recipe)
        task, seconds = self._tasks[recipe.features]
        self.seconds += seconds
        return task

    def _extract(self, clip: Clip, recipe: Recipe) -> tuple[Task, float]:
        """The task, and the seconds that its features took; those for a mean do not count."""
        encoder = plain = self.at(recipe.layers)
        if recipe.features != Recipe().features:
            means = None if recipe.centring == "none" else self.means(recipe, clip)
            encoder = Centred(plain, means, recipe.layer_weights)
        cached, begin = isinstance(plain, CachedEncoder), time.perf_counter()
        before = plain.seconds if cached else 0.0
        task = extract(encoder, clip, self.device)
        return task, plain.seconds - before if cached else time.perf_counter() - begin

    def means(self, recipe: Recipe, clip: Clip) -> Means:
        """What the recipe subtracts: the mean of the episode's own images, or that of a pool."""
        encoder = self.at(recipe.layers)
        if recipe.centring == "episode":  # in the batches of the features, so that the cache knows them
            seen = [(clip.support, clip.support_valid), (clip.query, clip.query_valid)]
            return measure_means(encoder, self.weights, seen, self.device)
        if recipe.layers not in self._means:
            self._means[recipe.layers] = self._pool_means(encoder)
        return self._means[recipe.layers]

    def _pool_means(self, encoder: Tapped | CachedEncoder) -> Means:
        """The mean over the pool, read from a file if there is one."""
        if self.file:
            return load_means(self.file, self.weights, encoder.layers)
        if self.pool is None:
            raise ValueError(
                "centring=pool: no means of this encoder and no images to measure them on; make them by "
                "python -m ttilib means, or use the episode's own by centring=episode"
            )
        about = digest(self.weights, encoder.layers, self.pool.names, self.pool.size)
        path = None if self.folder is None else self.folder / "means" / f"{about}{ENDING}"
        if path is not None and path.is_file():
            return load_means(path, self.weights, encoder.layers)
        images = ((image[None], valid[None]) for image, _, valid in self.pool)
        means = measure_means(Tapped(self.encoder, encoder.layers), self.weights, images, self.device)
        if path is not None:
            save_means(path, means)
        return means

    def at(self, layers: tuple[str, ...] = ()) -> Tapped | CachedEncoder:
        """The encoder at these layers, its features kept if there is a folder for them."""
        if layers not in self._layers:
            tapped, name = Tapped(self.encoder, layers), f"{self.weights}-{digest(layers)[:8]}"
            cached = self.folder and CachedEncoder(tapped, name if layers else self.weights, self.folder)
            self._layers[layers] = cached or tapped
        return self._layers[layers]


def load_extractor(
    spec: Path | str,
    folder: Path | str | None = None,
    means: Path | str = "",
    pool: Frames | None = None,
    device: str | torch.device = "cpu",
    fold: Fold | None = None,
) -> FeatureExtractor:
    """The encoder that `spec` names (see `load_encoder`) as a feature extractor, in evaluation mode and on the device.

    Without `means`, those that lie beside a checkpoint are used (best.means.safetensors). Features are not kept if the
    encoder is no torch.nn.Module, for then its weights cannot be known.
    """
    encoder, weights = load_encoder(spec, fold=fold), ""
    if isinstance(encoder, nn.Module):
        encoder, weights = encoder.eval().to(device), fingerprint(encoder)
    try:
        beside = means_path(str(spec))
    except ValueError:  # not a file
        beside = None
    means = means or (beside if beside is not None and beside.is_file() else None)
    return FeatureExtractor(encoder, weights, folder if weights else None, means, pool, device)
