"""Checkpoints: what was saved comes back, what does not match is refused, published files become ours and back."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folds import fold
from foreign import HEAD, TINY, numbers, save_with_settings, state
from safetensors.torch import load_file, save_file
from torch import Tensor

from ttilib.encoders.checkpoints import convert, fingerprint, load_encoder, load_state, read_published, save_encoder
from ttilib.encoders.pspnet import ARCHITECTURES, PSPNet, build_encoder

ABOUT = {"corpus": "ytvis", "fold": 2, "base": ["cat", "dog"], "metrics": {"val_miou": 0.5}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_encoder(tmp_path, build_encoder(TINY, 3, seed=1), ABOUT)
    return tmp_path / "best.safetensors"


def equal(one: PSPNet, other: PSPNet) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_a_checkpoint_comes_back_as_it_was(saved: Path) -> None:
    expected = build_encoder(TINY, 3, seed=1)
    for spec in (str(saved), saved.parent):
        encoder = load_encoder(spec)
        assert equal(encoder, expected) and encoder.architecture == TINY
        assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    metadata = json.loads(saved.with_suffix(".json").read_text())
    assert ABOUT.items() <= metadata.items() and metadata["architecture"]["features"] == 6 and metadata["classes"] == 3
    assert metadata["fingerprint"] == fingerprint(expected) and metadata["versions"]["torch"] == torch.__version__
    del metadata["architecture"]["stride"]  # metadata files of earlier versions have none
    saved.with_suffix(".json").write_text(json.dumps(metadata))
    assert load_encoder(saved).architecture.stride == 8


def test_a_fingerprint_notices_any_tensor_and_its_type() -> None:
    network = build_encoder(TINY, 3)
    seen, norm = {fingerprint(network)}, network.bottleneck[1]
    norm.running_mean[0] += 1e-6
    seen.add(fingerprint(network))
    norm.num_batches_tracked = norm.num_batches_tracked.double()  # 0 in both types, the same bytes
    assert len(seen | {fingerprint(network)}) == 3


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("", "", "best.safetensors: .*fingerprint"), ('"features": 6', '"features": 7', "'tiny'.*bottleneck"),
        ("[1, 1, 1, 1]", "[1000000, 1, 1, 1]", r"best.json: architecture.blocks\[0\]"),
        ('"dog"', "5", r"best.json: base\[1\]"),
    ],
)  # fmt: skip
def test_damaged_checkpoints_are_refused(saved: Path, old: str, new: str, found: str) -> None:
    """Metadata in which `old` became `new`, or another bias; also not converted."""
    text, tensors = json.dumps(json.loads(saved.with_suffix(".json").read_text())), load_file(saved)
    tensors["classifier.bias"] += old == ""
    save_file(tensors, saved)
    saved.with_suffix(".json").write_text(text.replace(old, new))
    for use in (load_encoder, lambda path: convert(path, path.with_name("made.pth"))):
        with pytest.raises(ValueError, match=found):
            use(saved)
    assert not list(saved.parent.glob("made*"))


def test_the_state_of_a_run_cannot_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"network": Trap()}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="last.pt"):
        load_state(tmp_path / "last.pt")
    assert not (tmp_path / "ran").exists()


def assert_tensors(network: PSPNet, tensors: dict[str, Tensor]) -> None:
    found = network.state_dict()
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(found[name], value), name
        assert found[name].device.type == "cpu" and found[name].is_contiguous()


@pytest.mark.parametrize(
    ("name", "classes", "prefix", "head"), [("resnet50", 31, "", HEAD), ("vgg16", 16, "module.", {})]
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
def test_an_old_state_of_a_gpu_in_half_precision_is_read(
    legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No epoch, no wrapping, no batch counters, saved on a device that this machine need not have."""
    path, tensors = tmp_path / "best.pth", state("resnet18-mini", 3)
    kept = {k: v.half() if k.startswith("classifier") else v for k, v in tensors.items() if "num_batches" not in k}
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(kept, path, _use_new_zipfile_serialization=not legacy)
    assert b"cuda:0" in path.read_bytes()
    network, about = read_published(path)
    counters = {k: torch.tensor(0) for k in network.state_dict() if "num_batches" in k}
    assert_tensors(network, {k: v.float() for k, v in kept.items()} | counters)
    assert about == {"source": "best.pth", "epoch": None, "left_out": []}


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """An architecture decides between networks with equal tensors."""
    path, tensors = tmp_path / "best.pth", state("resnet18-mini", 3)
    torch.save(state("vgg16", 4), path)
    assert read_published(path, ARCHITECTURES["vgg16-dilated"])[0].architecture.stride == 8
    with pytest.raises(ValueError, match=r"best.pth: .*'resnet18'.*missing"):
        read_published(path, ARCHITECTURES["resnet18"])
    broken = {k: v for k, v in tensors.items() if not k.startswith("layer2.0.bn1")}
    broken |= {"decoder.weight": numbers(1, (2, 2)), "bottleneck.0.weight": numbers(2, (128, 7, 3, 3))}
    torch.save({"state_dict": broken}, path)
    found = r"4 missing: layer2.0.bn1.weight,.*1 unexpected: decoder.weight.*\(128, 7, 3, 3\) for \(128, 192, 3, 3\)"
    with pytest.raises(ValueError, match=f"'resnet18-mini'.*{found}"):
        read_published(path)


def test_convert_to_our_format_and_back(tmp_path: Path) -> None:
    path, made, back = tmp_path / "best.pth", tmp_path / "made" / "best.safetensors", tmp_path / "back.pth"
    content = {"epoch": 7, "state_dict": {f"module.{k}": v for k, v in state("resnet18-mini", 3, HEAD).items()}}
    save_with_settings(path, content, {"layers": 18}, {})
    metadata, original = convert(path, made, ABOUT), load_encoder(path)
    assert json.loads(json.dumps(metadata)) == json.loads(made.with_suffix(".json").read_text())
    assert metadata["source"] == "best.pth" and metadata["epoch"] == 7 and metadata["left_out"] == sorted(HEAD)
    assert metadata["fingerprint"] == fingerprint(original) and metadata["base"] == ["cat", "dog"]
    assert convert(made, back)["base"] == ["cat", "dog"]
    content = torch.load(back, weights_only=True)
    assert content.keys() == {"epoch", "state_dict"} and content["epoch"] == 7
    assert all(name.startswith("module.") for name in content["state_dict"])
    assert equal(load_encoder(made), original) and equal(load_encoder(back), original)


def test_convert_keeps_an_architecture_without_a_name_and_its_fingerprint(saved: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.pth"
    convert(saved, there)
    assert equal(load_encoder(there), load_encoder(saved)) and load_encoder(there).architecture == TINY
    tensors = torch.load(there, weights_only=True)
    tensors["state_dict"]["module.classifier.bias"] += 1
    torch.save(tensors, there)
    with pytest.raises(ValueError, match=r"there.pth: .*fingerprint"):
        load_encoder(there)
    with pytest.raises(ValueError, match="3 classes.*1 base"):
        convert(saved, tmp_path / "new.pth", {"base": ["cat"]})


@pytest.mark.parametrize(
    ("trained", "novel", "refused"),
    [
        (["cow", "dog", "cat"], "person", ""), ([], "cat", ""),
        (["dog", "cat"], "person", "another order"), (["person", "cat"], "person", "include person, novel"),
        (["Tennis Racket", "tv"], "tennis_racket", "novel"), (["airplane"], "aeroplane", "novel"),
    ],
)  # fmt: skip
def test_encoders_trained_on_novel_classes_are_refused(trained: list, novel: str, refused: str, tmp_path: Path) -> None:
    """In either spelling of a class; without a list of base classes nothing is checked."""
    target = replace(fold(classes=(1,)), names={1: novel, 2: "cat", 3: "dog"}, base=(2, 3), novel=(1,))
    save_encoder(tmp_path, build_encoder(TINY, len(trained) + 1), {"corpus": "coco", "fold": 1, "base": trained})
    convert(tmp_path / "best.safetensors", tmp_path / "copy.pth")
    for path in (tmp_path, tmp_path / "copy.pth"):
        expected = pytest.raises(ValueError, match=f"trained on coco fold 1.*{refused}") if refused else nullcontext()
        with expected:
            load_encoder(path, fold=target)
