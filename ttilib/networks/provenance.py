"""What an encoder has seen decides which questions it may be asked.

An encoder that was trained on a class has nothing new to learn about it, and results on that class would look better
than they are. The page beside a checkpoint names the base classes; `check_fold` compares them with a fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttilib.data.lists import Fold

SPELLINGS = {  # of Pascal's names, as COCO has them
    **{"aeroplane": "airplane", "motorbike": "motorcycle", "diningtable": "dining table"},
    **{"pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"},
}


def check_fold(spec: str, page: Mapping[str, Any], fold: Fold) -> None:
    """Refuse an encoder that has seen what the fold holds back, or that numbers the same base classes otherwise.

    `page` says what it was trained on: "corpus", "fold" and "base", the names of the base classes in order. A page
    without "base" passes. Classes are the same if their names are, in the spelling of either Pascal or COCO.
    Raises ValueError naming the classes.
    """
    trained = [_spelling(name) for name in page.get("base", ())]
    seen = [fold.names[c] for c in fold.novel if _spelling(fold.names[c]) in trained]
    told = f"{spec}: trained on {page.get('corpus', 'an unnamed corpus')} fold {page.get('fold', '?')}"
    here = f"{fold.corpus} fold {fold.index}"
    if seen:
        raise ValueError(
            f"{told}, whose base classes include {', '.join(seen)}, novel in {here}; take the encoder of this fold"
        )
    base = [_spelling(fold.names[c]) for c in fold.base]
    if trained != base and set(trained) == set(base):
        raise ValueError(
            f"{told} with the base classes of {here} in another order, so that its labels mean other classes; "
            "train with this class table, or use the table it was trained with"
        )


def _spelling(name: str) -> str:
    name = name.lower().replace("_", " ")
    return SPELLINGS.get(name, name)
