"""An ImageNet ResNet-50 that lies beside the repository, where it does: for tests that need features of real images.

As an encoder it is named "tests/real.py:load".
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "real"
MISSING = "no real images and weights beside the repository"  # why a test that needs them is skipped


def available() -> bool:
    return (FOLDER / "encoder.py").is_file() and (FOLDER / "resnet50_imagenet_stage3.npz").is_file()


def original() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_encoder", FOLDER / "encoder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load() -> nn.Module:
    """The network, to the bit, with "layer2" and "layer3" as layers through which the stages' outputs pass."""
    module = original()

    class Stages(module.Stage3ResNet50):
        def __init__(self, arrays: dict) -> None:
            super().__init__(arrays)
            self.layer2, self.layer3 = nn.Identity(), nn.Identity()

        def conv(self, name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
            return super().conv(name, self.layer2(x) if name == "layer3.0.conv1" else x, stride, dilation)

        def forward(self, images: Tensor) -> Tensor:
            return self.layer3(super().forward(images))

    module.Stage3ResNet50 = Stages  # `load` of the module makes whatever it finds under this name
    return module.load()
