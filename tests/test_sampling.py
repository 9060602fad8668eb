"""Samples are number by number those of the release: against its state machines, and by hand."""

from dataclasses import replace

import pytest
from folds import fold, sequence_fold, stills_fold
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from released import ReleasedSequences, ReleasedStills, ReleasedYtvis

from ttilib.datasets.base import raise_first
from ttilib.episodes import sampling
from ttilib.episodes.sampling import group_into_batches, sampler, samples_of_run
from ttilib.files import digest

seeds, some_shots, some_run = st.integers(0, 10**6), st.integers(1, 3), st.integers(0, 2)


def plain(draws):
    return [(draw.number, draw.support, draw.query) for draw in draws]


@settings(max_examples=25)
@given(seed=seeds, shots=st.integers(1, 5), videos=st.integers(6, 30), multi=st.booleans(), run=some_run)
def test_ytvis_follows_the_released_state_machine(seed, shots, videos, multi, run):
    shown = [f"v{n}" for n in range(0, videos, 2)] * (videos > 2 * shots + 2) or [f"v{n}" for n in range(videos)]
    data = fold(videos=videos, shows={1: shown, 5: [f"v{n}" for n in range(videos)]})
    released = ReleasedYtvis(data, shots, seed, multi)
    expected = [list(released) for _ in range(run + 1)][run]
    assert len(expected) == sum(len(data.presence[c]) - shots for c in data.novel)
    assert plain(samples_of_run(sampler("v2" if multi else "v1", data, data, shots, seed), run)) == expected


@st.composite
def worlds(draw):
    """Sequences of up to five frames, each with some of the classes; the first frame shows at least one."""
    some, first = (st.lists(st.sampled_from((3, 5, 8)), unique=True, min_size=least, max_size=3) for least in (0, 1))
    return {f"q{n}": [draw(first), *draw(st.lists(some, max_size=4))] for n in range(draw(st.integers(1, 7)))}


@settings(max_examples=40)
@given(world=worlds(), seed=seeds, shots=some_shots, repeats=st.sampled_from([1, 10]), run=some_run)
def test_sequences_follow_the_released_state_machine(world, seed, shots, repeats, run):
    data = sequence_fold(world, repeats=repeats)
    assume(all(len(data.presence[c]) > 1 for c in data.novel))
    released = ReleasedSequences(data, shots, seed)
    expected = [[released[n] for n in range(len(world) * repeats)] for _ in range(run + 1)]
    assert plain(samples_of_run(sampler("sequences", data, data, shots, seed), run)) == expected[run]


@st.composite
def galleries(draw, shots):
    """Stills with up to three classes, of which some are too small for the pool; every pool is large enough."""
    stills = [f"s{n}" for n in range(draw(st.integers(shots + 1, 12)))]
    shown = {s: tuple(sorted(draw(st.sets(st.sampled_from((2, 4, 7)), min_size=1)))) for s in stills}
    pools = {c: [s for s in shown if c in shown[s] and draw(st.integers(0, 3))] for c in (2, 4, 7)}
    kept = {s: here for s, here in shown.items() if any(s in pools[c] for c in here)}
    assume(kept and all(len(pools[c]) > shots for here in kept.values() for c in here))
    return kept, pools


@settings(max_examples=30)
@given(st.data(), seeds, some_shots, some_run, st.integers(1, 40))
def test_stills_follow_the_released_state_machine(data, seed, shots, run, per_run):
    gallery = stills_fold(*data.draw(galleries(shots)))
    released = ReleasedStills(gallery, shots, seed)
    count = len(released.data_list)
    expected = [released[n % count] for n in range((run + 1) * max(per_run, count))]
    for number, some in ((per_run, per_run), (count, None)):  # as many as asked for, or each once
        drawn = samples_of_run(sampler("stills", gallery, gallery, shots, seed), run, some)
        assert plain(drawn) == expected[run * number : (run + 1) * number]


def lender(sizes):
    """A Pascal fold with that number of images of each class; names are those of VSPW's classes 3, 5, 8."""
    pools = {c: tuple(f"p{c}_{n}" for n in range(1, size + 1)) for c, size in sizes.items()}
    shown = {s: (c,) for c, pool in pools.items() for s in pool}
    return replace(stills_fold(shown, pools), names={c: f"kind_{c // 10}" for c in sizes})


def test_frames_by_hand():
    # a shows (3, 5) first, b 3, c (3, 5, 8). Place of the class, stills by number (x: thrown away, -: drawn before)
    #   a 0 5x 5 2x 4 | b 0 4x 4 3x 4- 5 | c 0 2x 5 1x 4 | a 1 2x 2 4x 2- 2- 4 | b 0 4x 1 2x 4 | c 2 3x 3 3x 2
    # A batch has four frames and a run eight, so run 1 begins with the second frame of a's second turn.
    query = sequence_fold({"a": [(3, 5), (), (3,)], "b": [(3,), (3,)], "c": [(3, 5, 8), (8,)]}, "minivspw")
    query, support = replace(query, novel=(8, 5, 3)), lender({80: 3, 30: 5, 50: 4})  # sorted by VSPW's own ids
    streams = [samples_of_run(sampler("frames", query, support, 2, 2020), run, 8) for run in (0, 1)]
    first, second = ([tuple(draw) for draw in group_into_batches(stream, 4)] for stream in streams)
    assert first == [
        (3, ("p30_5", "p30_4"), ("a/00", "a/01", "a/02"), 0),
        (3, ("p30_4", "p30_5"), ("b/00",), 0),
        (3, ("p30_4", "p30_5"), ("b/01",), 1),
        (3, ("p30_5", "p30_4"), ("c/00", "c/01"), 1),
        (5, ("p50_2", "p50_4"), ("a/00",), 1),
    ]
    assert second[0] == (5, ("p50_2", "p50_4"), ("a/01", "a/02"), 0)
    assert second[2] == (8, ("p80_3", "p80_2"), ("c/00", "c/01"), 1)


IMAGES = stills_fold({"s0": (1, 2), "s1": (1,), "s2": (1,)}, {1: ("s0", "s1", "s2"), 2: ("s0",)})
SEQUENCES = sequence_fold({"a": [(3,), (3,)], "b": [(5,), (5,)]}, "minivspw")
SHORT = fold(shows={1: ["v0", "v1", "v2"], 5: ["v0", "v1"]})


@pytest.mark.parametrize(
    ("how", "query", "support", "shots", "per_run", "count", "classes", "word"),
    [
        ("stills", IMAGES, IMAGES, 1, 50, 50, {1}, "kind_2"),
        ("frames", SEQUENCES, lender({30: 3, 50: 1}), 2, 6, 6, {3}, "kind_5"),
        ("v1", SHORT, SHORT, 2, None, 1, {1}, "kind_5"), ("cross", SHORT, SHORT, 2, None, 3, {1}, "kind_5"),
    ],
)  # fmt: skip
def test_classes_with_too_few_videos_are_raised_or_left_out(how, query, support, shots, per_run, count, classes, word):
    errors = []
    with pytest.raises(ValueError, match=word):
        list(samples_of_run(sampler(how, query, support, shots), 0, per_run))
    samples = list(samples_of_run(sampler(how, query, support, shots, 2020, errors.append), 0, per_run))
    assert len(samples) == count and {sample.number for sample in samples} == classes and word in str(errors[0])


def test_classes_of_one_name_in_one_dataset_are_not_exchanged():
    data = replace(fold(shows={1: ["v0", "v1", "v2"], 5: ["v3", "v4"]}), names=dict.fromkeys((1, 5), "kind"))
    drawn = list(sampler("cross", data, data, 1)())
    assert len(drawn) == 5 and all(sample.support[0].split("/")[0] in data.presence[sample.number] for sample in drawn)


def sample_independent(how, query, support, shots=2, seed=2020, run=0):
    return list(sampling.sample_independent(how, query, support, shots, seed, run, raise_first))


@settings(max_examples=25)
@given(videos=st.integers(4, 20), shots=some_shots, seed=seeds, how=st.sampled_from(["v1", "v2", "cross"]))
def test_independent_samples_use_every_video_and_class_once(videos, shots, seed, how):
    names = [f"v{n}" for n in range(videos)]
    data = fold(videos=videos, shows={1: names, 5: names[: shots + 1]})
    drawn = sample_independent(how, data, data, shots, seed)
    assert sorted((d.number, d.video) for d in drawn) == sorted((c, v) for c in data.novel for v in data.presence[c])
    for d in drawn:
        videos_of = [frame.split("/")[0] for frame in d.support]
        assert len(set(videos_of)) == shots and d.video not in videos_of
        assert all(frame in data.presence[d.number][v] for v, frame in zip(videos_of, d.support, strict=True))
        assert d.query == data.presence[d.number][d.video] and d.batch is None


@settings(max_examples=30)
@given(st.data(), seeds)
def test_an_independent_sample_does_not_change_with_order_or_with_other_classes(data, seed):
    def supports(some):
        return {(s.number, s.query): s.support for s in sample_independent("v1", some, some, seed=seed)}

    small = fold(videos=8, shows={1: ["v0", "v2", "v3", "v5", "v7"], 5: ["v1", "v2", "v4"]})
    order = data.draw(st.permutations(list(small.frames)))
    frames = {v: small.frames[v] for v in order}
    presence = {c: {v: seen[v] for v in order if v in seen} for c, seen in small.presence.items()}
    before = supports(small)
    assert supports(replace(small, novel=small.novel[::-1], frames=frames, presence=presence)) == before
    after = supports(fold(videos=12, shows={1: [*small.presence[1], "v8", "v9"], 5: [*small.presence[5]]}))
    for key, support in before.items():  # a new video of the class changes what it gets into, and only by itself
        new = [frame for frame in after[key] if frame.split("/")[0] in ("v8", "v9")]
        kept = [frame for frame in after[key] if frame not in new]
        assert kept == list(support[: len(kept)]) and len(kept) + len(new) == 2 and (key[0] == 1 or not new)


@pytest.mark.parametrize(("query", "seed", "run"), [("v0", 2020, 0), ("v17", 7, 3)])
def test_an_independent_sample_by_hand(query, seed, run):
    # Hashes in whole numbers: SplitMix64 of digest(name) xor digest(seed, run, query, ...); lowest first.
    data = fold(videos=300, classes=(1,))
    key, mask = digest(seed, run, "ytvis", query, 0, 1), (1 << 64) - 1

    def hashed(name):
        number = int(digest(name), 16) ^ int(key, 16)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            number = (number ^ (number >> shift)) * factor & mask
        return number

    chosen = sorted((video for video in data.frames if video != query), key=hashed)[:100]
    draw = next(d for d in sample_independent("v1", data, data, 100, seed, run) if d.video == query)
    assert [frame.split("/")[0] for frame in draw.support] == chosen
