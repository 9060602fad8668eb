"""Episodes come out in the order of draws that the protocol describes, and survive a manifest."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.data.episodes import Episode, cross_episodes, read_episodes, sample_episodes, write_episodes
from ttilib.data.lists import Fold


def fold(corpus="ytvis", videos=7, classes=(1, 5), shows=None, repeats=1):
    """A fold without files: video v<n> has n % 4 + 2 frames; a class is in all frames but the first."""
    names = [f"v{n}" for n in range(videos)]
    frames = {v: tuple(f"{v}/{t:05d}" for t in range(n % 4 + 2)) for n, v in enumerate(names)}
    shows = shows or {c: names for c in classes}
    presence = {c: {v: frames[v][1:] for v in shown} for c, shown in shows.items()}
    labels = {c: f"kind_{c}" for c in (*classes, 9)}
    return Fold(corpus, 0, labels, (9,), tuple(classes), frames, {**presence, 9: {}}, (), (), repeats)


class ReleasedYtvis:
    """The released data set as the protocol tells it: a state machine asked for item after item."""

    def __init__(self, data, shots, seed, multi):
        self.data, self.shots, self.multi, self.rng = data, shots, multi, random.Random(seed)
        self.items = [(c, turn) for c in data.novel for turn in range(len(data.presence[c]) - shots)]

    def frame(self, c, video):
        frames = self.data.presence[c][video]
        return frames[self.rng.sample(range(len(frames)), 1)[0]]

    def __getitem__(self, place):
        c, turn = self.items[place]
        ids = sorted(self.data.presence[c], key=lambda v: int(v[1:]))
        if turn == 0 or self.multi:
            self.support_ids = self.rng.sample(ids, self.shots)
            self.support = [self.frame(c, video) for video in self.support_ids]
        left = [video for video in ids if video not in self.support_ids]
        query = self.rng.choice(left) if self.multi else left[turn]
        self.frame(c, query)
        return c, tuple(self.support), query


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), shots=st.integers(1, 5), videos=st.integers(6, 40), multi=st.booleans())
def test_ytvis_follows_the_released_state_machine(seed, shots, videos, multi):
    data = fold(videos=videos)
    released = ReleasedYtvis(data, shots, seed, multi)
    episodes = sample_episodes(data, shots, seed, "v2" if multi else "v1")
    assert len(episodes) == len(released.items) == 2 * (videos - shots)
    for place, episode in enumerate(episodes):
        assert (episode.class_id, episode.support, episode.video) == released[place]
        assert episode.query == data.presence[episode.class_id][episode.video]


def test_ytvis_v1_by_hand():
    # One class in v0..v3, one shot. random.Random(2020).sample(range(4), 1) is [3]; v3 has four visible
    # frames, sample(range(4), 1) is then [3] as well, so the fourth.
    rng = random.Random(2020)
    video, frame = rng.sample(range(4), 1)[0], None
    frames = fold().presence[1][f"v{video}"]
    frame = frames[rng.sample(range(len(frames)), 1)[0]]
    episodes = sample_episodes(fold(videos=4, classes=(1,)), 1)
    assert {e.support for e in episodes} == {(frame,)}
    assert [e.video for e in episodes] == [v for v in ("v0", "v1", "v2", "v3") if v != f"v{video}"]
    assert episodes[0].name == f"ytvis/f0/kind_1/{episodes[0].video}"
    assert (episodes[0].shots, episodes[0].seed, episodes[0].run) == (1, 2020, 0)


def test_runs_go_on_in_one_stream():
    data = fold()
    released = ReleasedYtvis(data, 2, 7, True)
    both = [released[place] for _ in range(2) for place in range(len(released.items))]
    second = sample_episodes(data, 2, 7, "v2", run=1)
    assert [(e.class_id, e.support, e.video) for e in second] == both[len(released.items) :]
    assert {e.run for e in second} == {1}


@pytest.mark.parametrize("corpus", ["ytvis", "vspw", "davis"])
def test_the_global_generators_neither_matter_nor_move(corpus):
    random.seed(5)
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    episodes = sample_episodes(fold(corpus), 2)
    assert before == np.random.get_state()[1].tolist()
    random.seed(6)
    np.random.seed(6)
    assert sample_episodes(fold(corpus), 2) == episodes != sample_episodes(fold(corpus), 2, seed=1)


def test_vspw_draws_by_numpy_s_legacy_generator():
    shows = {1: ["v0", "v2", "v4"], 5: ["v0", "v1", "v2"]}
    data = fold("vspw", videos=6, shows=shows, repeats=2)
    rng, expected = np.random.RandomState(3), []
    for video in ["v0", "v1", "v2", "v4"] * 2:  # v3 and v5 show no novel class
        here = [c for c in (1, 5) if video in shows[c]]
        number = int(rng.choice(here))
        support = []
        for _ in range(3):
            other = str(rng.choice([v for v in shows[number] if v != video]))
            frames = data.presence[number][other]
            support.append(frames[rng.randint(0, len(frames))])
        expected.append((number, tuple(support), data.frames[video]))
    episodes = sample_episodes(data, 3, seed=3)
    assert [(e.class_id, e.support, e.query) for e in episodes] == expected
    assert all(e.query == data.frames[e.video] for e in episodes)  # frames without the class stay in


def test_vspw_classes_stand_in_order_of_first_appearance():
    data = fold("vspw", videos=3)
    late = {v: frames[1:] or frames for v, frames in data.presence[1].items()}
    data = replace(data, presence={**data.presence, 1: late, 5: {v: data.frames[v] for v in data.frames}})
    seeds = range(12)
    picks = [np.random.RandomState(seed).choice([5, 1]) for seed in seeds]  # 5 is there from the first frame
    assert [sample_episodes(data, 1, seed)[0].class_id for seed in seeds] == picks


def test_pascal_wastes_a_draw_per_shot_and_never_repeats():
    names = [f"s{n}" for n in range(8)]
    frames = {s: (s,) for s in names}
    data = Fold("pascal", 2, {1: "a", 9: "b"}, (9,), (1,), frames, {1: frames, 9: {}}, (), ())
    rng, expected = random.Random(11), []
    for still in names:
        support = []
        for _ in range(3):
            rng.randint(1, 8)
            drawn = names[rng.randint(1, 8) - 1]
            while drawn == still or drawn in support:
                drawn = names[rng.randint(1, 8) - 1]
            support.append(drawn)
        expected.append(tuple(support))
    episodes = sample_episodes(data, 3, seed=11)
    assert [e.support for e in episodes] == expected
    assert [e.query for e in episodes] == [(s,) for s in names]
    assert episodes[2].name == "pascal/f2/a/s2"


def test_too_few_videos_names_the_class():
    data = fold(shows={1: ["v0", "v1", "v2", "v3"], 5: ["v0", "v1"]})
    with pytest.raises(
        ValueError, match="ytvis fold 0: class 5 kind_5 can be drawn from 2 videos, but 3 are"
    ):
        sample_episodes(data, 2)
    with pytest.raises(ValueError, match="class 5 kind_5 can be drawn from 0 videos, but 1 are needed"):
        sample_episodes(fold("vspw", shows={1: ["v0", "v1"], 5: ["v3"]}), 1)
    with pytest.raises(ValueError, match="ask for shots >= 1"):
        sample_episodes(data, 0)
    with pytest.raises(ValueError, match="protocol 'v3' is not known"):
        sample_episodes(data, 1, protocol="v3")


def pascal_fold():
    frames = {s: (s,) for s in ("p1", "p2", "p3")}
    names = {1: "other", 7: "kind_5"}  # the same class under another id
    return Fold("pascal", 0, names, (1,), (7,), frames, {1: {}, 7: frames}, (), ())


def test_cross_episodes_match_classes_by_name():
    query = fold("davis", videos=3, shows={1: ["v0"], 5: ["v0", "v2"]})
    episodes = cross_episodes(pascal_fold(), query, 2, seed=4)
    assert [e.video for e in episodes] == ["v0", "v2"]
    assert {(e.class_id, e.support_class, e.support_corpus, e.corpus) for e in episodes} == {
        (5, 7, "pascal", "davis")
    }
    assert all(len(set(e.support)) == 2 and set(e.support) <= {"p1", "p2", "p3"} for e in episodes)
    assert episodes[1].query == query.frames["v2"]
    assert (
        cross_episodes(pascal_fold(), replace(query, corpus="ytvis"), 2, 4)[1].query == query.frames["v2"][1:]
    )
    assert cross_episodes(pascal_fold(), query, 2, seed=4) == episodes
    with pytest.raises(ValueError, match="class 7 kind_5 can be drawn from 3 videos, but 4"):
        cross_episodes(pascal_fold(), query, 4)
    with pytest.raises(ValueError, match=r"davis fold 0: no video shows a class \(kind_1\)"):
        cross_episodes(pascal_fold(), fold("davis", classes=(1,)), 1)


def test_davis_supports_itself_with_other_videos():
    episodes = sample_episodes(fold("davis", videos=4), 3)
    assert len(episodes) == 8
    for e in episodes:
        assert {frame.split("/")[0] for frame in e.support} == {"v0", "v1", "v2", "v3"} - {e.video}


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


def test_a_manifest_is_readable_and_notices_changes(tmp_path):
    path = tmp_path / "episodes.json"
    episodes = sample_episodes(fold(), 1)
    write_episodes(path, episodes)
    text = path.read_text()
    assert len(text.splitlines()) == len(episodes) + 3  # one line each, and three around them
    path.write_text(text.replace('"v6/', '"v7/', 1))
    with pytest.raises(ValueError, match=r"episodes\.json: hash is .* delete the \"hash\" entry"):
        read_episodes(path)
    content = json.loads(path.read_text())
    del content["hash"]
    path.write_text(json.dumps(content))
    assert read_episodes(path) != episodes
    del content["episodes"][3]["query"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"episode 3 lacks \['query'\]"):
        read_episodes(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match='no "episodes" in it'):
        read_episodes(path)
