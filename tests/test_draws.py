"""Draws come out number by number as in the release: against its state machines, and by hand."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from folds import fold, sequence_fold, stills_fold
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from released import Driver, ReleasedFrames, ReleasedSequences, ReleasedStills, ReleasedYtvis

from ttilib.datasets.catalog import Fold
from ttilib.episodes.sampling import group_into_batches, one_run, passes, sample_independent, sequences, stills
from ttilib.files import digest

seeds = st.integers(0, 10**6)


def plain(draws):
    return [(draw.number, draw.support, draw.query) for draw in draws]


@settings(max_examples=40, deadline=None)
@given(seed=seeds, shots=st.integers(1, 5), videos=st.integers(6, 30), multi=st.booleans(), run=st.integers(0, 2))
def test_ytvis_follows_the_released_state_machine(seed, shots, videos, multi, run):
    shown = [f"v{n}" for n in range(0, videos, 2)] * (videos > 2 * shots + 2) or [f"v{n}" for n in range(videos)]
    data = fold(videos=videos, shows={1: shown, 5: [f"v{n}" for n in range(videos)]})
    released = ReleasedYtvis(data, shots, seed, multi)
    expected = [list(released) for _ in range(run + 1)]
    drawn = plain(one_run(passes("v2" if multi else "v1", data, data, shots, seed), run))
    assert drawn == expected[run]
    assert len(drawn) == sum(len(data.presence[c]) - shots for c in data.novel)


def test_ytvis_v1_by_hand():
    # Six videos with 1, 2, 3, 4, 1, 2 visible frames, two shots. random.Random(2020) gives the places
    #   videos [4, 5], their frames 0 and 1; then four throw-away frames (0, 1, 1, 3) of v0, v1, v2, v3;
    #   in the second run videos [4, 1], frames 0 and 1; thrown away 0, 0, 3, 0 of v0, v2, v3, v5;
    #   in the third run videos [4, 1], frames 0 and 1 again.
    data = fold(videos=6, classes=(1,))
    one_pass = passes("v1", data, data, 2)
    assert [(d.support, d.video) for d in one_pass()] == [(("v4/00001", "v5/00002"), f"v{n}") for n in (0, 1, 2, 3)]
    assert [(d.support, d.video) for d in one_pass()] == [(("v4/00001", "v1/00002"), f"v{n}") for n in (0, 2, 3, 5)]
    assert {(d.support, d.query) for d in one_pass() if d.video == "v3"} == {
        (("v4/00001", "v1/00002"), ("v3/00001", "v3/00002", "v3/00003", "v3/00004"))
    }


def test_ytvis_v2_by_hand():
    # The same six videos. Support videos, their frames, place of the query among the rest, throw-away frame:
    # [4, 5] [0, 1] 3 -> v3 (3);  [2, 3] [2, 1] 0 -> v0 (0);  [1, 5] [1, 0] 1 -> v2 (1);  [3, 0] [1, 0] 3 -> v5 (0)
    data = fold(videos=6, classes=(1,))
    assert [(d.support, d.video) for d in passes("v2", data, data, 2)()] == [
        (("v4/00001", "v5/00002"), "v3"),
        (("v2/00003", "v3/00002"), "v0"),
        (("v1/00002", "v5/00001"), "v2"),
        (("v3/00002", "v0/00001"), "v5"),
    ]


@st.composite
def worlds(draw, most=7, classes=(3, 5, 8)):
    """Sequences of up to five frames, each with some of the classes; the first frame shows at least one."""
    some = st.lists(st.sampled_from(classes), unique=True, max_size=3)
    first = st.lists(st.sampled_from(classes), unique=True, min_size=1, max_size=3)
    count = draw(st.integers(1, most))
    return {f"q{n}": [draw(first), *draw(st.lists(some, max_size=4))] for n in range(count)}


@settings(max_examples=60, deadline=None)
@given(world=worlds(), seed=seeds, shots=st.integers(1, 4), repeats=st.sampled_from([1, 10]), run=st.integers(0, 2))
def test_sequences_follow_the_released_state_machine(world, seed, shots, repeats, run):
    data = sequence_fold(world, repeats=repeats)
    assume(all(len(data.presence[c]) > 1 for c in data.novel))
    released = ReleasedSequences(data, shots, seed)
    expected = [[released[n] for n in range(len(released.data_list))] for _ in range(run + 1)]
    drawn = plain(one_run(passes("sequences", data, data, shots, seed), run))
    assert drawn == expected[run]
    assert len(drawn) == len(world) * repeats


@pytest.mark.parametrize(("listed", "repeats", "due"), [(61, 10, 610), (96, 10, 960), (261, 1, 261), (64, 10, 640)])
def test_the_released_lists_give_the_released_counts(listed, repeats, due):
    data = sequence_fold({f"q{n}": [(1,)] for n in range(listed)}, repeats=repeats)
    drawn = list(passes("sequences", data, data, 5)())
    assert len(drawn) == due
    assert [d.video for d in drawn] == [f"q{n}" for n in range(listed)] * repeats


def test_sequences_by_hand():
    # c shows 5 before 1. RandomState(2020), places: class, then for each shot sequence and frame
    # a 0 (0, 2) (1, 0); b 0 (1, 0) (1, 0); c 1 -> class 1 (1, 0) (1, 0); d 0 (0, 0) (0, 0); and again
    # a 0 (1, 0) (1, 0); b 0 (1, 0) (1, 0); c 0 -> class 5 (0, 0) (1, 2); d 0 (1, 0) (0, 0)
    world = {"a": [(1, 5), (1,)], "b": [(1,), (1,), (1,)], "c": [(5,), (1, 5)], "d": [(5,), (), (5,), (5,)]}
    data = sequence_fold(world, repeats=2)
    assert dict(sequences(data)) == {"a": (1, 5), "b": (1,), "c": (5, 1), "d": (5,)}
    drawn = list(passes("sequences", data, data, 2)())
    assert [(d.video, d.number, *d.support) for d in drawn] == [
        ("a", 1, "b/02", "c/01"),
        ("b", 1, "c/01", "c/01"),
        ("c", 1, "b/00", "b/00"),
        ("d", 5, "a/00", "a/00"),
        ("a", 1, "c/01", "c/01"),
        ("b", 1, "c/01", "c/01"),
        ("c", 5, "a/00", "d/03"),
        ("d", 5, "c/00", "a/00"),
    ]
    assert drawn[3].query == ("d/00", "d/01", "d/02", "d/03")  # the frame without the class stays in


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


@settings(max_examples=50, deadline=None)
@given(st.data(), seeds, st.integers(1, 3), st.integers(0, 2), st.integers(1, 40))
def test_stills_follow_the_released_state_machine(data, seed, shots, run, per_run):
    gallery = stills_fold(*data.draw(galleries(shots)))
    released = ReleasedStills(gallery, shots, seed)
    count = len(released.data_list)
    expected = [released[n % count] for n in range((run + 1) * max(per_run, count))]
    by_number = one_run(passes("stills", gallery, gallery, shots, seed), run, per_run)
    assert plain(by_number) == expected[run * per_run : (run + 1) * per_run]
    by_pass = one_run(passes("stills", gallery, gallery, shots, seed), run)
    assert plain(by_pass) == expected[run * count : (run + 1) * count]


def test_stills_by_hand():
    # In s0 class 2 is too small for the pool, but may be asked for. RandomState(2020) chooses the classes' place 0 all
    # through the first pass, where Random(2020) gives for two shots (x: thrown away, -: the query or drawn before)
    #   s0 2x 4 4x 4- 3 | s1 4x 2- 1 4x 2- 2- 4 | s2 3x 1- 3 1x 2
    #   s3 4x 1 2x 4    | s4 4x 1 4x 1- 3       | s5 1x 1 3x 3- 1- 3- 2
    # and in the second, in which s0 is asked about class 2: s0 1x 1 3x 3 | s1 3x 4 2x 3 | ...
    shown = {"s0": (1, 2), "s1": (1,), "s2": (2,), "s3": (1, 2), "s4": (1,), "s5": (2,)}
    data = stills_fold(shown, {1: ("s0", "s1", "s3", "s4"), 2: ("s2", "s3", "s5")})
    drawn = list(islice(one_run(passes("stills", data, data, 2), 0, 8), 8))
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


def test_a_fold_that_does_not_say_what_stills_show_asks_where_classes_are_present():
    frames = {s: (s,) for s in ("s0", "s1", "s2")}
    presence = {7: {"s2": ("s2",), "s0": ("s0",)}, 3: {"s0": ("s0",)}, 9: {"s1": ("s1",)}}
    data = Fold("pascal", 0, {3: "a", 7: "b", 9: "c"}, (9,), (7, 3), frames, presence, (), ())
    assert list(stills(data)) == [("s0", (3, 7)), ("s2", (7,))]


PASCAL = {30: "kind_3", 50: "kind_5", 80: "kind_8"}  # the same names under other ids


def lender(sizes):
    """A Pascal fold with so many stills of each class."""
    pools = {c: tuple(f"p{c}_{n}" for n in range(1, size + 1)) for c, size in sizes.items()}
    names = {c: PASCAL[c] for c in sizes}
    frames = {s: (s,) for pool in pools.values() for s in pool}
    presence = {c: {s: (s,) for s in pool} for c, pool in pools.items()}
    return Fold("pascal", 0, names, (), tuple(pools), frames, presence, (), ())


def frame_runs(query, support, shots, seed, runs, per_run, batch):
    for run in range(runs):
        stream = one_run(passes("frames", query, support, shots, seed), run, per_run)
        yield [tuple(draw) for draw in group_into_batches(stream, batch)]


@settings(max_examples=60, deadline=None)
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


def test_a_single_sequence_is_drawn_for_once_and_wraps_around():
    query = sequence_fold({"a": [(3,), (3,), (3,)]}, "minivspw")
    first, second = frame_runs(query, lender({30: 5}), 2, 2020, 2, 8, 4)
    support = ("p30_5", "p30_4")
    assert first == [
        (3, support, ("a/00", "a/01", "a/02", "a/00"), 0),
        (3, support, ("a/01", "a/02", "a/00", "a/01"), 1),
    ]
    assert second[0] == (3, support, ("a/02", "a/00", "a/01", "a/02"), 0)


def test_classes_of_frames_are_chosen_in_order_of_their_own_ids():
    # Pascal's order is kind_8, kind_3, and so may be that of the table; VSPW's is kind_3, kind_8.
    query = replace(sequence_fold({"a": [(3, 8)]}, "minivspw"), novel=(8, 3))
    support = lender({80: 5, 30: 5})
    picks = [next(passes("frames", query, support, 1, seed)()).number for seed in range(12)]
    assert picks == [np.random.RandomState(seed).choice([3, 8]) for seed in range(12)]


def test_too_little_to_draw_from_is_an_error_or_left_out():
    data = stills_fold({"s0": (1, 2), "s1": (1,), "s2": (1,)}, {1: ("s0", "s1", "s2"), 2: ("s0",)})
    message = "pascal fold 0: class 2 kind_2 can be drawn from 0 videos, but 1 are needed"
    with pytest.raises(ValueError, match=message):
        list(one_run(passes("stills", data, data, 1), 0, 50))
    errors = []
    drawn = list(one_run(passes("stills", data, data, 1, 2020, errors.append), 0, 50))
    assert len(drawn) == 50 and {d.number for d in drawn} == {1}
    assert {str(error).split(";")[0] for error in errors} == {message}
    assert {d.video for d in drawn} == {"s0", "s1", "s2"}  # s0 is asked about its other class in other passes
    nothing = stills_fold({"s0": (2,)}, {2: ("s0",)})
    assert list(one_run(passes("stills", nothing, nothing, 1, 2020, errors.append), 0, 50)) == []


def test_frames_without_support_are_left_out_as_whole_sequences():
    query = sequence_fold({"a": [(3,), (3,)], "b": [(5,), (5,)]}, "minivspw")
    support, errors = lender({30: 3, 50: 1}), []
    with pytest.raises(ValueError, match="pascal fold 0: class 50 kind_5 can be drawn from 1 videos, but 2"):
        list(one_run(passes("frames", query, support, 2), 0, 4))
    drawn = list(one_run(passes("frames", query, support, 2, 2020, errors.append), 0, 6))
    assert [d.query[0] for d in drawn] == ["a/00", "a/01"] * 3
    assert errors
    short = fold(shows={1: ["v0", "v1", "v2"], 5: ["v0", "v1"]})
    assert {d.number for d in passes("v1", short, short, 2, 2020, errors.append)()} == {1}
    assert "class 5 kind_5 can be drawn from 2 videos, but 3 are needed" in str(errors[-1])


def alone(how, query, support=None, shots=2, seed=2020, run=0):
    draws = sample_independent(how, query, support or query, shots, seed, run)
    return {(d.number, d.video, n): d for n, d in enumerate(draws)}


def by_query(how, query, support=None, **more):
    return {(d.number, d.query): d.support for d in alone(how, query, support, **more).values()}


@settings(max_examples=40, deadline=None)
@given(videos=st.integers(4, 20), shots=st.integers(1, 3), seed=seeds, how=st.sampled_from(["v1", "v2", "cross"]))
def test_independent_draws_ask_every_video_and_class_once(videos, shots, seed, how):
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
def test_an_independent_draw_does_not_change_with_order_or_with_what_it_does_not_show(data, seed):
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


def test_independent_draws_differ_by_seed_and_run_and_are_fair():
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
    assert len({d.support for d in drawn if d.video == "q1"}) > 1  # asked again, drawn again
    assert all(len({f.split("/")[0] for f in d.support} | {d.video}) == 3 for d in drawn)

    query = sequence_fold({"a": [(3, 5), (8,)], "b": [(5,), (), (5,)]}, "minivspw")
    drawn = list(sample_independent("frames", query, lender({30: 3, 50: 4, 80: 3}), 3))
    assert [(d.video, len(d.query), d.batch) for d in drawn] == [("a", 2, None), ("b", 3, None)]
    assert drawn[0].number in (3, 5) and drawn[1].number == 5
    assert all(len(set(d.support)) == 3 for d in drawn)
    assert all({s.split("_")[0] for s in d.support} == {f"p{d.number}0"} for d in drawn)


def test_independent_draws_leave_out_classes_with_too_few_videos():
    data = fold(videos=5, shows={1: ["v0", "v1", "v2"], 5: ["v3", "v4"]})
    with pytest.raises(ValueError, match="class 5 kind_5 can be drawn from 1 videos, but 2 are needed"):
        list(sample_independent("v1", data, data, 2))
    errors = []
    assert {d.number for d in sample_independent("v1", data, data, 2, on_error=errors.append)} == {1}
    assert len(errors) == 2


@pytest.mark.parametrize("query", ["v0", "v17"])
def test_an_independent_draw_by_hand(query):
    # Lots by the formula, in whole numbers: SplitMix64 of digest(name) xor digest(place); lowest first.
    data = fold(videos=700, classes=(1,))
    place, whole = digest(2020, 0, "ytvis", query, 0, 1), (1 << 64) - 1

    def lot(name):
        number = int(digest(name), 16) ^ int(place, 16)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            number = (number ^ (number >> shift)) * factor & whole
        return number

    chosen = sorted((video for video in data.frames if video != query), key=lot)[:200]
    draw = next(d for d in sample_independent("v1", data, data, 200) if d.video == query)
    assert [frame.split("/")[0] for frame in draw.support] == chosen
