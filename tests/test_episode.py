"""Episodes are selected, grouped into batches, and survive a manifest; a damaged manifest is one sentence."""

from dataclasses import replace

import pytest
from folds import fold
from hypothesis import given, settings
from hypothesis import strategies as st

import ttilib as tti
from ttilib.episodes.episode import Episode, group_by_batch, read_episodes, select_episodes, slices, write_episodes

words, count = st.text(min_size=1, max_size=8), st.integers(0, 99)
frames = st.lists(words, min_size=1, max_size=3).map(tuple)
entries = st.tuples(
    st.sampled_from(["ytvis", "davis"]), count, count, words, frames, frames, count,
    st.none() | st.just("pascal"), st.none() | count, count, st.none() | count,
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(entries, max_size=4))
def test_a_manifest_gives_the_same_episodes_back(tmp_path_factory, rows):
    path, episodes = tmp_path_factory.getbasetemp() / "episodes.json", [Episode(*row) for row in rows]
    write_episodes(path, episodes)
    assert read_episodes(path) == tuple(episodes)
    assert len({e.key for e in episodes}) == len(set(episodes))


OLD = """{"hash": "78957f105d0096de",
"episodes": [
{"corpus": "davis", "fold": 1, "class_id": 5, "class_name": "car", "support": ["p1", "p2"], \
"query": ["drift/00001", "drift/00002"], "seed": 2020, "support_corpus": "pascal", "support_class": 7, "run": 0}
]}
"""


def test_a_manifest_from_before_batches_is_written_as_it_was_and_refused_if_edited(tmp_path):
    path = tmp_path / "episodes.json"
    path.write_text(OLD)
    (episode,) = read_episodes(path)
    assert episode.batch is None and episode.key == "78957f105d0096de" != replace(episode, batch=0).key
    write_episodes(path, [episode])
    assert path.read_text() == OLD
    path.write_text(edited := OLD.replace("car", "bus"))
    with pytest.raises(ValueError, match=r"episodes\.json: .*hash"):
        read_episodes(path)
    path.write_text(edited.replace('"hash": "78957f105d0096de",', ""))  # on purpose
    assert read_episodes(path)[0].class_name == "bus"


def test_episodes_are_selected_by_class_or_video_and_number():
    episodes = tti.sample_episodes(fold(), 2)
    assert select_episodes(episodes) == select_episodes(episodes, limit=99) == episodes
    of_class, video = tuple(e for e in episodes if e.class_name == "kind_5"), episodes[0].video
    assert select_episodes(episodes, 1, "kind_5") == of_class[:1] != episodes[:1]
    either = tuple(e for e in episodes if e.video == video or e in of_class)
    assert select_episodes(episodes, only=(video, "kind_5")) == either != episodes


def test_a_group_is_a_batch_of_one_run():
    def of(batch, run=0, frames=1):
        return Episode("minivspw", 0, 1, "bird", ("s",), ("v/1",) * frames, 2020, run=run, batch=batch)

    mixed = (of(None), of(None), of(0), of(0), of(1), of(1, run=1), of(None))
    assert [list(part) for part in group_by_batch(mixed)] == [[0], [1], [2, 3], [4], [5], [6]]
    assert group_by_batch(()) == () == slices((), 10)
    mixed = (of(0, frames=4), of(0, frames=4), of(1), of(None, frames=6), of(None, frames=20))
    assert [list(part) for part in slices(mixed, 7)] == [[0, 1], [2, 3], [4]]
    assert [list(part) for part in slices(mixed, 1000)] == [[0, 1, 2, 3, 4]]
