"""Shapes and types in the library's signatures are checked while the tests run, and only then."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

PACKAGES = ("datasets", "encoders", "solver", "training", "results.metrics")  # where nearly all arrays are
install_import_hook([f"ttilib.{name}" for name in PACKAGES], "typechecker.checked")

sys.modules["rfc3987_syntax"] = None  # a grammar of web addresses that jsonschema compiles for seconds, if it finds it

# The same examples each time, however slow the machine is.
settings.register_profile("ttilib", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ttilib")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The study takes longest, so it starts first where several processes share the tests."""
    items.sort(key=lambda item: (item.path.stem != "test_study", "study" not in item.keywords))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests measure nothing, and small tensors are faster on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def mini(repository: Path) -> Path:
    """The synthetic dataset in data/mini; one process generates it, the others wait."""
    from ttilib.synthetic import generate

    return generate(repository / "data" / "mini")


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Four rounds of four classes: the smallest synthetic dataset in which something leaves the view."""
    from ttilib.synthetic import generate

    root = tmp_path_factory.mktemp("world")
    return generate(root, classes=4, videos_per_class=4, frames=(5, 6), stills_per_class=(1, 1), workers=1)


@pytest.fixture(scope="session")
def chromium():
    """A browser without a window; tests that need it are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
