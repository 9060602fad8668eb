"""Shapes and types in the library's signatures are checked while the tests run, and only then."""

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("ttilib", "typechecker.checked")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests measure nothing, and small tensors are faster on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY
