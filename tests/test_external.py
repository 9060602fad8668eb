"""External encoders: nothing in a file is run, damage is noticed, and errors of functions carry their names."""

import argparse
import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from foreign import save_with_settings

from ttilib.encoders.checkpoints import fingerprint, load_encoder
from ttilib.encoders.external import plain, read_foreign, state_of
from ttilib.encoders.layers import MultiLayerEncoder


@pytest.fixture(params=["zip", "legacy"])
def legacy(request: pytest.FixtureRequest) -> bool:
    """Both formats of torch.save: before 2020 and since."""
    return request.param == "legacy"


class Trap:
    """Unpickled carelessly, it calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple:
        return self.called


class CfgNode(dict):
    """Named as settings, but runs a command."""

    def __reduce__(self) -> tuple:
        return os.system, (self["command"],)


@pytest.mark.parametrize("name", ["posix.system", "exec", "torch.hub.set_dir", "system"])
def test_what_a_file_wants_to_run_is_named_and_not_run(name: str, legacy: bool, tmp_path: Path) -> None:
    mark, path, before = tmp_path / "ran", tmp_path / "best.pth", torch.hub.get_dir()
    trap = {
        "posix.system": [{"deep": Trap(os.system, f"touch {mark}")}],
        "exec": Trap(exec, f"open({str(mark)!r}, 'w')"),
        "torch.hub.set_dir": Trap(torch.hub.set_dir, str(mark)),
        "system": CfgNode(command=f"touch {mark}"),
    }[name]
    torch.save({"state_dict": {}, "args": trap}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=rf"best.pth: the pickle references .*{name}"):
        read_foreign(path)
    assert not mark.exists() and torch.hub.get_dir() == before


def test_a_module_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for settings, which are read without it, nor for anything else; torch's own list stays as it was."""
    path = tmp_path / "best.pth"
    save_with_settings(path, {"epoch": 1}, {"layers": 50}, {})
    (tmp_path / "somebodys_util.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nclass CfgNode(dict): pass")
    monkeypatch.syspath_prepend(tmp_path)
    assert read_foreign(path)["args"] == {"layers": 50, "more": {}}
    assert not any("CfgNode" in str(each) for each in torch.serialization.get_safe_globals())
    data = pickle.dumps(Trap(os.system, "x"), protocol=2).replace(b"cposix\nsystem", b"csomebodys_util\nother")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="references somebodys_util.other"):
        read_foreign(path)
    assert not (tmp_path / "imported").exists() and "somebodys_util" not in sys.modules


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 and no more", b"\x80\x02].",
        b"\x80\x02cx\nNamespace\nU\x01a\x85R.",  # called with an argument
        b"\x80\x02cx\nNamespace\n)\x81N}U\x09__class__ccollections\nOrderedDict\ns\x86b.",  # given another class
        b"\x80\x02cposix\nCfgNode\n)\x81.",  # of a module that torch never allows
        b"\x80\x02(" + b"".join(b"cmodule%d\nNamespace\n)\x81" % number for number in range(20)) + b"l.",  # too many
    ],
)  # fmt: skip
def test_what_is_no_file_of_tensors_and_settings_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "best.pth").write_bytes(content)
    with pytest.raises(ValueError, match="best.pth: "):
        read_foreign(tmp_path / "best.pth")
    with zipfile.ZipFile(tmp_path / "best.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(ValueError, match="best.pth: .*compression"):
        read_foreign(tmp_path / "best.pth")


def test_settings_come_as_plain_values(legacy: bool, tmp_path: Path) -> None:
    path, given = tmp_path / "best.pth", {"bins": (1, 2), "lr": 0.0025, "name": None, "on": True}
    nested = {"temperature": 0.1, "options": argparse.Namespace(gpus=[0, 1], inner=argparse.Namespace(x="y"))}
    save_with_settings(path, {"epoch": 3}, given, nested, legacy)
    more = {"temperature": 0.1, "options": {"gpus": [0, 1], "inner": {"x": "y"}}}
    assert plain(read_foreign(path)["args"]) == {**given, "bins": [1, 2], "more": more}


def test_state_and_prefix() -> None:
    """A prefix is removed only if all names have it; what cannot be weights is refused."""
    one = torch.ones(1)
    assert list(state_of("file", {"module.a": one, "module.b": one})) == ["a", "b"]
    assert list(state_of("file", {"state_dict": {"module.a": one, "classifier": one}})) == ["module.a", "classifier"]
    for content in ({"state_dict": {}}, {"network": {"a": one}}, {"epoch": 3, "a": one}, {"a": one.to_sparse()}):
        with pytest.raises(ValueError, match="file: holds no network"):
            state_of("file", content)


PLUGIN = """
from __future__ import annotations
import sys, torch

class Network(torch.nn.Module):
    def forward(self, images):
        assert images.shape[-1] < 300, "sides must be short"
        return torch.nn.functional.avg_pool2d(images, 8, ceil_mode=True)

def load(): return Network().forward
def needs(name): return load()
def halts(): return lambda images: sys.exit(0)
def tuples(): return lambda images: (images, images)
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_encoder.py").write_text(PLUGIN)
    (tmp_path / "needy.py").write_text("import no_such_thing_at_all")
    (tmp_path / "torn.py").write_text("def load(:")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_an_encoder_may_be_a_function_of_a_file_or_module(plugins: Path) -> None:
    for spec in (f"{plugins}/my_encoder.py:load", "my_encoder:load"):
        assert load_encoder(spec)(torch.ones(1, 3, 17, 9)).shape == (1, 3, 3, 2)
    network = load_encoder("my_encoder:Network")
    assert not network.training and network.state_dict() == {} and len(fingerprint(network)) == 16
    with pytest.raises(FileNotFoundError, match=r"other.py: no such file"):
        load_encoder(f"{plugins}/other.py:load")
    with pytest.raises(ValueError, match=r"give .*my_encoder.py:FUNCTION"):
        load_encoder(f"{plugins}/my_encoder.py")
    with pytest.warns(UserWarning, match="'resnet18-mini' has untrained weights"):
        assert load_encoder("resnet18-mini")(torch.rand(1, 3, 17, 17)).shape == (1, 128, 3, 3)
    with pytest.raises(ValueError, match="'resnet5O' is not known; did you mean resnet50"):
        load_encoder("resnet5O")


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("my_encoder:lood", "did you mean load"), ("my_encoder:needs", "TypeError.*name"),
        ("my_encoder:halts", "SystemExit"), ("no_such.net:load", "install"), ("needy:load", "no_such_thing_at_all"),
        ("{}/torn.py:load", "SyntaxError"), ("my_encoder:tuples", "its output is a tuple"),
        ("my_encoder:Network", "AssertionError: sides must be short"),
    ],
)  # fmt: skip
def test_whatever_a_function_raises_or_returns_is_one_sentence_with_its_name(spec, found, plugins: Path) -> None:
    spec = spec.format(plugins)
    with pytest.raises(ValueError, match=f"^encoder {spec}: .*{found}"):
        MultiLayerEncoder(load_encoder(spec))(torch.rand(1, 3, 33, 400))
