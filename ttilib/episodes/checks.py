"""The episodes that can be loaded: for runs that go on when some of the data is damaged.

`check_episodes` reads every picture and mask that episodes name and keeps those of which all are good. What can be
wrong with single files, and what a finding is, stands in `soundness`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ttilib.datasets.base import OnError, stop
from ttilib.datasets.catalog import find_dataset
from ttilib.episodes.episode import Episode

MANY = 20
"""So many episodes take long enough for a bar."""


def check_episodes(
    episodes: Sequence[Episode],
    query_root: Path | str,
    support_root: Path | str | None = None,
    on_error: OnError = stop,
) -> tuple[Episode, ...]:
    """The episodes whose every picture and mask can be read; each file is read once, whoever names it.

    `support_root` holds the support's corpus where that is another one. What is wrong with an episode is told
    to `on_error` with its name, file by file; the default raises at the first.
    """
    whole, look = [], _eye()
    few = len(episodes) <= MANY
    for episode in tqdm(episodes, desc="reading episodes", unit=" episodes", mininterval=1.0, disable=few):
        corpus = episode.support_corpus or episode.corpus
        number = episode.class_id if episode.support_class is None else episode.support_class
        place = query_root if support_root is None else support_root
        shown = [look(corpus, place, frame, number) for frame in episode.support]
        asked = [look(episode.corpus, query_root, frame, episode.class_id) for frame in episode.query]
        wrong: list[object] = [answer for answer in (*shown, *asked) if isinstance(answer, Exception)]
        if not wrong and not any(shown):
            wrong = [f"no support frame shows class {number}; draw the episodes from this data"]
        for about in wrong:
            on_error(ValueError(f"episode {episode.name}: {about}"))
        if not wrong:
            whole.append(episode)
    return tuple(whole)


def _eye() -> Callable[[str, Path | str, str, int], bool | Exception]:
    """A look at a frame: whether it shows a class, or what is wrong with it; what was seen is remembered."""
    reader = cache(lambda corpus, root: find_dataset(corpus).reader(root))

    @cache
    def size(corpus: str, root: Path | str, frame: str) -> tuple[int, ...] | Exception:
        return _outcome(lambda: reader(corpus, root).image(frame).shape[:2])

    @cache
    def look(corpus: str, root: Path | str, frame: str, number: int) -> bool | Exception:
        found = size(corpus, root, frame)
        mask = found if isinstance(found, Exception) else _outcome(lambda: reader(corpus, root).mask(frame, number))
        if isinstance(mask, Exception):
            return mask
        if mask.shape != found:
            sizes = f"picture is {found[0]} x {found[1]}, mask {mask.shape[0]} x {mask.shape[1]} pixels"
            return ValueError(f"{frame}: {sizes}; copy both again")
        return bool((mask == 1).any())

    return look


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (ValueError, OSError) as error:
        return error.with_traceback(None)  # a traceback would keep the pixels
