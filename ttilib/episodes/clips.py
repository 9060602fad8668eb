"""A clip: images and masks of one episode at the network input size; ignored pixels are not valid."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from tqdm import tqdm

from ttilib.datasets.base import IGNORE_LABEL, OnError, ResizeRule, raise_first
from ttilib.datasets.catalog import Fold, find_dataset
from ttilib.datasets.masks import read_outlines
from ttilib.datasets.pascal import VOC_COLOURS
from ttilib.datasets.transforms import image_tensor, letterbox, mask_tensor
from ttilib.episodes.episode import Episode
from ttilib.files import Item
from ttilib.images import read_image, read_labels

File = Path | str | np.ndarray
MaskFile = File | Mapping[str, File]

FLAT = 8  # more grey values than this, some of them light, are soft edges and not labels
USER_VIDEO_RULE = ResizeRule(letterbox, False)  # for a user's own images: letterboxed, padding is not valid
BATCH = 100  # frames solved together in the release. Source: docs/protocol.md 5.2
LONGEST_SIDE = 4096  # pixels of the network input; a typing error would take all memory


@dataclass(frozen=True)
class Clip:
    """One episode at network input size: RGB images in [0, 1], masks, valid pixels, ground truth (`truth`) or None.

    Images are not normalised. `batch_frames`: frames that the release solved together, None for this clip alone.
    """

    name: str
    class_name: str
    support: Float[Tensor, "K 3 H W"]
    support_masks: Bool[Tensor, "K H W"]
    support_valid: Bool[Tensor, "K H W"]
    support_names: tuple[str, ...]
    query: Float[Tensor, "T 3 H W"]
    query_valid: Bool[Tensor, "T H W"]
    query_names: tuple[str, ...]
    truth: Bool[Tensor, "T H W"] | None = None
    batch_frames: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.query.shape[-2], self.query.shape[-1]


@dataclass(frozen=True)
class Frames:
    """Annotated frames, read on indexing; `read(t)` returns image [h, w, 3] and labels [h, w] (0, 1, IGNORE_LABEL)."""

    names: tuple[str, ...]
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]
    size: tuple[int, int]
    rule: ResizeRule

    def __post_init__(self) -> None:
        check_input_size(self.size)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Bool[Tensor, "H W"], Bool[Tensor, "H W"]]:
        image, mask, valid = self._load([index])
        return image[0], mask[0], valid[0]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return (self[index] for index in range(len(self)))

    def as_support(self) -> Frames:
        """The frames as the supports of one episode: all with the size and place of the first, if that is the rule."""
        if not self.rule.supports_like_first or len(self) < 2:
            return self
        height, width = self.read(0)[1].shape
        first = self.rule.placement(height, width, self.size)
        return replace(self, rule=self.rule._replace(placement=lambda *_: first))

    def load_all(self) -> tuple[Float[Tensor, "N 3 H W"], Bool[Tensor, "N H W"], Bool[Tensor, "N H W"]]:
        """All frames; raises the first error."""
        return self._load(range(len(self)))

    def _load(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Images, masks and valid pixels of frames, resized and padded; the padding of images is black."""
        # NumPy allocates zeros lazily, torch.zeros would write the memory twice; and it compares bytes faster.
        images = torch.from_numpy(np.zeros((len(indices), 3, *self.size), dtype=np.float32))
        labels = np.empty((len(indices), *self.size), dtype=np.uint8)
        padding = 0 if self.rule.padding_is_background else IGNORE_LABEL
        for image, known, index in zip(images, labels, indices, strict=True):
            stored, mask = self.read(index)
            check_same_size(self.names[index], stored.shape, mask.shape)
            height, width = mask.shape
            placement = self.rule.placement(height, width, self.size)
            rows, columns = placement.inside
            # In place: a padded copy would cost a tenth of the decoding time.
            torch.div(placement.scale(image_tensor(stored), self.rule.rounded), 255, out=image[:, rows, columns])
            known[:] = placement.fit(mask_tensor(mask), padding).numpy()
        return images, torch.from_numpy(labels == 1), torch.from_numpy(labels != IGNORE_LABEL)


def check_input_size(size: tuple[int, int]) -> None:
    """Raise ValueError if the network input has an impossible or a huge side."""
    if not all(1 <= side <= LONGEST_SIDE for side in size):
        raise ValueError(f"network input of {size[0]} x {size[1]} pixels; give sides of 1 to {LONGEST_SIDE}")


def check_same_size(name: str, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """Raise ValueError if an image and its mask differ in size."""
    if image[:2] != mask:
        sizes = f"image is {image[0]} x {image[1]}, its mask {mask[0]} x {mask[1]} pixels"
        raise ValueError(f"{name}: {sizes}; they must be the same size")


def load_clip(
    episode: Episode,
    root: Path | str,
    size: tuple[int, int] = (241, 425),
    support_root: Path | str | None = None,
    supports: str = "released",
) -> Clip:
    """Read the frames of one episode at the network input `size` (height, width).

    `root`, `support_root`: folders of the query dataset and of another support dataset. Frames are resized and padded
    as released (docs/protocol.md 2); padding is background in ytvis and vspw (Q5). `supports`: "released", in ytvis
    all get the size and place of the first, so another aspect ratio is stretched (C1); "own", each keeps its aspect
    ratio. Raises ValueError or OSError.
    """
    if supports not in ("released", "own"):
        raise ValueError(f'supports {supports!r} is not known; choose "released" or "own"')
    if episode.support_dataset != episode.corpus and support_root is None:
        about = f"support comes from {episode.support_dataset}"
        raise ValueError(f"episode {episode.name}: {about}; give support_root as well")
    support_root = root if support_root is None else support_root
    support = labelled_frames(episode.support_dataset, support_root, episode.support, episode.support_id, size)
    images, masks, valid = (support.as_support() if supports == "released" else support).load_all()
    if not masks.any() and not any((support.read(index)[1] == 1).any() for index in range(len(support))):
        about = f"no support frame contains class {episode.support_id}"  # an object may vanish only by resizing
        raise ValueError(f"episode {episode.name}: {about}; sample the episodes again from this dataset")
    query = labelled_frames(episode.corpus, root, episode.query, episode.class_id, size)
    frames, truth, query_valid = query.load_all()
    batch = None if episode.batch is None else BATCH
    shown, queried = (images, masks, valid, support.names), (frames, query_valid, query.names)
    return Clip(episode.name, episode.class_name, *shown, *queried, truth, batch)


def labelled_frames(
    dataset: str, root: Path | str, names: tuple[str, ...], class_id: int, size: tuple[int, int]
) -> Frames:
    """Frames of a dataset with the masks of one class."""
    reader = find_dataset(dataset).reader(root)

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        return reader.image(names[index]), reader.mask(names[index], class_id)

    return Frames(names, read, size, reader.episode_rule)


def check_episodes(
    episodes: Sequence[Episode],
    query_root: Path | str,
    support_root: Path | str | None = None,
    on_error: OnError = raise_first,
) -> tuple[Episode, ...]:
    """The episodes that `load_clip` can read; `on_error` gets the first error of every other one."""
    readable = []
    for episode in tqdm(episodes, desc="reading episodes", mininterval=1.0, disable=len(episodes) <= 20):
        try:
            load_clip(episode, query_root, support_root=support_root)
        except (ValueError, OSError) as error:
            on_error(ValueError(f"episode {episode.name}: {str(error).removeprefix(f'episode {episode.name}: ')}"))
        else:
            readable.append(episode)
    return tuple(readable)


def pool_frames(fold: Fold, root: Path | str, size: tuple[int, int], limit: int = 100) -> Frames:
    """At most `limit` training images of a fold, without labels, for an encoder's mean feature."""
    names = [frame for video in sorted(set(fold.train)) for frame in fold.frames[video]]
    return unlabelled_frames(names, find_dataset(fold.corpus).reader(root).image, size, limit)


def unlabelled_frames(
    names: Sequence[Item], read: Callable[[Item], np.ndarray], size: tuple[int, int], limit: int = 0
) -> Frames:
    """What `read` gives for each name, evenly subsampled to `limit` (0: all), letterboxed; padding is not valid."""
    if 0 < limit < len(names):
        names = [names[index * len(names) // limit] for index in range(limit)]

    def read_pair(index: int) -> tuple[np.ndarray, np.ndarray]:
        image = read(names[index])
        return image, np.zeros(image.shape[:2], dtype=np.uint8)

    return Frames(tuple(map(str, names)), read_pair, size, USER_VIDEO_RULE)


def clip_from_files(
    support_images: Sequence[File],
    support_masks: Sequence[MaskFile],
    frames: Sequence[File],
    size: tuple[int, int],
    name: str = "own",
    class_name: str = "object",
    truth: Sequence[MaskFile] | None = None,
    label: int | str | None = None,
) -> Clip:
    """The clip of `clips_from_files` for masks of one object, or for that of `label`; ValueError if there are several.
    `truth`: true masks of the frames.
    """
    clips = clips_from_files(support_images, support_masks, frames, size, name, label)
    clip = replace(_only(clips, support_masks), class_name=class_name)
    if truth is None:
        return clip
    images = [_image(item) for item in frames]
    masks = _only(_object_masks(truth, frames, images, "frames", label), truth)
    answer, valid = _placed(clip.query_names, images, masks, size)[1:]
    return replace(clip, truth=answer, query_valid=valid)


def clips_from_files(
    support_images: Sequence[File],
    support_masks: Sequence[MaskFile],
    frames: Sequence[File],
    size: tuple[int, int],
    name: str = "own",
    label: int | str | None = None,
) -> dict[str, Clip]:
    """A clip for every object in the masks, by its label or name, from files or arrays; images are uint8 [h, w, 3].

    A mask has the values 0 and 255, 0 and 1, or labels (bool or uint8 [h, w], grey or palette file), has colours on
    black or transparent pixels (see `read_labels`), or is JSON of labelme or COCO; a mapping has one for each object.
    `label` selects one object, 255 is then the ignore label. Without it, 255 beside other values is read as described
    in `_find_labels`, with a warning. An object may be absent from some images. The clips share the images' tensors.
    Raises ValueError naming the file if a mask is unclear, has another size than its image, or has no object.
    """
    if single := [given for given in (support_images, support_masks, frames) if isinstance(given, str | Path)]:
        raise ValueError(f"{single[0]}: one path; give a list of images, as files or arrays")
    if not len(support_images) or not len(frames):
        about = f"{len(support_images)} support images and {len(frames)} frames"
        raise ValueError(f"{name}: {about}; give at least one each")
    images = [_image(item) for item in support_images]
    objects = _object_masks(support_masks, support_images, images, "support images", label)
    for index, item in enumerate(support_masks):
        marked = [masks[index] == 1 for masks in objects.values()]
        if not any(mask.any() for mask in marked):
            about = "the mask contains no foreground pixel; annotate the object, or give its value with label="
            one = [item], [support_images[index]], [images[index]], "support images"
            known = [each for each, (mask,) in _object_masks(*one, None).items() if (mask == 1).any()]
            if label is not None and known:
                about = f"the mask contains no pixel of label {label!r}; give one of {', '.join(known)}, or no label"
            raise ValueError(f"{_name(item, index)}: {about}")
        if any(mask.all() for mask in marked):
            warnings.warn(f"{_name(item, index)}: the mask covers the whole image; is it inverted?", stacklevel=2)
    support_names, query_names = (tuple(map(_name, items, range(len(items)))) for items in (support_images, frames))
    query, _, valid = unlabelled_frames(frames, _image, size).load_all()
    placed = {found: _placed(support_names, images, masks, size) for found, masks in objects.items()}
    support = next(iter(placed.values()))[0]
    return {
        found: Clip(name, found, support, inside, known, support_names, query, valid, query_names)
        for found, (_, inside, known) in placed.items()
    }


def _placed(
    names: tuple[str, ...], images: Sequence[np.ndarray], masks: Sequence[np.ndarray], size: tuple[int, int]
) -> tuple[Float[Tensor, "N 3 H W"], Bool[Tensor, "N H W"], Bool[Tensor, "N H W"]]:
    """Images, masks and valid pixels at the network input size."""
    return Frames(names, list(zip(images, masks, strict=True)).__getitem__, size, USER_VIDEO_RULE).load_all()


def _only(objects: Mapping[str, Item], items: Sequence[MaskFile]) -> Item:
    """The one object. Raises ValueError if the masks have several."""
    if len(objects) > 1:
        about = f"the masks contain {len(objects)} labels ({', '.join(list(objects)[:8])})"
        advice = "say which one is the object with label=, or save black-and-white masks"
        raise ValueError(f"{_name(items[0], 0)}: {about}; {advice}")
    return next(iter(objects.values()))


def _name(item: MaskFile, index: int) -> str:
    if isinstance(item, Mapping):
        return ", ".join(_name(part, index) for part in item.values())
    return f"array {index}" if isinstance(item, np.ndarray) else str(item)


def _image(item: File) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(item, str | Path):
        return read_image(item)
    if not isinstance(item, np.ndarray) or item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3:
        about = f"an image of shape {getattr(item, 'shape', ())} and type {getattr(item, 'dtype', type(item))}"
        raise ValueError(f"{about}; give a file, or an array of RGB bytes, uint8 [h, w, 3]")
    return item


def _object_masks(
    items: Sequence[MaskFile], names: Sequence[File], images: Sequence[np.ndarray], what: str, label: int | str | None
) -> dict[str, list[UInt8[np.ndarray, "h w"]]]:
    """Masks with values 0, 1 and IGNORE_LABEL of every object, one per image."""
    if len(items) != len(images):
        raise ValueError(f"{len(images)} {what} have {len(items)} masks; give one mask for each, in order")
    empty = [np.zeros(image.shape[:2], np.uint8) for image in images]
    chosen = None if label is None else str(label)
    folders = [item for item in items if isinstance(item, Mapping)]
    if len(folders) == len(items):
        wanted = [name for item in folders for name in item if chosen in (None, name)] or [str(label)]
        parts = {name: [item.get(name, none) for item, none in zip(folders, empty, strict=True)] for name in wanted}
        return {name: _only(_object_masks(part, names, images, what, None), part) for name, part in parts.items()}
    if str(label).isdigit() and not 0 < int(str(label)) <= IGNORE_LABEL:
        raise ValueError(f"label is {label}; give the value of the object in the masks, 1 to {IGNORE_LABEL}")
    maps = {_name(item, index): _labels(item, index) for index, item in enumerate(items) if not _is_json(item)}
    values = [int(str(label))] if str(label).isdigit() else []
    if label is None and maps:
        maps, values = _find_labels(maps)
    found = []
    for index, (item, image) in enumerate(zip(items, images, strict=True)):
        if isinstance(item, str | Path) and _is_json(item):
            objects = read_outlines(Path(item), _name(names[index], index), *image.shape[:2])
            found.append({name: mask for name, mask in objects.items() if chosen in (None, name)})
        else:
            labels = maps[_name(item, index)]
            found.append({"object" if n == IGNORE_LABEL else str(n): _is_value(labels, n) for n in values})
    known = dict.fromkeys(name for objects in found for name in objects) or {str(label): None}
    return {name: [each.get(name, none) for each, none in zip(found, empty, strict=True)] for name in known}


def _is_json(item: MaskFile) -> bool:
    return isinstance(item, str | Path) and Path(item).suffix.lower() == ".json"


def _is_value(labels: UInt8[np.ndarray, "h w"], value: int) -> UInt8[np.ndarray, "h w"]:
    """The pixels of a value as 1, those of the ignore label as they are, others as 0."""
    inside = (labels == value).astype(np.uint8)
    return inside if value == IGNORE_LABEL else np.where(labels == IGNORE_LABEL, np.uint8(IGNORE_LABEL), inside)


def _labels(item: MaskFile, index: int) -> UInt8[np.ndarray, "h w"]:
    """The values of a mask."""
    if isinstance(item, str | Path):
        return read_labels(item, VOC_COLOURS, painted=True)
    if not isinstance(item, np.ndarray) or item.ndim != 2 or not np.isin(item, range(256)).all():
        about = f"a mask of shape {getattr(item, 'shape', ())} and type {getattr(item, 'dtype', type(item))}"
        raise ValueError(f"{_name(item, index)}: {about}; give whole numbers of 0 to 255 in an array [h, w]")
    return item.astype(np.uint8)


def _find_labels(
    maps: Mapping[str, UInt8[np.ndarray, "_ _"]],
) -> tuple[dict[str, UInt8[np.ndarray, "_ _"]], list[int]]:
    """The masks by name, and the values of their objects: all labels besides background, 255 only if there is no other.

    With 255, other values are soft edges or strays if they have fewer pixels than 255, or if one is above 127; without
    it, if they are more than FLAT and one is above 127. Then the masks are thresholded at half. Otherwise 255 is the
    ignore label. Warns in all these cases.
    """
    found = {int(value): name for name, mask in maps.items() for value in np.unique(mask)}
    labels = sorted(set(found) - {0, IGNORE_LABEL})
    shown = ", ".join(map(str, labels[:8])) + (", ..." if len(labels) > 8 else "")
    soft, white = len(labels) > FLAT and labels[-1] > 127, IGNORE_LABEL in found
    if labels and white:
        most, marked = (sum(np.count_nonzero(mask >= least) for mask in maps.values()) for least in (IGNORE_LABEL, 1))
        soft = labels[-1] > 127 or bool(2 * most > marked)
    if soft:
        about = f"the mask has the values 0, 255 and {shown}; those of 128 and more are taken as the object"
        warnings.warn(f"{found[labels[-1]]}: {about}; give label= if 255 is the ignore label", stacklevel=5)
        return {name: np.where(mask > 127, np.uint8(IGNORE_LABEL), 0) for name, mask in maps.items()}, [IGNORE_LABEL]
    if labels and white:
        about = f"{shown} is taken as the object, 255 as the ignore label"
        warnings.warn(f"{found[labels[0]]}: {about}; give label= to choose", stacklevel=5)
    return dict(maps), labels or [IGNORE_LABEL]


def synthetic_clip(seed: int = 0, frames: int = 8, shots: int = 1, size: tuple[int, int] = (121, 217)) -> Clip:
    """A clip from a seed, without data: a striped ellipse moves over a smooth background; all pixels are valid.
    Raises ValueError without a frame or a support image, or for an impossible size.
    """
    check_input_size(size)
    if frames < 1 or shots < 1:
        raise ValueError(f"synthetic clip: {shots} support images and {frames} frames; give at least one each")
    rng = np.random.default_rng(seed)
    colour, phase = rng.uniform(90, 255, size=3), rng.uniform(0, 2 * np.pi)
    support = [_scene(rng.uniform(0.3, 0.7, 2), 1.0, colour, _background(rng, size)) for _ in range(shots)]
    background, start, step = _background(rng, size), rng.uniform(0.3, 0.4, 2), rng.uniform(0.2, 0.35, 2)
    scales = [(time, 1 + 0.2 * np.sin(2 * np.pi * time + phase)) for time in np.linspace(0, 1, frames)]
    video = [_scene(start + step * time, scale, colour, background) for time, scale in scales]
    support_names = tuple(f"image {n}" for n in range(shots))
    names = tuple(f"synthetic/{n:03d}" for n in range(frames))
    shown = Frames(support_names, support.__getitem__, size, USER_VIDEO_RULE).load_all()
    query, truth, valid = Frames(names, video.__getitem__, size, USER_VIDEO_RULE).load_all()
    return Clip(f"synthetic/{seed}", "blob", *shown, support_names, query, valid, names, truth)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
    """Coarse random colours in 0..255, upsampled smoothly."""
    coarse = rng.uniform(20, 140, size=(5, 8, 3)).astype(np.float32)
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def _scene(
    centre: Sequence[float] | np.ndarray, scale: float, colour: np.ndarray, background: Float[np.ndarray, "H W 3"]
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """The ellipse on a background, and its mask; centre and radii are fractions of the image."""
    height, width = background.shape[:2]
    y, x = np.mgrid[:height, :width]
    dy, dx = y - centre[0] * height, x - centre[1] * width
    inside = (dy / (0.22 * scale * height)) ** 2 + (dx / (0.16 * scale * width)) ** 2 <= 1
    stripes = 0.75 + 0.25 * np.sin((dx + dy) * 2 * np.pi / 12)
    image = np.where(inside[..., None], stripes[..., None] * colour, background)
    return np.clip(image, 0, 255).astype(np.uint8), inside.astype(np.uint8)
