"""Features of a clip for a pipeline (`FeatureExtractor`), and the mean feature of an encoder (`FeatureMean`).

Features after a ReLU are positive, so their cosines are all close to 1. Their mean over many images of any content is a
constant of the encoder: `measure_means` computes it, `MeanCentered` subtracts it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import safetensors
import torch
from jaxtyping import Bool, Float
from safetensors.torch import save
from torch import Tensor, nn

from ttilib.datasets.catalog import Fold
from ttilib.datasets.transforms import normalise
from ttilib.encoders import checkpoints
from ttilib.encoders.checkpoints import load_encoder
from ttilib.encoders.external import SUFFIXES, naming, one_line
from ttilib.encoders.feature_cache import FORM, CachedEncoder
from ttilib.encoders.layers import OPENVINO, MultiLayerEncoder, for_inference
from ttilib.episodes.clips import Clip, Frames, unlabelled_frames
from ttilib.files import atomic, digest, parse_json
from ttilib.images import image_files, read_image
from ttilib.solver.settings import PipelineConfig
from ttilib.solver.task import CHUNK, Task, downsample, extract, rescale, unit

ENDING = ".means.safetensors"
MEANS = Path(__file__).parents[1] / "networks"  # means that come with the library, by the encoder's fingerprint
KIND = "means of an encoder's features"  # identifies the files
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


class MeansMetadata(msgspec.Struct):
    """The metadata in a file of means; `checksum`: of the values, "" in files of earlier versions."""

    encoder: str
    layers: tuple[str, ...]
    channels: tuple[Annotated[int, msgspec.Meta(ge=1, le=2**20)], ...]
    images: Annotated[int, msgspec.Meta(ge=2)]
    checksum: str = ""


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
            found = f"{_describe(self.encoder.layers)} with {self.channels} channels"
            expected = f"{_describe(means.layers)} with {means.channels}"
            raise ValueError(f"means of {expected}: the encoder gives {found}; {AGAIN}")
        count = len(self.channels)
        self.weights = tuple(weights) or (1.0,) * count
        if len(self.weights) != count or not any(self.weights) or not all(0 <= w < float("inf") for w in self.weights):
            raise ValueError(f"weights {self.weights}: give {count}, one per layer, of 0 or more and not all 0")

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
    fingerprint: str,
    images: Iterable[tuple[Float[Tensor, "_ 3 _ _"], Bool[Tensor, "_ _ _"]]],
    device: str | torch.device = "cpu",
) -> FeatureMean:
    """Mean unit feature per layer over all valid cells of all images: sum f_l/|f_l| / cells, summed in float64.
    `images` yields batches in [0, 1] with their valid pixels; `fingerprint` is the encoder's. Raises ValueError if
    fewer than two images have valid pixels.
    """
    total = torch.zeros(sum(encoder.channels), dtype=torch.float64, device=device)
    count = cells = 0
    for batch, valid_pixels in images:
        for part, part_valid in zip(batch.split(CHUNK), valid_pixels.split(CHUNK), strict=True):
            features = encoder(normalise(part.to(device)))
            valid = downsample(part_valid, (features.shape[-2], features.shape[-1])).to(device)
            layers = [unit(layer)[0].movedim(1, -1)[valid] for layer in features.split(encoder.channels, dim=1)]
            total += torch.cat([layer.sum(0, dtype=torch.float64) for layer in layers])
            count += int(valid.flatten(1).any(1).sum())
            cells += int(valid.sum())
    if count < 2:
        raise ValueError(f"means of {count} images: give at least two, better a hundred")
    return FeatureMean(fingerprint, encoder.layers, encoder.channels, (total / cells).float().cpu(), count)


def save_means(path: Path | str, means: FeatureMean) -> None:
    """Write the means with their metadata to a .safetensors file, atomically; equal means give equal bytes.
    Raises ValueError for another ending.
    """
    path, values = means_path("", path), means.values.cpu()
    about = {"encoder": means.encoder, "layers": means.layers, "channels": means.channels, "images": means.images}
    page = json.dumps({**about, "checksum": digest(values.tolist())})
    content = save({"values": values}, {"kind": KIND, "page": page})
    end = 8 + int.from_bytes(content[:8], "little")  # of the header, whose entries safetensors orders at random
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    with atomic(path) as temporary:
        temporary.write_bytes(content[:8] + header.ljust(end - 8) + content[end:])


def load_means(path: Path | str, fingerprint: str | None = None, layers: Sequence[str] | None = None) -> FeatureMean:
    """Means of the encoder with this `fingerprint` ("" if none) and these `layers` (() for the output); None is any.
    Raises FileNotFoundError, or ValueError if the file holds something else or other means.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of means; measure them by python -m ttilib means")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            values = file.get_tensor("values") if "values" in file.keys() else torch.zeros(0)  # noqa: SIM118
    except (safetensors.SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a file of means ({one_line(error)}); {AGAIN}") from error
    if metadata.get("kind") != KIND:
        raise ValueError(f"{path}: not a file of means; {AGAIN}")
    about = parse_json(metadata.get("page", ""), MeansMetadata, f"{path}: not a file of means")
    fits = len(about.channels) == max(len(about.layers), 1) and values.shape == (sum(about.channels),)
    if not fits or not values.isfinite().all() or about.checksum not in ("", digest(values.tolist())):
        raise ValueError(f"{path}: not a file of means (the values are damaged, or of other layers); {AGAIN}")
    means = FeatureMean(about.encoder, about.layers, about.channels, values, about.images)
    found = means.encoder, means.layers
    expected = found[0] if fingerprint is None else fingerprint, found[1] if layers is None else tuple(layers)
    if found != expected:
        texts = [f"encoder {encoder or '(no fingerprint)'}, {_describe(names)}" for encoder, names in (found, expected)]
        raise ValueError(f"{path}: means of {texts[0]}, not of {texts[1]}; {AGAIN}")
    return means


def means_path(spec: str, out: Path | str = "") -> Path:
    """The file of an encoder's means: `out`, by default the checkpoint's path ending in .means.safetensors.
    Raises ValueError if `out` does not end in .safetensors, or is missing for an encoder that is not a file.
    """
    if out and Path(out).suffix != ".safetensors":
        raise ValueError(f"{out}: means are saved as .safetensors; end the name in {ENDING}")
    if out:
        return Path(out)
    path = _checkpoint_file(spec)
    if path is None:
        raise ValueError(f"encoder {spec}: no file beside which to save its means; name one by --out, as own{ENDING}")
    return path.with_suffix(ENDING)


def _checkpoint_file(spec: str) -> Path | None:
    """The file of an encoder given as checkpoint or run folder; None for a function or an architecture."""
    path = Path(spec) / "best.safetensors" if Path(spec).is_dir() else Path(spec)
    return path if path.suffix in (".safetensors", *SUFFIXES) else None


def image_folder(folder: Path | str, size: tuple[int, int], limit: int = 0) -> Frames:
    """The images of a folder and its subfolders, letterboxed; padding is not valid.
    In natural order, evenly subsampled to `limit` (0: all). Raises as `image_files` does.
    """
    folder = Path(folder)
    names = [str(path.relative_to(folder)) for path in image_files(folder, recursive=True)]
    return unlabelled_frames(names, lambda name: read_image(folder / name), size, limit)


def _describe(layers: tuple[str, ...]) -> str:
    return f"layers {' '.join(layers)}" if layers else "the output"


def find_device(name: str | torch.device) -> torch.device:
    """The device, if torch can compute on it here; else ValueError."""
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        known = str(name).partition(":")[0] in ("cpu", "cuda", "mps")
        about = f"torch cannot compute on it here ({one_line(error)})" if known else "there is no such device"
        raise ValueError(f"device {str(name)!r}: {about}; give cpu, or cuda on a machine with an NVIDIA GPU") from error
    return torch.device(name)


def _tensor_device(name: str | torch.device) -> torch.device:
    """Where features and solver are: the device, for those of `OPENVINO` the CPU."""
    return find_device("cpu" if str(name) in OPENVINO else name)


class FeatureExtractor:
    """A frozen encoder whose features are computed once for all pipelines.
    `fingerprint` identifies its weights. `folder` caches features and means; None caches nothing. The mean that
    centring=pool subtracts is read from the file `means`, else (and for other layers) measured on `mean_images`. The
    tasks of the last clip are cached for further methods. `device`: of torch, or one of `OPENVINO`. `seconds`:
    extraction time of all tasks returned; a cached one counts as much as when computed.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Tensor],
        fingerprint: str = "",
        folder: Path | str | None = None,
        means: Path | str | None = None,
        mean_images: Frames | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.encoder, self.fingerprint = encoder, fingerprint
        self.device_name, self.device = str(device), _tensor_device(device)
        self.folder = None if folder is None else Path(folder)
        self.means_file, self.mean_images = means, mean_images
        self._uncached: dict[tuple[str, ...], MultiLayerEncoder] = {}
        self._encoders: dict[tuple[str, ...], MultiLayerEncoder | CachedEncoder] = {}
        self._means: dict[tuple[str, ...], FeatureMean] = {}
        self._clip: Clip | None = None
        self._tasks: dict[tuple, tuple[Task, float]] = {}  # of these images, by PipelineConfig.features
        self._support: dict[tuple, Tensor] = {}  # features of these support images, where no frame changes them
        self.seconds = 0.0

    def task(self, clip: Clip, pipeline: PipelineConfig | None = None) -> Task:
        """The clip as a task, with a pipeline's features. Raises ValueError for an unknown layer or a missing mean.
        Clips that share the tensors of images share their features.
        """
        pipeline, last = pipeline or PipelineConfig(), self._clip
        if last is None or clip.support is not last.support:
            self._support = {}
        if last is None or clip.support is not last.support or clip.query is not last.query:
            self._clip, self._tasks = clip, {}
        if pipeline.features not in self._tasks:
            self._tasks[pipeline.features] = self._extract(clip, pipeline)
        task, seconds = self._tasks[pipeline.features]
        self.seconds += seconds
        if clip is self._clip:
            return task
        masks, valid = (downsample(x, task.grid).to(self.device) for x in (clip.support_masks, clip.support_valid))
        return replace(task, name=clip.name, support_masks=masks, support_valid=valid)

    def _extract(self, clip: Clip, pipeline: PipelineConfig) -> tuple[Task, float]:
        """The task, and its extraction time without that of the mean."""
        plain = self.with_layers(pipeline.layers)
        encoder: Callable[[Tensor], Tensor] = plain
        if pipeline.features != PipelineConfig().features:
            means = None if pipeline.centring == "none" else self.means(pipeline, clip)
            encoder = MeanCentered(plain, means, pipeline.layer_weights)
        clock = (lambda: plain.seconds) if isinstance(plain, CachedEncoder) else time.perf_counter
        begin = clock()
        support = self._support.get(pipeline.features)
        task = extract(encoder, clip, self.device, support=support, scale=pipeline.scale)
        if pipeline.centring != "episode":
            self._support[pipeline.features] = task.support
        return task, clock() - begin

    def means(self, pipeline: PipelineConfig, clip: Clip) -> FeatureMean:
        """The mean that the pipeline subtracts: over the episode's images, or the encoder's own."""
        encoder = self.with_layers(pipeline.layers)
        if pipeline.centring == "episode":  # the batches of `extract`, whose features are cached
            images = [(clip.support, clip.support_valid), (clip.query, clip.query_valid)]
            scaled = [(rescale(part, pipeline.scale), valid) for part, valid in images]
            return measure_means(encoder, self.fingerprint, scaled, self.device)
        if pipeline.layers not in self._means:
            self._means[pipeline.layers] = self._encoder_means(encoder.layers)
        return self._means[pipeline.layers]

    def _encoder_means(self, layers: tuple[str, ...]) -> FeatureMean:
        """The encoder's own mean: from a file, from the cache, or measured."""
        if self.means_file:
            means = load_means(self.means_file, self.fingerprint, None if self.mean_images else layers)
            if means.layers == layers:  # those of other layers are measured
                return means
        if self.mean_images is None:
            about = "no means of this encoder and no images to measure them on"
            hint = "measure them by python -m ttilib means, or use the episode's own by centring=episode"
            raise ValueError(f"centring=pool: {about}; {hint}")
        key = digest(FORM, self.fingerprint, layers, self.mean_images.names, self.mean_images.size)
        path = None if self.folder is None else self.folder / "means" / f"{key}{ENDING}"
        if path is not None and path.is_file():
            return load_means(path, self.fingerprint, layers)
        images = ((image[None], valid[None]) for image, _, valid in self.mean_images)
        means = measure_means(self.uncached(layers), self.fingerprint, images, self.device)
        if path is not None:
            save_means(path, means)
        return means

    def uncached(self, layers: tuple[str, ...]) -> MultiLayerEncoder:
        """The encoder with these layers as output, in its form for inference."""
        if layers not in self._uncached:
            self._uncached[layers] = for_inference(self.encoder, layers, OPENVINO.get(self.device_name, ""))
        return self._uncached[layers]

    def with_layers(self, layers: tuple[str, ...]) -> MultiLayerEncoder | CachedEncoder:
        """The encoder with these layers as output, cached if there is a folder."""
        if layers not in self._encoders:
            encoder = self.uncached(layers)
            parts = [digest(layers)[:8]] * bool(layers) + [self.device_name] * (self.device_name in OPENVINO)
            name = "-".join([self.fingerprint, *parts]) if self.fingerprint else ""
            self._encoders[layers] = CachedEncoder(encoder, name, self.folder) if self.folder else encoder
        return self._encoders[layers]


def load_extractor(
    spec: Path | str,
    folder: Path | str | None = None,
    means: Path | str = "",
    mean_images: Frames | None = None,
    device: str | torch.device = "cpu",
    fold: Fold | None = None,
) -> FeatureExtractor:
    """The encoder that `spec` names (see `load_encoder`) as a feature extractor, in evaluation mode on the device.
    Without `means`, a best.means.safetensors beside the checkpoint is used; without `mean_images` too, the means of
    these weights that come with the library, if any (`ttilib/networks`). Features are cached only for a
    torch.nn.Module, whose weights have a fingerprint.
    """
    placed = _tensor_device(device)
    encoder, fingerprint = load_encoder(spec, fold=fold), ""
    if isinstance(encoder, nn.Module):
        with naming(encoder):
            encoder, fingerprint = encoder.eval().to(placed), checkpoints.fingerprint(encoder)
    checkpoint = _checkpoint_file(str(spec))
    if not means and checkpoint is not None and checkpoint.with_suffix(ENDING).is_file():
        means = checkpoint.with_suffix(ENDING)
    shipped = MEANS / f"{fingerprint}{ENDING}"
    if not means and mean_images is None and shipped.is_file():
        means = shipped
    return FeatureExtractor(encoder, fingerprint, folder if fingerprint else None, means, mean_images, device)
