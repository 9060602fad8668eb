"""Encoders from elsewhere: by name, by function, and by the recipe in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from ttilib.encoders.checkpoints import load_encoder


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("resnet5O", "resnet50"), ("Resnet101", "resnet101"), ("resnet18_mini", "resnet18-mini")],
)
def test_an_unknown_name_gets_a_suggestion(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"encoder '{wrong}' is not known; did you mean {right}"):
        load_encoder(wrong)


def test_a_name_gives_untrained_weights_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="'resnet18-mini' has untrained weights"):
        encoder = load_encoder("resnet18-mini")
    assert encoder(torch.rand(1, 3, 17, 17)).shape == (1, 128, 3, 3)


PLUGIN = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Blocks:
    size: int = 8
    def __call__(self, images):
        from torch.nn.functional import avg_pool2d
        return avg_pool2d(images, self.size, ceil_mode=True)

def load():
    return Blocks()

def number():
    return 5
"""


def test_an_encoder_may_be_a_function_of_a_file_or_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_encoder.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    for spec in (f"{tmp_path}/my_encoder.py:load", "my_encoder:load"):
        assert load_encoder(spec)(torch.ones(1, 3, 17, 9)).shape == (1, 3, 3, 2)
    assert isinstance(load_encoder("torch.nn:Identity"), nn.Identity)


def test_a_wrong_plugin_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "my_encoder.py"
    with pytest.raises(FileNotFoundError, match=r"my_encoder.py: no such file"):
        load_encoder(f"{file}:load")
    file.write_text(PLUGIN)
    with pytest.raises(ValueError, match="has no function 'lood'; did you mean load"):
        load_encoder(f"{file}:lood")
    with pytest.raises(ValueError, match="number: returned a int"):
        load_encoder(f"{file}:number")
    with pytest.raises(ValueError, match="'no_such_package.net' cannot be imported"):
        load_encoder("no_such_package.net:load")


def test_what_a_module_fails_to_import_is_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_encoder.py").write_text("import no_such_thing_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    for spec in ("needy_encoder:load", f"{tmp_path}/needy_encoder.py:load"):
        with pytest.raises(ModuleNotFoundError, match="no_such_thing_at_all"):
            load_encoder(spec)


# --- the documentation ---


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "encoders.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [(241, 425), (97, 161), (50, 70)])
def test_the_adapter_in_the_documentation_works(page: str, tmp_path: Path, size: tuple[int, int]) -> None:
    """With random weights: one cell per 8 x 8 pixels, the paper's grid, in evaluation mode and without gradients."""
    pytest.importorskip("timm")
    (program,) = re.findall(r"```python\n# dino\.py\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "dino.py").write_text(program, encoding="utf-8")
    encoder = load_encoder(f"{tmp_path}/dino.py:untrained")
    features = encoder(torch.rand(1, 3, *size))
    assert features.shape == (1, 384, -(-size[0] // 8), -(-size[1] // 8)) and features.isfinite().all()
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert features.flatten(2).std(-1).min() > 0  # cells differ
    assert len(program.strip().splitlines()) <= 30


def test_the_documentation_names_every_encoder_and_file(page: str) -> None:
    from ttilib.encoders.pspnet import ARCHITECTURES, INITIAL

    for name in (*ARCHITECTURES, *INITIAL.values()):
        assert f"`{name}`" in page, name
