"""Makes docs/teaser.webp, the animation in the README: support, video, RePRI and TTI, on the synthetic dataset.

    python docs/teaser.py                 # after `make study`; --help lists the paths

Each row is one episode with one support image. IoU and VC_3 of the whole video stand above the masks.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

import ttilib as tti
from ttilib.encoders.external import Encoder
from ttilib.episodes.clips import Clip
from ttilib.plots.overlays import SUPPORT, as_rgb, overlay
from ttilib.plots.style import styles

SIZE = (121, 217)  # network input, pixels
STRIP = 18  # height of the line of text above an image, pixels
GAP = 4


def panel(text: str, pixels: np.ndarray, colour: str = "#FFFFFF") -> np.ndarray:
    """An image below a dark strip with a line of text."""
    strip = Image.new("RGB", (pixels.shape[1], STRIP), "#181818")
    font = ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 11)
    ImageDraw.Draw(strip).text((5, STRIP // 2), text, fill=colour, font=font, anchor="lm")
    return np.pad(np.vstack([strip, pixels]), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def animate(clip: Clip, encoder: Encoder, frames: int) -> list[np.ndarray]:
    """The rows of pixels of one episode, one for each of `frames` video frames."""
    task = tti.extract(encoder, clip)
    masks = {name: tti.solve(task, tti.METHODS[name]).masks(clip.size) for name in ("RePRI", "TTI")}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/mini", help="synthetic dataset (default: data/mini)")
    parser.add_argument("--encoder", default="outputs/mini/train/ytvis-f0/best.safetensors", help="of fold 0")
    parser.add_argument("--episodes", type=int, nargs="+", default=[30, 17], help="numbers of the 1-shot episodes")
    parser.add_argument("--frames", type=int, default=14)
    parser.add_argument("--out", default="docs/teaser.webp")
    options = parser.parse_args()
    root = tti.generate(options.root) / "ytvis"
    episodes = tti.sample_episodes(tti.read_fold("ytvis", fold=0, root=root), shots=1, seed=2020)
    encoder = tti.load_encoder(options.encoder).eval()
    clips = [tti.load_clip(episodes[index], root, SIZE) for index in options.episodes]
    rows = zip(*(animate(clip, encoder, options.frames) for clip in clips), strict=True)
    images = [Image.fromarray(np.vstack(each)) for each in rows]
    images[0].save(options.out, save_all=True, append_images=images[1:], duration=300, loop=0, quality=40, method=6)
    print(f"{options.out}: {Path(options.out).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
