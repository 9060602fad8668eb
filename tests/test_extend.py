"""One of everything that comes in kinds is added in a few lines, without a line of the library changed."""

from dataclasses import dataclass

import pytest
import torch
from tasks import toy_encoder

from ttilib.episodes.clips import synthetic_clip
from ttilib.solver.extraction import FeatureExtractor, Recipe
from ttilib.solver.methods import METHODS, Prediction, read_method


@dataclass(frozen=True)
class Nearest:
    """A cell is object if it is nearer to a support cell of the object than to any other."""

    name: str = "nearest"
    recipe: Recipe = Recipe()
    margin: float = 0.0

    def predict(self, clip, extractor, ground_truth=None):
        task = extractor.task(clip, self.recipe)
        cosines = torch.einsum("tchw,kcij->thwkij", task.query, task.support)
        inside, outside = cosines[..., task.support_masks].amax(-1), cosines[..., ~task.support_masks].amax(-1)
        cells = (inside > outside + self.margin).float()[:, None]
        return Prediction(torch.nn.functional.interpolate(cells, clip.size)[:, 0] > 0.5)


def test_an_algorithm_of_ones_own_is_a_class_with_predict(monkeypatch):
    monkeypatch.setitem(METHODS, "nearest", Nearest())
    clip, extractor = synthetic_clip(frames=4, size=(65, 97)), FeatureExtractor(toy_encoder)
    masks = read_method("nearest").predict(clip, extractor).masks
    assert (masks & clip.truth).sum() / (masks | clip.truth).sum() > 0.5
    strict = read_method("nearest margin=0.01 centring=episode")
    assert strict == Nearest("nearest margin=0.01 centring=episode", Recipe("episode"), 0.01)
    assert strict.predict(clip, extractor).masks.any()
    with pytest.raises(ValueError, match=r"no setting 'margn'; did you mean margin\?"):
        read_method("nearest margn=2")
