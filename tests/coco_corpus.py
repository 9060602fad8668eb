"""A COCO folder of a few tiny images with its annotation files."""

from pathlib import Path

from corpora import HEIGHT, WIDTH, picture

from ttilib.files import write_json
from ttilib.images import write_image

CATEGORIES = {3: "cup", 7: "fork", 90: "bowl", 11: "cake"}
"""Ids with gaps and out of order: labels 1, 2, 3, 4 are indices of this list."""

TABLE = {"classes": dict(enumerate(CATEGORIES.values(), start=1)), "novel": [[1], [2], [3], [4]], "min_pixels": 20}
TABLE["novel_block"] = TABLE["novel"][::-1]


def name(split: str, number: int) -> str:
    """The name of an image of "train" or "val"."""
    return f"COCO_{split}2014_{number:012d}"


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    """A rectangle as a polygon; drawn as released it covers both its ends."""
    return [left, top, right, top, right, bottom, left, bottom]


def instance(number: int, image: int, category: int, segmentation: object, crowd: int = 0) -> dict:
    """One entry of "annotations"; some keys are not needed."""
    entry = {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation}
    return {**entry, "iscrowd": crowd, "area": 1.5, "bbox": [0, 0, 1, 1]}


def coco(root: Path, annotations: dict[str, list[dict]], images: dict[str, list[int]]) -> Path:
    """A COCO folder without masks; `images` gives the ids of each split in the order of its annotation file."""
    write_json(root / "lists.json", {**TABLE, "classes": {str(n): label for n, label in TABLE["classes"].items()}})
    for split, entries in annotations.items():
        listed = []
        for number in images[split]:
            file = f"{name(split, number)}.jpg"
            write_image(root / f"{split}2014" / file, picture(number))
            listed.append({"id": number, "file_name": file, "height": HEIGHT, "width": WIDTH})
        categories = [{"id": number, "name": label} for number, label in CATEGORIES.items()]
        content = {"images": listed, "annotations": entries, "categories": categories, "licenses": []}
        write_json(root / "annotations" / f"instances_{split}2014.json", content)
    return root
