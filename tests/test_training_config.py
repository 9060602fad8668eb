"""Settings of a training run: the released ones, invalid values, and changes by name."""

from dataclasses import replace

import pytest

from ttilib.training.config import LEAK, ContrastConfig, TrainConfig, changed

RELEASED = {  # dataset: epochs, batch, frames of a clip, frame stride, repeats; docs/protocol.md 1.3 and 4
    "ytvis": (10, 6, 5, 5, 10), "pascal": (100, 12, 0, 1, 1), "coco": (20, 12, 0, 1, 1),
    "coco-full": (20, 12, 0, 1, 1), "vspw": (10, 6, 0, 1, 1),
}  # fmt: skip


def test_released_settings() -> None:
    for corpus, due in RELEASED.items():
        config = TrainConfig.released(corpus)
        assert (config.epochs, config.batch, config.clip_frames, config.every, config.repeats) == due
    assert TrainConfig.released("vspw").validation == "minivspw-val"
    with pytest.raises(ValueError, match="'davis'.*ytvis"):
        TrainConfig.released("davis")


def test_fields_are_changed_by_name() -> None:
    before = TrainConfig(epochs=5, milestones=(5, 7), pretrained="")
    assert changed(before, {}) == before and changed(before, {"milestones": 30}).milestones == (30,)
    once = changed(before, {"contrast.weight": 0.5, "every": 3})
    assert once == replace(before, contrast=ContrastConfig(weight=0.5), every=3), "without the prefix it is the run's"
    twice = changed(once, {"contrast.videos": LEAK, "epochs": 2, "contrast.pooled": True})
    assert twice.contrast == ContrastConfig(weight=0.5, videos=LEAK, pooled=True) and twice.epochs == 2
    assert changed(twice, {"contrast": None}).contrast is None
    with pytest.raises(ValueError, match=r"'contrast.wieght' is not known; did you mean contrast\.weight\?"):
        changed(before, {"contrast.wieght": 0.5})
