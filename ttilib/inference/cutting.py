"""Masks cut out along the colours of the frame: where exactly the object ends, asked of the picture itself.

The solver decides by cells of eight pixels what the object is; it is unsure only about where that ends. GrabCut takes
the colours well inside and well outside as examples and cuts the band between along the strongest edge.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

GAUSSIANS = 65  # numbers that OpenCV keeps of a mixture of five colours


def cut_out(
    masks: Bool[Tensor, "T H W"], guide: Float[Tensor, "T 3 H W"], band: int = 16, steps: int = 2
) -> Bool[Tensor, "T H W"]:
    """The masks with their border moved to where the colours change, by at most `band` pixels.

    Frame by frame: pixels farther than `band` (half an ellipse's axis, in pixels) inside the mask are object, those
    farther outside are background, and between them `steps` rounds of GrabCut decide, beginning with the mask itself.
    `guide` is the frames' colours in [0, 1]. A frame of which nothing lies far outside, or that shows no object, stays
    as it is. The same input gives the same masks.
    Raises ValueError for a band or a number of steps below 1, or frames that are not those of the guide.
    Source: Rother, Kolmogorov and Blake, GrabCut, SIGGRAPH 2004, in OpenCV.
    """
    if band < 1 or steps < 1:
        raise ValueError(f"band={band} and steps={steps}: a border moves by 1 pixel or more in 1 step or more")
    if tuple(guide.shape) != (len(masks), 3, *masks.shape[1:]):
        raise ValueError(
            f"the guide is {list(guide.shape)}, the masks {list(masks.shape)}; "
            "give the frames [T, 3, H, W] that the masks [T, H, W] are of"
        )
    colours = (guide.detach().float() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    found = masks.cpu().numpy().copy()
    for mask, colour in zip(found, colours, strict=True):
        mask[:] = _cut(mask, colour, band, steps)
    return torch.from_numpy(found).to(masks.device)


def _cut(
    mask: Bool[np.ndarray, "H W"], colours: UInt8[np.ndarray, "H W 3"], band: int, steps: int
) -> Bool[np.ndarray, "H W"]:
    """One frame."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    outside = cv2.dilate(mask.astype(np.uint8), kernel) == 0
    if not mask.any() or not outside.any():
        return mask
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[cv2.erode(mask.astype(np.uint8), kernel) > 0] = cv2.GC_FGD
    labels[outside] = cv2.GC_BGD
    cv2.setRNGSeed(0)  # OpenCV groups the colours from a random start
    models = np.zeros((1, GAUSSIANS)), np.zeros((1, GAUSSIANS))
    cv2.grabCut(colours, labels, None, *models, steps, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
