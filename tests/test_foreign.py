"""Other people's files: every tensor lands where it belongs, and nothing that is in a file is run."""

from __future__ import annotations

import argparse
import gc
import json
import os
import pickle
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import HEAD, initial, numbers, save_with_settings, state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ttilib.encoders.checkpoints import fingerprint, on_meta_device, read_published
from ttilib.encoders.external import plain, read_foreign, state_of
from ttilib.encoders.pspnet import INITIAL, Architecture, build_encoder, find_architecture, load_initial


@pytest.fixture(params=["zip", "legacy"])
def legacy(request: pytest.FixtureRequest) -> bool:
    """Both formats of torch.save: before 2020 and since."""
    return request.param == "legacy"


# --- nothing is run ---


class Trap:
    """Unpickled carelessly, it calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple:
        return self.called


class CfgNode(dict):
    """Settings by name, a command by nature."""

    def __reduce__(self) -> tuple:
        return os.system, (self["command"],)


def traps(mark: Path) -> dict[str, object]:
    """Contents that would create `mark`, by what they ask for."""
    command = f"touch {mark}"
    return {
        "posix.system": Trap(os.system, command),
        "getattr": Trap(Path.touch, mark),
        "exec": Trap(exec, f"open({str(mark)!r}, 'w')"),
        "torch.hub.set_dir": Trap(torch.hub.set_dir, str(mark)),
        "test_foreign.Trap|posix.system": [{"deep": Trap(os.system, command)}],
        "system": CfgNode(command=command),
    }


@pytest.mark.parametrize("which", range(6))
def test_what_a_file_wants_to_run_is_named_and_not_run(which: int, legacy: bool, tmp_path: Path) -> None:
    mark, path, before = tmp_path / "ran", tmp_path / "best.pth", torch.hub.get_dir()
    name, trap = list(traps(mark).items())[which]
    torch.save({"state_dict": {}, "args": trap}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=rf"best.pth: wants to import .*({name}).*; do not open it"):
        read_foreign(path)
    assert not mark.exists() and torch.hub.get_dir() == before


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_pickle_is_no_better(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    path.write_bytes(pickle.dumps(Trap(os.system, f"touch {tmp_path / 'ran'}"), protocol=protocol))
    with pytest.raises(ValueError, match=r"best.pth: (wants to import (posix|nt).system|not a file of tensors)"):
        read_foreign(path)
    assert not (tmp_path / "ran").exists()


def test_a_module_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for settings, which are read without it, nor for anything else."""
    path = tmp_path / "best.pth"
    save_with_settings(path, {"epoch": 1}, {"layers": 50}, {})
    (tmp_path / "somebodys_util.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nclass CfgNode(dict): pass")
    monkeypatch.syspath_prepend(tmp_path)
    assert read_foreign(path)["args"] == {"layers": 50, "more": {}}
    data = pickle.dumps(Trap(os.system, "x"), protocol=2).replace(b"cposix\nsystem", b"csomebodys_util\nother")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="wants to import somebodys_util.other"):
        read_foreign(path)
    assert not (tmp_path / "imported").exists() and "somebodys_util" not in sys.modules


def test_a_file_with_many_kinds_of_settings_is_refused(tmp_path: Path) -> None:
    names = b"".join(b"cmodule%d\nNamespace\n)\x81" % number for number in range(20))
    (tmp_path / "best.pth").write_bytes(b"\x80\x02(" + names + b"l.")
    with pytest.raises(ValueError, match=r"best.pth: wants to import module\d+.Namespace"):
        read_foreign(tmp_path / "best.pth")


def test_settings_cannot_carry_state_or_arguments(tmp_path: Path) -> None:
    """A Namespace built with arguments, or given slots, is not one."""
    for body in (
        b"cx\nNamespace\nU\x01a\x85R",  # called with an argument
        b"cx\nNamespace\n)\x81N}U\x09__class__ccollections\nOrderedDict\ns\x86b",  # given another class
        b"cposix\nCfgNode\n)\x81",  # of a module that torch never allows
    ):
        (tmp_path / "best.pth").write_bytes(b"\x80\x02" + body + b".")
        with pytest.raises(ValueError, match="best.pth: "):
            read_foreign(tmp_path / "best.pth")


def test_the_list_of_allowed_classes_is_as_it_was(tmp_path: Path) -> None:
    save_with_settings(tmp_path / "best.pth", {}, {"a": 1}, {})
    read_foreign(tmp_path / "best.pth")  # torch itself adds some of its own when it first reads a file
    before = set(torch.serialization.get_safe_globals())
    read_foreign(tmp_path / "best.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    assert not any("CfgNode" in str(each) for each in before)
    with pytest.raises(Exception, match="somebodys_util.CfgNode"):
        torch.load(tmp_path / "best.pth", weights_only=True)


# --- settings and damage ---


def test_settings_come_as_plain_values(legacy: bool, tmp_path: Path) -> None:
    path, given_settings = tmp_path / "best.pth", {"bins": (1, 2), "lr": 0.0025, "name": None, "on": True}
    nested = {"temperature": 0.1, "options": argparse.Namespace(gpus=[0, 1], inner=argparse.Namespace(x="y"))}
    save_with_settings(path, {"epoch": 3}, given_settings, nested, legacy)
    told = plain(read_foreign(path)["args"])
    assert told == {
        **{"bins": [1, 2], "lr": 0.0025, "name": None, "on": True},
        "more": {"temperature": 0.1, "options": {"gpus": [0, 1], "inner": {"x": "y"}}},
    }
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    torch.save({"args": argparse.Namespace(a=1)}, path, _use_new_zipfile_serialization=not legacy)
    assert read_foreign(path)["args"] == {"a": 1}


def test_plain_ends_whatever_it_is_given() -> None:
    endless: dict = {"here": 1}
    endless["again"] = [endless]
    text = json.dumps(plain(endless), allow_nan=False)
    assert text.count("here") == 8 and '"dict"' in text
    assert plain({1: float("nan"), "t": torch.ones(2, 3), "d": torch.float16}) == {
        **{"1": "nan", "t": "Tensor (2, 3)", "d": "torch.float16"}
    }


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"weights, honestly", b"\x80\x02}", b"\x80\x02]."])
def test_what_is_no_file_of_tensors_says_so(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "best.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"best.pth: (not a file of tensors|holds a list)"):
        read_foreign(tmp_path / "best.pth")


def test_missing_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"best.pth: no such file; give"):
        read_foreign(tmp_path / "best.pth")
    with pytest.raises(FileNotFoundError, match="is a folder; give"):
        read_foreign(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject, tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "best.pth"
    torch.save({"a": torch.arange(3), "n": 1}, path, _use_new_zipfile_serialization=not legacy)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))])
    try:
        assert isinstance(read_foreign(path), dict)
    except ValueError as error:
        assert str(path) in str(error)


# --- published encoders ---


def assert_lands(network: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    landed = network.state_dict()
    assert landed.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(landed[name], value), name
        assert landed[name].device.type == "cpu" and landed[name].is_contiguous()


@pytest.mark.parametrize(
    ("name", "classes", "prefix", "head"),
    [
        ("resnet50", 16, "module.", {}),
        ("resnet50", 31, "", HEAD),
        ("resnet101", 31, "module.", HEAD),
        ("vgg16", 16, "module.", {}),
        ("resnet18-mini", 11, "module.", {}),
    ],
)
def test_every_published_tensor_lands(name: str, classes: int, prefix: str, head: dict, tmp_path: Path) -> None:
    path, tensors = tmp_path / "best.pth", state(name, classes, head)
    contents = {"epoch": 41, "state_dict": {prefix + key: value for key, value in tensors.items()}, "optimizer": {}}
    save_with_settings(path, contents, {"layers": 50, "bins": [1, 2, 3, 6]}, {"densecl_temperature": 0.2})
    network, about = read_published(path)
    assert network.architecture.name == name and network.classes == classes
    assert_lands(network, {key: value for key, value in tensors.items() if key not in head})
    told = {"layers": 50, "bins": [1, 2, 3, 6], "more": {"densecl_temperature": 0.2}}
    assert about == {"source": "best.pth", "epoch": 41, "settings": told, "left_out": sorted(head)}
    network.eval().logits(torch.zeros(1, 3, 9, 9))  # nothing is left on paper
    del network
    gc.collect()


def test_a_bare_state_of_old_and_of_a_graphics_card_lands(legacy: bool, tmp_path: Path) -> None:
    """No epoch, no wrapping, no counters of batches, saved from a card that this machine need not have."""
    path = tmp_path / "best.pth"
    tensors = {k: v for k, v in state("resnet18-mini", 3).items() if not k.endswith("num_batches_tracked")}
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    cpu, card = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    if legacy:
        whole = path.read_bytes()
        assert cpu in whole
        path.write_bytes(whole.replace(cpu, card))
    else:
        with zipfile.ZipFile(path) as archive:
            entries = {each: archive.read(each) for each in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for each, content in entries.items():
                archive.writestr(each, content.replace(cpu, card) if each.endswith("data.pkl") else content)
    network, about = read_published(path)
    counters = {k: torch.tensor(0) for k in network.state_dict() if k.endswith("num_batches_tracked")}
    assert_lands(network, tensors | counters)
    assert about == {"source": "best.pth", "epoch": None, "left_out": []}


def test_a_prefix_is_removed_only_if_all_names_have_it() -> None:
    one = torch.ones(1)
    assert list(state_of("file", {"module.a": one, "module.b": one})) == ["a", "b"]
    assert list(state_of("file", {"module.a": one, "classifier": one})) == ["module.a", "classifier"]


def test_an_architecture_decides_between_equal_tensors_and_refuses_others(tmp_path: Path) -> None:
    torch.save(state("vgg16", 4), tmp_path / "best.pth")
    assert read_published(tmp_path / "best.pth", "vgg16-dilated")[0].architecture.stride == 8
    with pytest.raises(ValueError, match=r"best.pth: not the tensors of a 'resnet18' encoder \(\d+ missing"):
        read_published(tmp_path / "best.pth", "resnet18")


def test_half_numbers_are_made_whole(tmp_path: Path) -> None:
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in state("resnet18-mini", 3).items()}
    torch.save(tensors, tmp_path / "best.pth")
    network, _ = read_published(tmp_path / "best.pth")
    assert {v.dtype for k, v in network.state_dict().items() if "num" not in k} == {torch.float32}
    assert torch.equal(network.classifier.weight, tensors["classifier.weight"].float())


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path, tensors = tmp_path / "best.pth", state("resnet18-mini", 3)
    broken = {k: v for k, v in tensors.items() if not k.startswith("layer2.0.bn1")}
    broken |= {"decoder.weight": numbers(1, (2, 2)), "bottleneck.0.weight": numbers(2, (128, 7, 3, 3))}
    torch.save({"state_dict": broken}, path)
    with pytest.raises(ValueError) as caught:
        read_published(path)
    assert str(caught.value) == (
        f"{path}: not the tensors of a 'resnet18-mini' encoder (4 missing: layer2.0.bn1.weight, layer2.0.bn1.bias, "
        "layer2.0.bn1.running_mean, ...; 1 not known: decoder.weight; 1 of another shape: bottleneck.0.weight "
        "(128, 7, 3, 3) for (128, 192, 3, 3)); give one of resnet50, resnet101, resnet50-plain, resnet101-plain, "
        "resnet18, resnet18-mini, vgg16, vgg16-dilated"
    )


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ({"state_dict": {}}, "holds no network"),
        ({"network": {"a": torch.ones(1)}}, "holds no network"),
        ({"epoch": 3, "a": torch.ones(1)}, "holds no network"),
        ({"state_dict": {"conv1.weight": torch.ones(1)}}, "no classifier.weight"),
        ({"classifier.weight": torch.ones(10, 4096)}, "no classifier.weight"),
    ],
)
def test_a_file_without_a_network_says_so(contents: dict, told: str, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "best.pth")
    with pytest.raises(ValueError, match=f"best.pth: {told}"):
        read_published(tmp_path / "best.pth")


# --- ImageNet weights ---


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "vgg16-dilated", "resnet18"])
@pytest.mark.parametrize("folder", [False, True])
def test_initial_weights_fill_the_stages_and_nothing_else(name: str, folder: bool, tmp_path: Path) -> None:
    architecture = narrow(name)
    path = tmp_path / (INITIAL[name] if folder and name in INITIAL else "weights.pth")
    torch.save(initial(architecture), path, _use_new_zipfile_serialization=not folder)
    if folder and name not in INITIAL:
        with pytest.raises(ValueError, match="no initial weights for encoder 'resnet18', only for resnet50, resnet101"):
            build_encoder(architecture, 3, pretrained=str(tmp_path))
        return
    network = build_encoder(architecture, 3, pretrained=str(tmp_path if folder else path)).state_dict()
    fresh, expected = build_encoder(architecture, 3).state_dict(), state(architecture, 3)
    for key, value in network.items():
        if key.endswith("num_batches_tracked"):
            assert value == 0
        else:
            assert torch.equal(value, expected[key] if key.startswith("layer") else fresh[key]), key
            assert not torch.equal(expected[key], fresh[key])


def narrow(name: str) -> Architecture:
    """The same layers with few channels; VGG's first stage has half of the second's."""
    return replace(find_architecture(name), widths=(4, 6, 6, 8), pyramid=2, features=4)


def test_initial_weights_of_another_network_change_nothing(tmp_path: Path) -> None:
    for name, wrong, told in (
        ("resnet18", "resnet18-mini", "of another shape"),
        ("resnet18", "resnet50", "not known: layer0.3.weight"),
        ("resnet50", "resnet101", "not known: layer3.6.conv1.weight"),
        ("resnet18", "vgg16", "missing: layer0.0.weight"),
        ("vgg16", "resnet18", "not known: layer1.0.conv1.weight"),
    ):
        path = tmp_path / f"{wrong}.pth"
        torch.save(initial(find_architecture(wrong) if "mini" in wrong else narrow(wrong)), path)
        network = build_encoder(narrow(name), 2)
        before = fingerprint(network)
        with pytest.raises(ValueError, match=rf"{wrong}.pth: not the ImageNet weights of encoder '{name}' .*{told}"):
            load_initial(network, path)
        assert fingerprint(network) == before


def test_missing_initial_weights_say_where_they_belong(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "initmodel", tmp_path / "initmodel" / "resnet101_v2.pth"):
        with pytest.raises(
            FileNotFoundError, match=r"resnet101_v2.pth: no initial weights for encoder 'resnet101'; put"
        ):
            load_initial(on_meta_device(find_architecture("resnet101"), 2), place)


def test_numbers_of_numpy_are_not_plain(tmp_path: Path) -> None:
    torch.save({"epoch": np.float64(3)}, tmp_path / "best.pth")
    with pytest.raises(ValueError, match="wants to import numpy"):
        read_foreign(tmp_path / "best.pth")
