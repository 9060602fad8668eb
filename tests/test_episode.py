"""Episodes are sampled in the order of the release, selected, grouped into batches, and survive a manifest."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from folds import cross, fold
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.datasets.catalog import Fold
from ttilib.episodes.episode import (
    Episode,
    group_by_batch,
    read_episodes,
    sample_episodes,
    select_episodes,
    slices,
    write_episodes,
)
from ttilib.files import digest


def test_samples_and_keys_do_not_change():
    # Rows and manifests of earlier runs contain these keys.
    def key(*draws):
        return digest([e.key for drawn in draws for e in drawn])

    data = fold()
    assert key(*(sample_episodes(data, k, 2020, "v1", run) for k in (1, 5) for run in (0, 1))) == "b1888e44a16f12e1"
    assert key(*(sample_episodes(data, k, 2020, "v2", run) for k in (1, 5) for run in (0, 1))) == "97c2b201e4949a3b"
    assert key(sample_episodes(fold("vspw", repeats=2), 5, run=1)) == "68206b589dd9c9db"
    assert key(cross(pascal_fold(), fold("davis"), 2)) == "25b57d26d0142180"


def test_the_global_generators_neither_matter_nor_move():
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    episodes = sample_episodes(fold("vspw"), 2)
    assert before == np.random.get_state()[1].tolist()
    random.seed(6)
    assert sample_episodes(fold("vspw"), 2) == episodes != sample_episodes(fold("vspw"), 2, seed=1)


def test_wrong_requests_are_named():
    data = fold(shows={1: ["v0", "v1", "v2", "v3"], 5: ["v0", "v1"]})
    for shots, protocol, word in ((2, "v1", "class 5 kind_5"), (0, "v1", "shots is 0"), (1, "v3", "'v3'")):
        with pytest.raises(ValueError, match=word):
            sample_episodes(data, shots, protocol=protocol)


def pascal_fold():
    frames = {s: (s,) for s in ("p1", "p2", "p3")}
    names = {1: "other", 7: "kind_5"}  # the same class under another id
    return Fold("pascal", 0, names, (1,), (7,), frames, {1: {}, 7: frames}, (), ())


def test_cross_episodes_match_classes_by_name():
    query = fold("davis", videos=3, shows={1: ["v0"], 5: ["v0", "v2"]})
    episodes = cross(pascal_fold(), query, 2, seed=4)
    assert [e.video for e in episodes] == ["v0", "v2"]
    assert {(e.class_id, e.support_class, e.support_corpus, e.corpus) for e in episodes} == {
        (5, 7, "pascal", "davis")
    }
    assert all(len(set(e.support)) == 2 and set(e.support) <= {"p1", "p2", "p3"} for e in episodes)
    assert episodes[1].query == query.frames["v2"]
    assert (
        cross(pascal_fold(), replace(query, corpus="ytvis"), 2, 4)[1].query == query.frames["v2"][1:]
    )
    assert cross(pascal_fold(), query, 2, seed=4) == episodes
    with pytest.raises(ValueError, match="class 7 kind_5.* 3 videos"):
        cross(pascal_fold(), query, 4)
    assert cross(pascal_fold(), fold("davis", classes=(1,)), 1) == ()


words = st.text(min_size=1, max_size=8)


drawn = st.fixed_dictionaries(
    dict(
        corpus=st.sampled_from(["ytvis", "davis"]),
        fold=st.integers(0, 3),
        class_id=st.integers(1, 124),
        class_name=words,
        support=st.lists(words, min_size=1, max_size=3).map(tuple),
        query=st.lists(words, min_size=1, max_size=3).map(tuple),
        seed=st.integers(0, 9999),
        support_corpus=st.none() | st.just("pascal"),
        support_class=st.none() | st.integers(1, 20),
        run=st.integers(0, 4),
        batch=st.none() | st.integers(0, 99),
    )
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(drawn, max_size=4))
def test_a_manifest_gives_the_same_episodes_back(tmp_path_factory, rows):
    episodes = tuple(Episode(**row) for row in rows)
    path = tmp_path_factory.mktemp("manifest") / "episodes.json"
    write_episodes(path, episodes)
    assert read_episodes(path) == episodes
    assert len({e.key for e in episodes}) == len(set(episodes))


def test_a_manifest_has_a_line_per_episode_and_notices_changes(tmp_path):
    path, episodes = tmp_path / "episodes.json", sample_episodes(fold(), 1)
    write_episodes(path, episodes)
    text = path.read_text()
    assert len(text.splitlines()) == len(episodes) + 3
    path.write_text(text.replace('"v6/', '"v7/', 1))
    with pytest.raises(ValueError, match=r"episodes\.json: hash"):
        read_episodes(path)
    content = json.loads(path.read_text())
    del content["hash"]
    path.write_text(json.dumps(content))
    assert read_episodes(path) != episodes
    for entry, word in (({"query": []}, r"episodes\[3\]\.query"), ({"more": 1}, "more"), ({"query": None}, "query")):
        changed = [*content["episodes"][:3], {**content["episodes"][3], **entry}]
        path.write_text(json.dumps({"episodes": changed}))
        with pytest.raises(ValueError, match=rf"episodes\.json: .*{word}"):
            read_episodes(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="episodes"):
        read_episodes(path)


OLD = """{"hash": "78957f105d0096de",
"episodes": [
{"corpus": "davis", "fold": 1, "class_id": 5, "class_name": "car", "support": ["p1", "p2"], \
"query": ["drift/00001", "drift/00002"], "seed": 2020, "support_corpus": "pascal", "support_class": 7, "run": 0}
]}
"""


def test_a_manifest_from_before_batches_is_read_and_written_as_it_was(tmp_path):
    path = tmp_path / "episodes.json"
    path.write_text(OLD)
    (episode,) = read_episodes(path)
    assert episode.batch is None and episode.key == "78957f105d0096de"
    write_episodes(path, [episode])
    assert path.read_text() == OLD
    write_episodes(path, [replace(episode, batch=0)])
    assert '"run": 0, "batch": 0}' in path.read_text() and read_episodes(path) == (replace(episode, batch=0),)
    assert replace(episode, batch=0).key != episode.key


def test_episodes_are_selected_by_class_or_video_and_number():
    episodes = sample_episodes(fold(), 2)
    assert select_episodes(episodes) == select_episodes(episodes, limit=99) == episodes
    assert select_episodes(episodes, 3) == episodes[:3]
    of_class = tuple(e for e in episodes if e.class_name == "kind_5")
    assert select_episodes(episodes, only="kind_5") == of_class
    assert select_episodes(episodes, 1, ["kind_5"]) == of_class[:1]
    video = episodes[0].video
    either = tuple(e for e in episodes if e.video == video or e.class_name == "kind_5")
    assert select_episodes(episodes, only=(video, "kind_5")) == either
    assert 0 < len(of_class) < len(either) < len(episodes)
    with pytest.raises(ValueError, match="'kind5'.*kind_5"):
        select_episodes(episodes, only=["kind_5", "kind5"])
    with pytest.raises(ValueError, match="limit"):
        select_episodes(episodes, -1)


def test_a_group_is_a_batch_of_one_run():
    def of(batch, run=0, frames=1):
        query = tuple(f"v/{n}" for n in range(frames))
        return Episode("minivspw", 0, 1, "bird", ("s",), query, 2020, run=run, batch=batch)

    mixed = (of(None), of(None), of(0), of(0), of(1), of(1, run=1), of(None))
    assert [list(part) for part in group_by_batch(mixed)] == [[0], [1], [2, 3], [4], [5], [6]]
    assert group_by_batch(()) == () == slices((), 10)
    mixed = (of(0, frames=4), of(0, frames=4), of(1, frames=1), of(None, frames=6), of(None, frames=20))
    assert [list(part) for part in slices(mixed, 7)] == [[0, 1], [2, 3], [4]]
    assert [list(part) for part in slices(mixed, 1000)] == [[0, 1, 2, 3, 4]]
