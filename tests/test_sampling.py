"""Samples are number by number those of the release: against its state machines, and by hand."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from folds import fold, sequence_fold, stills_fold
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from released import Driver, ReleasedFrames, ReleasedSequences, ReleasedStills, ReleasedYtvis

from ttilib.datasets.base import raise_first
from ttilib.datasets.catalog import Fold
from ttilib.episodes import sampling
from ttilib.episodes.sampling import group_into_batches, sampler, samples_of_run
from ttilib.files import digest

seeds = st.integers(0, 10**6)


def plain(draws):
    return [(draw.number, draw.support, draw.query) for draw in draws]


@settings(max_examples=25, deadline=None)
@given(seed=seeds, shots=st.integers(1, 5), videos=st.integers(6, 30), multi=st.booleans(), run=st.integers(0, 2))
def test_ytvis_follows_the_released_state_machine(seed, shots, videos, multi, run):
    shown = [f"v{n}" for n in range(0, videos, 2)] * (videos > 2 * shots + 2) or [f"v{n}" for n in range(videos)]
    data = fold(videos=videos, shows={1: shown, 5: [f"v{n}" for n in range(videos)]})
    released = ReleasedYtvis(data, shots, seed, multi)
    expected = [list(released) for _ in range(run + 1)]
    drawn = plain(samples_of_run(sampler("v2" if multi else "v1", data, data, shots, seed), run))
    assert drawn == expected[run]
    assert len(drawn) == sum(len(data.presence[c]) - shots for c in data.novel)


def test_ytvis_v1_by_hand():
    # Six videos with 1, 2, 3, 4, 1, 2 visible frames, two shots. random.Random(2020) gives the places
    #   videos [4, 5], their frames 0 and 1; then four throw-away frames (0, 1, 1, 3) of v0, v1, v2, v3;
    #   in the second run videos [4, 1], frames 0 and 1; thrown away 0, 0, 3, 0 of v0, v2, v3, v5;
    #   in the third run videos [4, 1], frames 0 and 1 again.
    data = fold(videos=6, classes=(1,))
    epoch = sampler("v1", data, data, 2)
    assert [(d.support, d.video) for d in epoch()] == [(("v4/00001", "v5/00002"), f"v{n}") for n in (0, 1, 2, 3)]
    assert [(d.support, d.video) for d in epoch()] == [(("v4/00001", "v1/00002"), f"v{n}") for n in (0, 2, 3, 5)]
    assert {(d.support, d.query) for d in epoch() if d.video == "v3"} == {
        (("v4/00001", "v1/00002"), ("v3/00001", "v3/00002", "v3/00003", "v3/00004"))
    }


@st.composite
def worlds(draw, most=7, classes=(3, 5, 8)):
    """Sequences of up to five frames, each with some of the classes; the first frame shows at least one."""
    some = st.lists(st.sampled_from(classes), unique=True, max_size=3)
    first = st.lists(st.sampled_from(classes), unique=True, min_size=1, max_size=3)
    count = draw(st.integers(1, most))
    return {f"q{n}": [draw(first), *draw(st.lists(some, max_size=4))] for n in range(count)}


@settings(max_examples=40, deadline=None)
@given(world=worlds(), seed=seeds, shots=st.integers(1, 4), repeats=st.sampled_from([1, 10]), run=st.integers(0, 2))
def test_sequences_follow_the_released_state_machine(world, seed, shots, repeats, run):
    data = sequence_fold(world, repeats=repeats)
    assume(all(len(data.presence[c]) > 1 for c in data.novel))
    released = ReleasedSequences(data, shots, seed)
    expected = [[released[n] for n in range(len(released.data_list))] for _ in range(run + 1)]
    drawn = plain(samples_of_run(sampler("sequences", data, data, shots, seed), run))
    assert drawn == expected[run]
    assert len(drawn) == len(world) * repeats


@st.composite
def galleries(draw, shots):
    """Stills with up to three classes, of which some are too small for the pool; every pool is large enough."""
    count = draw(st.integers(shots + 1, 12))
    shown = {f"s{n}": tuple(sorted(draw(st.sets(st.sampled_from((2, 4, 7)), min_size=1)))) for n in range(count)}
    pools = {c: [s for s in shown if c in shown[s] and draw(st.integers(0, 3))] for c in (2, 4, 7)}
    kept = {s: here for s, here in shown.items() if any(s in pools[c] for c in here)}
    assume(all(len(pools[c]) > shots for here in kept.values() for c in here))
    assume(kept)
    return kept, pools


@settings(max_examples=30, deadline=None)
@given(st.data(), seeds, st.integers(1, 3), st.integers(0, 2), st.integers(1, 40))
def test_stills_follow_the_released_state_machine(data, seed, shots, run, per_run):
    gallery = stills_fold(*data.draw(galleries(shots)))
    released = ReleasedStills(gallery, shots, seed)
    count = len(released.data_list)
    expected = [released[n % count] for n in range((run + 1) * max(per_run, count))]
    by_number = samples_of_run(sampler("stills", gallery, gallery, shots, seed), run, per_run)
    assert plain(by_number) == expected[run * per_run : (run + 1) * per_run]
    by_pass = samples_of_run(sampler("stills", gallery, gallery, shots, seed), run)
    assert plain(by_pass) == expected[run * count : (run + 1) * count]


def test_stills_by_hand():
    # In s0 class 2 is too small for the support, but may be the query. RandomState(2020) chooses index 0 of the classes
    # through the first epoch, where Random(2020) gives for two shots (x: thrown away, -: the query or drawn before)
    #   s0 2x 4 4x 4- 3 | s1 4x 2- 1 4x 2- 2- 4 | s2 3x 1- 3 1x 2
    #   s3 4x 1 2x 4    | s4 4x 1 4x 1- 3       | s5 1x 1 3x 3- 1- 3- 2
    # and in the second, in which class 2 is requested in s0: s0 1x 1 3x 3 | s1 3x 4 2x 3 | ...
    shown = {"s0": (1, 2), "s1": (1,), "s2": (2,), "s3": (1, 2), "s4": (1,), "s5": (2,)}
    data = stills_fold(shown, {1: ("s0", "s1", "s3", "s4"), 2: ("s2", "s3", "s5")})
    drawn = list(islice(samples_of_run(sampler("stills", data, data, 2), 0, 8), 8))
    assert [(*d.query, d.number, *d.support) for d in drawn] == [
        ("s0", 1, "s4", "s3"),
        ("s1", 1, "s0", "s4"),
        ("s2", 2, "s5", "s3"),
        ("s3", 1, "s0", "s4"),
        ("s4", 1, "s0", "s3"),
        ("s5", 2, "s2", "s3"),
        ("s0", 2, "s2", "s5"),
        ("s1", 1, "s4", "s3"),
    ]


PASCAL = {30: "kind_3", 50: "kind_5", 80: "kind_8"}  # the same names under other ids


def lender(sizes):
    """A Pascal fold with that number of images of each class."""
    pools = {c: tuple(f"p{c}_{n}" for n in range(1, size + 1)) for c, size in sizes.items()}
    names = {c: PASCAL[c] for c in sizes}
    frames = {s: (s,) for pool in pools.values() for s in pool}
    presence = {c: {s: (s,) for s in pool} for c, pool in pools.items()}
    return Fold("pascal", 0, names, (), tuple(pools), frames, presence, (), ())


def frame_runs(query, support, shots, seed, runs, per_run, batch):
    for run in range(runs):
        stream = samples_of_run(sampler("frames", query, support, shots, seed), run, per_run)
        yield [tuple(draw) for draw in group_into_batches(stream, batch)]


@settings(max_examples=40, deadline=None)
@given(
    world=worlds(), seed=seeds, shots=st.integers(1, 3), runs=st.integers(1, 3),
    batches=st.integers(1, 4), batch=st.integers(1, 9),
)  # fmt: skip
def test_frames_follow_the_released_state_machine_and_driver(world, seed, shots, runs, batches, batch):
    query, support = sequence_fold(world, "minivspw"), lender({30: 5, 50: 4, 80: 3})
    driver = Driver(ReleasedFrames(query, support, shots, seed))
    expected = [driver.run(batches * batch, batch) for _ in range(runs)]
    assert list(frame_runs(query, support, shots, seed, runs, batches * batch, batch)) == expected
    assert all(sum(len(clip[2]) for clip in clips) == batches * batch for clips in expected)


def test_frames_by_hand():
    # a shows (3, 5) first, b 3, c (3, 5, 8). Place of the class, stills by number (x: thrown away, -: drawn before)
    #   a 0 5x 5 2x 4 | b 0 4x 4 3x 4- 5 | c 0 2x 5 1x 4 | a 1 2x 2 4x 2- 2- 4 | b 0 4x 1 2x 4 | c 2 3x 3 3x 2
    # A batch has four frames and a run eight, so run 1 begins with the second frame of a's second turn.
    query = sequence_fold({"a": [(3, 5), (), (3,)], "b": [(3,), (3,)], "c": [(3, 5, 8), (8,)]}, "minivspw")
    first, second = frame_runs(query, lender({30: 5, 50: 4, 80: 3}), 2, 2020, 2, 8, 4)
    assert first == [
        (3, ("p30_5", "p30_4"), ("a/00", "a/01", "a/02"), 0),
        (3, ("p30_4", "p30_5"), ("b/00",), 0),
        (3, ("p30_4", "p30_5"), ("b/01",), 1),
        (3, ("p30_5", "p30_4"), ("c/00", "c/01"), 1),
        (5, ("p50_2", "p50_4"), ("a/00",), 1),
    ]
    assert second[:3] == [
        (5, ("p50_2", "p50_4"), ("a/01", "a/02"), 0),
        (3, ("p30_1", "p30_4"), ("b/00", "b/01"), 0),
        (8, ("p80_3", "p80_2"), ("c/00", "c/01"), 1),
    ]


def test_classes_of_frames_are_chosen_in_order_of_their_own_ids():
    # Pascal's order is kind_8, kind_3, and so may be that of the table; VSPW's is kind_3, kind_8.
    query = replace(sequence_fold({"a": [(3, 8)]}, "minivspw"), novel=(8, 3))
    support = lender({80: 5, 30: 5})
    picks = [next(sampler("frames", query, support, 1, seed)()).number for seed in range(12)]
    assert picks == [np.random.RandomState(seed).choice([3, 8]) for seed in range(12)]


def test_classes_with_too_few_videos_are_raised_or_left_out():
    def check(how, query, support, shots, per_run, classes, word):
        errors = []
        with pytest.raises(ValueError, match=word):
            list(samples_of_run(sampler(how, query, support, shots), 0, per_run))
        samples = list(samples_of_run(sampler(how, query, support, shots, 2020, errors.append), 0, per_run))
        assert {sample.number for sample in samples} == classes and word in str(errors[0])
        return samples

    images = stills_fold({"s0": (1, 2), "s1": (1,), "s2": (1,)}, {1: ("s0", "s1", "s2"), 2: ("s0",)})
    assert len(check("stills", images, images, 1, 50, {1}, "kind_2")) == 50
    nothing = stills_fold({"s0": (2,)}, {2: ("s0",)})
    assert check("stills", nothing, nothing, 1, 50, set(), "kind_2") == []
    query = sequence_fold({"a": [(3,), (3,)], "b": [(5,), (5,)]}, "minivspw")
    found = check("frames", query, lender({30: 3, 50: 1}), 2, 6, {3}, "kind_5")
    assert [sample.query[0] for sample in found] == ["a/00", "a/01"] * 3
    short = fold(shows={1: ["v0", "v1", "v2"], 5: ["v0", "v1"]})
    check("v1", short, short, 2, None, {1}, "kind_5")
    check("cross", short, short, 2, None, {1}, "kind_5")


def sample_independent(how, query, support, shots=2, seed=2020, run=0, on_error=raise_first):
    return sampling.sample_independent(how, query, support, shots, seed, run, on_error)


def by_query(how, query, **more):
    return {(sample.number, sample.query): sample.support for sample in sample_independent(how, query, query, **more)}


@settings(max_examples=25, deadline=None)
@given(videos=st.integers(4, 20), shots=st.integers(1, 3), seed=seeds, how=st.sampled_from(["v1", "v2", "cross"]))
def test_independent_samples_use_every_video_and_class_once(videos, shots, seed, how):
    names = [f"v{n}" for n in range(videos)]
    data = fold(videos=videos, shows={1: names, 5: names[: shots + 1]})
    drawn = list(sample_independent(how, data, data, shots, seed))
    assert sorted((d.number, d.video) for d in drawn) == sorted((c, v) for c in data.novel for v in data.presence[c])
    for d in drawn:
        videos_of = [frame.split("/")[0] for frame in d.support]
        assert len(set(videos_of)) == shots and d.video not in videos_of
        assert all(frame in data.presence[d.number][v] for v, frame in zip(videos_of, d.support, strict=True))
        assert d.query == data.presence[d.number][d.video] and d.batch is None


def reordered(data, order):
    frames = {v: data.frames[v] for v in order if v in data.frames}
    presence = {c: {v: seen[v] for v in order if v in seen} for c, seen in data.presence.items()}
    novel = tuple(reversed(data.novel))
    return Fold(data.corpus, data.index, data.names, data.base, novel, frames, presence, (), (), data.repeats)


@settings(max_examples=30, deadline=None)
@given(st.data(), seeds)
def test_an_independent_sample_does_not_change_with_order_or_with_other_classes(data, seed):
    small = fold(videos=8, shows={1: ["v0", "v2", "v3", "v5", "v7"], 5: ["v1", "v2", "v4"]})
    order = data.draw(st.permutations(list(small.frames)))
    before = by_query("v1", small, seed=seed)
    assert by_query("v1", reordered(small, order), seed=seed) == before
    more = fold(videos=12, shows={1: [*small.presence[1], "v8", "v9"], 5: [*small.presence[5]]})
    after = by_query("v1", more, seed=seed)
    assert {key: after[key] for key in before if key[0] == 5} == {k: s for k, s in before.items() if k[0] == 5}
    for key, support in before.items():  # a new video of the class changes what it gets into, and only by itself
        new = [frame for frame in after[key] if frame.split("/")[0] in ("v8", "v9")]
        kept = [frame for frame in after[key] if frame not in new]
        assert kept == list(support[: len(kept)]) and len(kept) + len(new) == 2


def test_independent_samples_differ_by_seed_and_run_and_are_fair():
    data = fold(videos=9, classes=(1,))
    draws = {(seed, run): tuple(by_query("v1", data, seed=seed, run=run).values()) for seed in (1, 2) for run in (0, 1)}
    assert len(set(draws.values())) == 4
    counts = dict.fromkeys(data.frames, 0)
    for seed in range(150):
        for support in by_query("v1", data, seed=seed, shots=1).values():
            counts[support[0].split("/")[0]] += 1
    # 150 episodes per video: each is drawn 150 times if all are alike; five standard deviations are 58.
    assert all(92 < count < 208 for count in counts.values()), counts


def test_independent_stills_sequences_and_frames():
    gallery = stills_fold({f"s{n}": (1, 2) for n in range(6)}, {1: ["s0", "s1", "s2"], 2: ["s2", "s3", "s4", "s5"]})
    drawn = list(sample_independent("stills", gallery, gallery, 2))
    assert [d.query for d in drawn] == [(f"s{n}",) for n in range(6)]
    assert all(len(set(d.support)) == 2 and d.query[0] not in d.support for d in drawn)
    assert {d.number for seed in range(5) for d in sample_independent("stills", gallery, gallery, 2, seed)} == {1, 2}

    data = sequence_fold({f"q{n}": [(1,), ()] for n in range(5)}, repeats=3)
    drawn = list(sample_independent("sequences", data, data, 2))
    assert [d.video for d in drawn] == [f"q{n}" for n in range(5)] * 3
    assert drawn[0].query == ("q0/00", "q0/01")
    assert len({d.support for d in drawn if d.video == "q1"}) > 1  # another support each time
    assert all(len({f.split("/")[0] for f in d.support} | {d.video}) == 3 for d in drawn)

    query = sequence_fold({"a": [(3, 5), (8,)], "b": [(5,), (), (5,)]}, "minivspw")
    drawn = list(sample_independent("frames", query, lender({30: 3, 50: 4, 80: 3}), 3))
    assert [(d.video, len(d.query), d.batch) for d in drawn] == [("a", 2, None), ("b", 3, None)]
    assert drawn[0].number in (3, 5) and drawn[1].number == 5
    assert all(len(set(d.support)) == 3 for d in drawn)
    assert all({s.split("_")[0] for s in d.support} == {f"p{d.number}0"} for d in drawn)


@pytest.mark.parametrize("query", ["v0", "v17"])
def test_an_independent_sample_by_hand(query):
    # Hashes in whole numbers: SplitMix64 of digest(name) xor digest(seed, run, query, ...); lowest first.
    data = fold(videos=700, classes=(1,))
    key, mask = digest(2020, 0, "ytvis", query, 0, 1), (1 << 64) - 1

    def hashed(name):
        number = int(digest(name), 16) ^ int(key, 16)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            number = (number ^ (number >> shift)) * factor & mask
        return number

    chosen = sorted((video for video in data.frames if video != query), key=hashed)[:200]
    draw = next(d for d in sample_independent("v1", data, data, 200) if d.video == query)
    assert [frame.split("/")[0] for frame in draw.support] == chosen
