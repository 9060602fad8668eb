"""Makes the pictures of the README: the animation teaser.webp, and terms.png, slices.png, gains.png.

    python docs/teaser.py                 # after `make study`; --help lists the paths

Each row of the animation is one episode with one support image. IoU and VC_3 of the whole video stand above the masks.
The last episode is also that of terms.png and slices.png; gains.png shows the table of the study.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib import get_data_path, rc_context
from matplotlib.figure import Figure
from PIL import ExifTags, Image, ImageDraw, ImageFont

import ttilib as tti
from ttilib.episodes.clips import Clip
from ttilib.files import digest
from ttilib.plots.comparisons import forest
from ttilib.plots.curves import loss_terms
from ttilib.plots.overlays import SUPPORT, as_rgb, overlay, time_slice
from ttilib.plots.style import STYLES, styles
from ttilib.results.export import read_table
from ttilib.solver.solver import Solution

ROOT = Path(__file__).resolve().parent.parent
SOURCE = digest(Path(__file__).read_text(encoding="utf-8"))  # kept in each picture: a test compares it
SIZE = (121, 217)  # network input, pixels
STRIP = 18  # height of the line of text above an image, pixels
GAP = 4


def panel(text: str, pixels: np.ndarray, colour: str = "#FFFFFF") -> np.ndarray:
    """An image below a dark strip with a line of text."""
    strip = Image.new("RGB", (pixels.shape[1], STRIP), "#181818")
    font = ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 11)
    ImageDraw.Draw(strip).text((5, STRIP // 2), text, fill=colour, font=font, anchor="lm")
    return np.pad(np.vstack([strip, pixels]), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def animate(clip: Clip, masks: Mapping[str, torch.Tensor], frames: int) -> list[np.ndarray]:
    """The rows of pixels of one episode, one for each of `frames` video frames."""
    looks = styles(masks)
    labelled = overlay(clip.support[0], clip.support_masks[0], colour=SUPPORT)
    support = panel(f"support: {clip.class_name}, 1 image", labelled)
    rows = []
    for t in np.linspace(0, len(clip.query) - 1, frames).round().astype(int):
        row = [support, panel(f"video, frame {t}", as_rgb(clip.query[t]))]
        for name, mask in masks.items():
            iou, vc = tti.iou(mask, clip.truth), tti.video_consistency(mask, clip.truth, k=3)
            text = f"{name}: IoU {iou:.2f}, VC\u2083 {vc:.2f}"
            row.append(panel(text, overlay(clip.query[t], mask[t], clip.truth[t], looks[name]["color"])))
        rows.append(np.hstack(row))
    return rows


def draw_terms(solution: Solution) -> Figure:
    """Every term of TTI over the steps."""
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.4))
    loss_terms(axes.flat, [state.terms() for state in solution.history], tti.SolverConfig().prior_update)
    return figure


def draw_slices(clip: Clip, masks: Mapping[str, torch.Tensor]) -> Figure:
    """One row of pixels over time: ground truth, and the masks, whose flicker is visible."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 2.6))
    line = int(clip.truth.sum(dim=(0, 2)).argmax())  # the row with most object pixels
    for ax, (name, mask) in zip(axes, {"truth": torch.zeros_like(clip.truth), **masks}.items(), strict=True):
        time_slice(ax, clip, mask, line, f"{name}: row {line} of every frame", STYLES[name]["color"])
    return figure


def draw_gains(table: pd.DataFrame) -> Figure:
    """Gains over RePRI on identical episodes of the whole study."""
    figure, ax = plt.subplots(figsize=(7.5, 2.7))
    forest(ax, table)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/mini", help="synthetic dataset (default: data/mini)")
    parser.add_argument("--encoder", default="outputs/mini/train/ytvis-f0/best.safetensors", help="of fold 0")
    parser.add_argument("--table", default="outputs/tables/mini-paired.csv", help="of the study")
    parser.add_argument("--episodes", type=int, nargs="+", default=[30, 17], help="numbers of the 1-shot episodes")
    parser.add_argument("--frames", type=int, default=14)
    parser.add_argument("--out", default="docs", type=Path, help="folder (default: docs)")
    options = parser.parse_args()
    root = tti.generate(options.root) / "ytvis"
    episodes = tti.sample_episodes(tti.read_fold("ytvis", fold=0, root=root), shots=1, seed=2020)
    encoder = tti.load_encoder(options.encoder).eval()
    clips = [tti.load_clip(episodes[index], root, SIZE) for index in options.episodes]
    tasks = [tti.extract(encoder, clip) for clip in clips]
    solved = [{name: tti.solve(task, tti.METHODS[name]) for name in ("RePRI", "TTI")} for task in tasks]
    masks = [{name: solution.masks() for name, solution in each.items()} for each in solved]
    rows = zip(*(animate(clip, each, options.frames) for clip, each in zip(clips, masks, strict=True)), strict=True)
    images = [Image.fromarray(np.vstack(each)) for each in rows]
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = SOURCE
    look = {"duration": 300, "loop": 0, "quality": 40, "method": 6, "exif": exif}
    images[0].save(options.out / "teaser.webp", save_all=True, append_images=images[1:], **look)
    with rc_context(fname=ROOT / "notebooks" / "matplotlibrc"):
        drawn = {"terms": draw_terms(solved[-1]["TTI"]), "slices": draw_slices(clips[-1], masks[-1])}
        drawn["gains"] = draw_gains(read_table(options.table))
        for name, figure in drawn.items():
            figure.savefig(options.out / f"{name}.png", metadata={"Source": SOURCE})
    for path in ("teaser.webp", *(f"{name}.png" for name in drawn)):
        print(f"{options.out / path}: {(options.out / path).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
