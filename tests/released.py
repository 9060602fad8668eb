"""The released data sets as the protocol tells them: state machines that are asked for item after item.

They share no code with ttilib: they draw by their own generators, by the calls that the protocol names.
"""

import random

import numpy as np


class ReleasedYtvis:
    """YouTube-VIS."""

    def __init__(self, data, shots, seed, multi):
        self.data, self.shots, self.multi, self.rng = data, shots, multi, random.Random(seed)
        self.items = [(c, turn) for c in data.novel for turn in range(len(data.presence[c]) - shots)]

    def frame(self, c, video):
        frames = self.data.presence[c][video]
        return frames[self.rng.sample(range(len(frames)), 1)[0]]

    def __getitem__(self, place):
        if place >= len(self.items):
            raise IndexError
        c, turn = self.items[place]
        ids = sorted(self.data.presence[c], key=lambda v: int(v[1:]))
        if turn == 0 or self.multi:
            self.support_ids = self.rng.sample(ids, self.shots)
            self.support = [self.frame(c, video) for video in self.support_ids]
        left = [video for video in ids if video not in self.support_ids]
        query = self.rng.choice(left) if self.multi else left[turn]
        self.frame(c, query)
        return c, tuple(self.support), self.data.presence[c][query]


class ReleasedSequences:
    """The released data set of New MiniVSPW: names repeated as a whole, everything by NumPy's generator."""

    def __init__(self, data, shots, seed):
        self.data, self.shots, self.rng = data, shots, np.random.RandomState(seed)
        self.classes_per_seq, self.seqs_per_cls = {}, {c: {} for c in data.novel}
        everything = [(seq, frame, c) for seq in data.frames for frame in data.frames[seq] for c in sorted(data.novel)]
        for seq, frame, c in everything:
            if frame in data.presence[c].get(seq, ()):
                if c not in self.classes_per_seq.setdefault(seq, []):
                    self.classes_per_seq[seq].append(c)
                self.seqs_per_cls[c].setdefault(seq, []).append(frame)
        self.data_list = list(self.classes_per_seq) * data.repeats

    def __getitem__(self, place):
        seq = self.data_list[place]
        chosen = int(self.rng.choice(self.classes_per_seq[seq]))
        selected = list(self.seqs_per_cls[chosen])
        selected.remove(seq)
        support = []
        for _ in range(self.shots):
            frames = self.seqs_per_cls[chosen][str(self.rng.choice(selected))]
            support.append(frames[self.rng.randint(0, len(frames))])
        return chosen, tuple(support), self.data.frames[seq]


class ReleasedStills:
    """The released data set of stills."""

    def __init__(self, data, shots, seed):
        self.data, self.shots = data, shots
        self.rng, self.legacy = random.Random(seed), np.random.RandomState(seed)
        self.data_list = list(data.shown)

    def build_support(self, data, chosen, query):
        files, places = list(data.presence[chosen]), []
        for _ in range(self.shots):
            place, path = self.rng.randint(1, len(files)) - 1, query
            while path == query or place in places:
                place = self.rng.randint(1, len(files)) - 1
                path = files[place]
            places.append(place)
        return tuple(files[place] for place in places)

    def __getitem__(self, place):
        still = self.data_list[place]
        chosen = int(self.legacy.choice(sorted(self.data.shown[still])))
        return chosen, self.build_support(self.data, chosen, still), (still,)
