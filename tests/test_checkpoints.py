"""Checkpoints: what was saved comes back, what does not match is refused, published files become ours and back."""

from __future__ import annotations

import copy
import json
import os
import random
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from folds import fold
from foreign import HEAD, TINY, no_larger_file_than, numbers, save_with_settings, state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from ttilib.encoders.checkpoints import (
    Metadata,
    check_fold,
    convert,
    fingerprint,
    load_encoder,
    load_state,
    read_published,
    save_encoder,
    save_state,
)
from ttilib.encoders.pspnet import PSPNet, build_encoder
from ttilib.solver.extraction import FeatureMean, load_means, save_means

ABOUT = {"corpus": "ytvis", "fold": 2, "base": ["cat", "dog"], "metrics": {"val_miou": 0.5}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_encoder(tmp_path, build_encoder(TINY, 3, seed=1), ABOUT)
    return tmp_path / "best.safetensors"


def equal(one: PSPNet, other: PSPNet) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_a_checkpoint_comes_back_as_it_was(saved: Path) -> None:
    images, expected = torch.rand(2, 3, 33, 41), build_encoder(TINY, 3, seed=1).eval()
    for spec in (str(saved), saved.parent):
        encoder = load_encoder(spec)
        assert torch.equal(encoder(images), expected(images)) and encoder(images).shape == (2, 6, 5, 6)
        assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    metadata = json.loads(saved.with_suffix(".json").read_text())
    assert ABOUT.items() <= metadata.items() and metadata["architecture"]["features"] == 6 and metadata["classes"] == 3
    assert metadata["fingerprint"] == fingerprint(expected) and metadata["versions"]["torch"] == torch.__version__
    assert sorted(p.name for p in saved.parent.iterdir()) == ["best.json", "best.safetensors"]
    umask = os.umask(0o022)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in saved.parent.iterdir()} == {0o666 & ~umask}  # readable alike
    del metadata["architecture"]["stride"]  # metadata files of earlier versions have none
    saved.with_suffix(".json").write_text(json.dumps(metadata))
    assert load_encoder(saved, architecture=None).architecture.stride == 8


def test_a_fingerprint_notices_any_tensor_and_its_type() -> None:
    network = build_encoder(TINY, 3)
    seen, norm = {fingerprint(network)}, network.bottleneck[1]
    norm.running_mean[0] += 1e-6
    seen.add(fingerprint(network))
    norm.num_batches_tracked = norm.num_batches_tracked.double()  # 0 in both types, the same bytes
    assert len(seen | {fingerprint(network)}) == 3


def with_bias(path: Path) -> None:
    tensors = load_file(path)
    tensors["classifier.bias"] += 1
    save_file(tensors, path)


def replaced(old: str, new: str) -> Callable[[Path], object]:
    """A function that replaces text of the metadata file."""

    def rewrite(path: Path) -> None:
        text = json.dumps(json.loads(path.with_suffix(".json").read_text()))
        path.with_suffix(".json").write_text(text.replace(old, new))

    return rewrite


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (with_bias, "best.safetensors: .*fingerprint"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "best.safetensors: not the tensors"),
        (lambda path: path.with_suffix(".json").unlink(), "best.json"),
        (lambda path: path.unlink(), "best.safetensors: no such"),
        (replaced('"features": 6', '"features": 7'), "best.safetensors: .*'tiny'.*bottleneck"),
        (replaced("[1, 1, 1, 1]", "[1000000, 1, 1, 1]"), r"best.json: architecture.blocks\[0\]"),
        (replaced('"dropout": 0.1', '"dropout": -1'), "best.json: architecture.dropout"),
        (replaced('"dropout"', '"groups": 2, "dropout"'), "best.json: .*groups"),
        (replaced('"dog"', "5"), r"best.json: base\[1\]"),
        (lambda path: path.with_suffix(".json").write_text("null"), "best.json: "),
    ],
)  # fmt: skip
def test_damaged_checkpoints_are_refused(saved: Path, spoil: Callable, found: str) -> None:
    with pytest.raises(ValueError, match="'tiny'.*not 'resnet50'"):
        load_encoder(saved, architecture="resnet50")
    spoil(saved)
    for use in (load_encoder, lambda path: convert(path, path.with_name("made.pth"))):
        with pytest.raises((ValueError, FileNotFoundError), match=found):
            use(saved)
    assert not list(saved.parent.glob("made*"))


VALUES = (None, True, -1, 3.5, 2**70, 1e308, "a", [], {}, [None], [10**6, 1, 1, 1], {"a": [1]}, "\ud800")


def changed(value: Any, rng: random.Random) -> Any:
    """The JSON value with another value at a random place, or without it."""
    if not value or not isinstance(value, dict | list) or rng.random() < 0.2:
        return copy.deepcopy(rng.choice(VALUES))
    value = copy.deepcopy(value)
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if rng.random() < 0.2:
        del value[key]
    else:
        value[key] = changed(value[key], rng)
    return value


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The file with flipped bits, cut short, or with another value in its JSON (a header in .safetensors)."""
    end = 8 + int.from_bytes(content[:8], "little")
    if content[:1] == b"{" and rng.random() < 0.8:
        return json.dumps(changed(json.loads(content), rng)).encode()
    if end < len(content) and rng.random() < 0.5:
        header = json.dumps(changed(json.loads(content[8:end]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + content[end:]
    content = content[: rng.randrange(len(content))] if rng.random() < 0.2 else content
    spoiled = bytearray(content)
    for _ in range(min(rng.randrange(1, 4), len(content))):
        spoiled[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each format."""
    folder, network = tmp_path_factory.mktemp("valid"), build_encoder(TINY, 3, seed=1)
    save_encoder(folder, network, ABOUT)
    content = {"epoch": 3, "state_dict": network.state_dict()}
    save_with_settings(folder / "best.pth", content, {"layers": 50}, {})
    save_with_settings(folder / "best.pt", content, {"layers": 50}, {}, legacy=True)  # without a checksum of its own
    save_means(folder / "means.safetensors", FeatureMean("", (), (6,), torch.full((6,), 0.1), 2))
    return folder


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["best.safetensors", "best.pth", "best.pt", "means.safetensors"]),
    beside=st.booleans(), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_a_changed_file_is_read_as_it_was_or_refused_in_one_sentence(
    valid: Path, tmp_path: Path, name: str, beside: bool, seed: int
) -> None:
    rng, before = random.Random(seed), torch.full((6,), 0.1)
    for each in (name, "best.json"):
        (tmp_path / each).write_bytes((valid / each).read_bytes())
    spoiled = tmp_path / ("best.json" if beside else name)
    spoiled.write_bytes(damaged(spoiled.read_bytes(), rng))
    try:
        if name.startswith("means"):
            assert torch.equal(load_means(tmp_path / name).values, before)
            return
        path = tmp_path / name
        assert equal(load_encoder(path, fold=fold()), build_encoder(TINY, 3, seed=1))
        convert(path, tmp_path / "made.pth" if path.suffix == ".safetensors" else tmp_path / "made.safetensors")
    except (ValueError, FileNotFoundError) as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error)


def test_state_files_cannot_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"network": Trap()}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="last.pt"):
        load_state(tmp_path / "last.pt")
    assert not (tmp_path / "ran").exists()
    for write, name in ((save_encoder, "best.pth"), (lambda path, _: load_encoder(path), "last.bin")):
        with pytest.raises(ValueError, match=f"{name}: .*safetensors"):
            write(tmp_path / name, build_encoder(TINY, 2))
    save_state(tmp_path / "last.pt", {"step": 3, "tensor": torch.arange(3)})
    assert load_state(tmp_path / "last.pt")["tensor"].tolist() == [0, 1, 2]


def test_a_full_disk_leaves_the_previous_files(tmp_path: Path) -> None:
    last, best, network = tmp_path / "last.pt", tmp_path / "best.safetensors", build_encoder(TINY, 20)
    save_state(last, {"step": 3})
    save_encoder(best, build_encoder(TINY, 2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    large = {"tensor": torch.zeros(10**5)}
    for path, write in ((last, lambda: save_state(last, large)), (best, lambda: save_encoder(best, network))):
        with no_larger_file_than(4096), pytest.raises(OSError, match=f"^{path}: cannot be written"):
            write()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- published files ---


def assert_tensors(network: PSPNet, tensors: dict[str, Tensor]) -> None:
    found = network.state_dict()
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(found[name], value), name
        assert found[name].device.type == "cpu" and found[name].is_contiguous()


@pytest.mark.parametrize(
    ("name", "classes", "prefix", "head"),
    [("resnet50", 31, "", HEAD), ("vgg16", 16, "module.", {}), ("resnet18-mini", 11, "module.", HEAD)],
)
def test_every_published_tensor_is_read(name: str, classes: int, prefix: str, head: dict, tmp_path: Path) -> None:
    path, tensors = tmp_path / "best.pth", state(name, classes, head)
    content = {"epoch": 41, "state_dict": {prefix + key: value for key, value in tensors.items()}, "optimizer": {}}
    save_with_settings(path, content, {"layers": 50, "bins": [1, 2, 3, 6]}, {"temperature": 0.2})
    network, about = read_published(path)
    assert network.architecture.name == name and network.classes == classes
    assert_tensors(network, {key: value for key, value in tensors.items() if key not in head})
    settings = {"layers": 50, "bins": [1, 2, 3, 6], "more": {"temperature": 0.2}}
    assert about == {"source": "best.pth", "epoch": 41, "settings": settings, "left_out": sorted(head)}
    network.eval().logits(torch.zeros(1, 3, 9, 9))  # nothing is left on the meta device


@pytest.mark.parametrize("legacy", [False, True])
def test_an_old_state_of_a_gpu_in_half_precision_is_read(legacy: bool, tmp_path: Path) -> None:
    """No epoch, no wrapping, no batch counters, saved on a device that this machine need not have."""
    path, tensors = tmp_path / "best.pth", state("resnet18-mini", 3)
    kept = {k: v.half() if k.startswith("classifier") else v for k, v in tensors.items() if "num_batches" not in k}
    torch.save(kept, path, _use_new_zipfile_serialization=not legacy)
    cpu, gpu = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    if legacy:
        path.write_bytes(path.read_bytes().replace(cpu, gpu))
    else:
        with zipfile.ZipFile(path) as archive:
            entries = {each: archive.read(each) for each in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for each, content in entries.items():
                archive.writestr(each, content.replace(cpu, gpu) if each.endswith("data.pkl") else content)
    network, about = read_published(path)
    counters = {k: torch.tensor(0) for k in network.state_dict() if "num_batches" in k}
    assert_tensors(network, {k: v.float() for k, v in kept.items()} | counters)
    assert about == {"source": "best.pth", "epoch": None, "left_out": []}


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """An architecture decides between networks with equal tensors."""
    path, tensors = tmp_path / "best.pth", state("resnet18-mini", 3)
    torch.save(state("vgg16", 4), path)
    assert read_published(path, "vgg16-dilated")[0].architecture.stride == 8
    with pytest.raises(ValueError, match=r"best.pth: .*'resnet18'.*missing"):
        load_encoder(path, architecture="resnet18")
    broken = {k: v for k, v in tensors.items() if not k.startswith("layer2.0.bn1")}
    broken |= {"decoder.weight": numbers(1, (2, 2)), "bottleneck.0.weight": numbers(2, (128, 7, 3, 3))}
    torch.save({"state_dict": broken}, path)
    found = r"4 missing: layer2.0.bn1.weight,.*1 unexpected: decoder.weight.*\(128, 7, 3, 3\) for \(128, 192, 3, 3\)"
    with pytest.raises(ValueError, match=f"'resnet18-mini'.*{found}"):
        read_published(path)
    for content in ({"state_dict": {"conv1.weight": torch.ones(1)}}, {"classifier.weight": torch.ones(10, 4096)}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"best.pth: .*classifier.weight"):
            read_published(path)


def test_convert_to_our_format_and_back(tmp_path: Path) -> None:
    path, made = tmp_path / "best.pth", tmp_path / "made" / "best.safetensors"
    content = {"epoch": 7, "state_dict": {f"module.{k}": v for k, v in state("resnet18-mini", 3, HEAD).items()}}
    save_with_settings(path, content, {"layers": 18}, {})
    metadata = convert(path, made, ABOUT)
    original = load_encoder(path)
    assert json.loads(json.dumps(metadata)) == json.loads(made.with_suffix(".json").read_text())
    assert metadata["source"] == "best.pth" and metadata["epoch"] == 7 and metadata["left_out"] == sorted(HEAD)
    assert metadata["fingerprint"] == fingerprint(original) and metadata["base"] == ["cat", "dog"]
    back = convert(made, tmp_path / "back.pth")
    content = torch.load(tmp_path / "back.pth", weights_only=True)
    assert content.keys() == {"epoch", "state_dict"} and content["epoch"] == 7
    assert all(name.startswith("module.") for name in content["state_dict"])
    assert equal(load_encoder(made), original) and equal(load_encoder(tmp_path / "back.pth"), original)
    assert back["base"] == ["cat", "dog"] and back == json.loads((tmp_path / "back.json").read_text())
    (tmp_path / "best.json").write_text('{"something": "of another tool"}')
    assert equal(load_encoder(path), original)


def test_convert_keeps_an_architecture_without_a_name(saved: Path, tmp_path: Path) -> None:
    convert(saved, tmp_path / "there.pth", {"metrics": {"epoch": 5}})
    convert(tmp_path / "there.pth", tmp_path / "back.safetensors")
    assert equal(load_encoder(tmp_path / "back.safetensors"), load_encoder(saved))
    tensors = torch.load(tmp_path / "there.pth", weights_only=True)
    assert load_encoder(tmp_path / "there.pth").architecture == TINY and tensors["epoch"] == 5
    tensors["state_dict"]["module.classifier.bias"] += 1
    torch.save(tensors, tmp_path / "there.pth")
    with pytest.raises(ValueError, match=r"there.pth: .*fingerprint"):
        load_encoder(tmp_path / "there.pth")
    for target, found in (("new.safetensors", "one has to be a .pth"), ("new.bin", r"new\.bin|one has")):
        with pytest.raises(ValueError, match=found):
            convert(saved, tmp_path / target)
    with pytest.raises(ValueError, match="3 classes.*1 base"):
        convert(saved, tmp_path / "new.pth", {"base": ["cat"]})


# --- base classes ---


def test_encoders_trained_on_novel_classes_are_refused(tmp_path: Path) -> None:
    """In either spelling of a class; without a list of base classes nothing is checked."""
    for trained, novel, refused in (
        (["cat", "dog"], "person", ""), (["cow", "dog", "cat"], "person", ""), ([], "cat", ""),
        (["dog", "cat"], "person", "another order"), (["person", "cat"], "person", "include person, novel"),
        (["Tennis Racket", "tv"], "tennis_racket", "novel"), (["airplane"], "aeroplane", "novel"),
    ):  # fmt: skip
        metadata = Metadata(TINY, 3, "", corpus="coco", fold=1, base=trained)
        target = replace(fold(classes=(1,)), names={1: novel, 2: "cat", 3: "dog"}, base=(2, 3), novel=(1,))
        with pytest.raises(ValueError, match=f"trained on coco fold 1.*{refused}") if refused else nullcontext():
            check_fold("spec", metadata, target)
    save_encoder(tmp_path, build_encoder(TINY, 2), {"base": ["airplane"]})
    convert(tmp_path / "best.safetensors", tmp_path / "copy.pth")
    for path in (tmp_path, tmp_path / "copy.pth"):
        with pytest.raises(ValueError, match="novel"):
            load_encoder(path, fold=target)
