"""Features of a clip for a recipe (`FeatureExtractor`), and the mean feature of an encoder (`FeatureMean`).

Features after a ReLU are positive, so their cosines are all close to 1. Their mean over many images of any content is a
constant of the encoder: `measure_means` computes it, `MeanCentered` subtracts it.
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
from ttilib.encoders.layers import MultiLayerEncoder
from ttilib.episodes.clips import Clip, Frames, unlabelled_frames
from ttilib.files import atomic, digest
from ttilib.images import image_files, read_image
from ttilib.solver.settings import PipelineConfig
from ttilib.solver.task import Task, downsample, extract, unit

ENDING = ".means.safetensors"
KIND = "means of an encoder's features"
CHUNK = 8  # images per forward pass
AGAIN = "measure them again with this encoder and these layers"


@dataclass(frozen=True)
class FeatureMean:
    """The mean unit feature of an encoder, layer after layer.
    `encoder`: fingerprint ("" if none). `layers`: where it was measured (none: the output). `images`: their number.
    """

    encoder: str
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    values: Float[Tensor, " C"]
    images: int


class MeanCentered:
    """An encoder [N, 3, H, W] -> [N, sum C_l, h, w] of unit features after subtraction of the mean.
    Per layer f <- f/|f| - mean, then f <- w f/|f|; then concatenated and normalised. `means` None subtracts nothing.
    `weights`: one w per layer, 1 by default. An encoder that is not `MultiLayerEncoder` is one layer.
    Raises ValueError if weights, means and encoder do not match, a weight is negative, or all are 0.
    """

    def __init__(
        self, encoder: Callable[[Tensor], Tensor], means: FeatureMean | None, weights: Sequence[float] = ()
    ) -> None:
        self.encoder = encoder if isinstance(encoder, MultiLayerEncoder | CachedEncoder) else MultiLayerEncoder(encoder)
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
    encoder: MultiLayerEncoder | CachedEncoder,
    weights: str,
    images: Iterable[tuple[Float[Tensor, "_ 3 _ _"], Bool[Tensor, "_ _ _"]]],
    device: str | torch.device = "cpu",
) -> FeatureMean:
    """Mean unit feature per layer over all valid cells of all images: sum f_l/|f_l| / cells, summed in float64.
    `images` yields batches in [0, 1] with their valid pixels; `weights` is the encoder's fingerprint. Raises ValueError
    if fewer than two images have valid pixels, or the mean is not finite.
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
    return FeatureMean(weights, encoder.layers, encoder.channels, values, count)


def save_means(path: Path | str, means: FeatureMean) -> None:
    """Write the means with their metadata to a .safetensors file, atomically. Raises ValueError for another ending."""
    path = means_path("", path)
    page = {"encoder": means.encoder, "layers": means.layers, "channels": means.channels, "images": means.images}
    with atomic(path) as temporary:
        temporary.write_bytes(save({"values": means.values.cpu()}, {"kind": KIND, "page": json.dumps(page)}))


def load_means(path: Path | str, weights: str | None = None, layers: Sequence[str] | None = None) -> FeatureMean:
    """Read the means, on the CPU, of the encoder with these `weights` and `layers`.
    `weights` is the fingerprint ("" if none), `layers` () the output; None accepts any. Raises FileNotFoundError, or
    ValueError if the file holds something else or other means.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of means; measure them by python -m ttilib means")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about, values = file.metadata() or {}, file.get_tensor("values")
        page = json.loads(about["page"])
        names, channels = tuple(page["layers"]), tuple(int(number) for number in page["channels"])
        means = FeatureMean(page["encoder"], names, channels, values, int(page["images"]))
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
    """The file of an encoder's means: `out`, by default the checkpoint's path ending in .means.safetensors.
    Raises ValueError if `out` does not end in .safetensors, or is missing for an encoder that is not a file.
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
    """The images of a folder and its subfolders, letterboxed; the padding is not valid.
    In natural order, evenly subsampled to `limit` (0: all). Raises as `image_files` does.
    """
    folder = Path(folder)
    names = [str(path.relative_to(folder)) for path in image_files(folder, recursive=True)]
    return unlabelled_frames(names, lambda name: read_image(folder / name), size, limit)


def _named(layers: tuple[str, ...]) -> str:
    return f"layers {' '.join(layers)}" if layers else "the output"


class FeatureExtractor:
    """A frozen encoder whose features are computed once for all recipes.
    `weights` is its fingerprint. `folder` caches features and means; None caches nothing. The mean of a pool is read
    from the file `means`, else measured on the images of `pool`. The tasks of the last clip are kept for further
    methods. `seconds`: extraction time of all tasks returned; a cached one counts as much as when computed.
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
        self._layers: dict[tuple[str, ...], MultiLayerEncoder | CachedEncoder] = {}
        self._means: dict[tuple[str, ...], FeatureMean] = {}
        self._clip: Clip | None = None
        self._tasks: dict[tuple, tuple[Task, float]] = {}  # of this clip, by Recipe.features
        self.seconds = 0.0

    def task(self, clip: Clip, recipe: PipelineConfig | None = None) -> Task:
        """The clip as a task, with a recipe's features. Raises ValueError for an unknown layer or a missing pool."""
        recipe = recipe or PipelineConfig()
        if clip is not self._clip:
            self._clip, self._tasks = clip, {}
        if recipe.features not in self._tasks:
            self._tasks[recipe.features] = self._extract(clip, recipe)
        task, seconds = self._tasks[recipe.features]
        self.seconds += seconds
        return task

    def _extract(self, clip: Clip, recipe: PipelineConfig) -> tuple[Task, float]:
        """The task, and its extraction time without that of the mean."""
        encoder = plain = self.at(recipe.layers)
        if recipe.features != PipelineConfig().features:
            means = None if recipe.centring == "none" else self.means(recipe, clip)
            encoder = MeanCentered(plain, means, recipe.layer_weights)
        cached, begin = isinstance(plain, CachedEncoder), time.perf_counter()
        before = plain.seconds if cached else 0.0
        task = extract(encoder, clip, self.device)
        return task, plain.seconds - before if cached else time.perf_counter() - begin

    def means(self, recipe: PipelineConfig, clip: Clip) -> FeatureMean:
        """The mean that the recipe subtracts: over the episode's images, or over a pool."""
        encoder = self.at(recipe.layers)
        if recipe.centring == "episode":  # the batches of `extract`, which the cache holds
            seen = [(clip.support, clip.support_valid), (clip.query, clip.query_valid)]
            return measure_means(encoder, self.weights, seen, self.device)
        if recipe.layers not in self._means:
            self._means[recipe.layers] = self._pool_means(encoder)
        return self._means[recipe.layers]

    def _pool_means(self, encoder: MultiLayerEncoder | CachedEncoder) -> FeatureMean:
        """The mean over the pool, from a file if there is one."""
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
        means = measure_means(MultiLayerEncoder(self.encoder, encoder.layers), self.weights, images, self.device)
        if path is not None:
            save_means(path, means)
        return means

    def at(self, layers: tuple[str, ...] = ()) -> MultiLayerEncoder | CachedEncoder:
        """The encoder at these layers, cached if there is a folder."""
        if layers not in self._layers:
            tapped, name = MultiLayerEncoder(self.encoder, layers), f"{self.weights}-{digest(layers)[:8]}"
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
    """The encoder that `spec` names (see `load_encoder`) as a feature extractor, in evaluation mode on the device.
    Without `means`, a best.means.safetensors beside the checkpoint is used. Features are cached only for a
    torch.nn.Module, whose weights have a fingerprint.
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
