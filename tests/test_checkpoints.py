"""Checkpoints: what was saved comes back, what does not belong together is refused, and no file runs code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folds import fold
from foreign import HEAD, save_with_settings, state
from safetensors.torch import load_file, save_file

from ttilib.encoders.checkpoints import convert, fingerprint, load_encoder, load_state, save_encoder, save_state
from ttilib.encoders.pspnet import Architecture, PSPNet, build_encoder

TINY = Architecture("tiny", "basic", (1, 1, 1, 1), (4, 4, 8, 8), stem="plain", pyramid=2, features=6)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    network = build_encoder(TINY, 3, seed=1)
    save_encoder(
        tmp_path,
        network,
        {"corpus": "ytvis", "fold": 2, "base": ["cat", "dog"], "metrics": {"val_miou": 0.5}},
    )
    return tmp_path / "best.safetensors"


def test_a_checkpoint_comes_back_as_it_was(saved: Path) -> None:
    images = torch.rand(2, 3, 33, 41)
    expected = build_encoder(TINY, 3, seed=1).eval()
    for spec in (saved, str(saved), saved.parent):
        encoder = load_encoder(spec)
        assert torch.equal(encoder(images), expected(images)) and encoder(images).shape == (2, 6, 5, 6)
        assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    page = json.loads(saved.with_suffix(".json").read_text())
    assert page["architecture"]["features"] == 6 and page["classes"] == 3 and page["base"] == ["cat", "dog"]
    assert page["metrics"] == {"val_miou": 0.5} and page["versions"]["torch"] == torch.__version__
    assert page["fingerprint"] == fingerprint(expected) and re.fullmatch("[0-9a-f]{16}", page["fingerprint"])
    assert sorted(p.name for p in saved.parent.iterdir()) == ["best.json", "best.safetensors"]


def test_a_fingerprint_notices_any_tensor() -> None:
    network = build_encoder(TINY, 3)
    seen = {fingerprint(network)}
    network.bottleneck[1].running_mean[0] += 1e-6
    seen.add(fingerprint(network))
    with torch.no_grad():
        network.classifier.bias[2] += 1
    seen.add(fingerprint(network))
    norm = network.bottleneck[1]
    norm.num_batches_tracked = norm.num_batches_tracked.double()  # 0 in both types, the same bytes
    assert len(seen | {fingerprint(network)}) == 4


def test_a_checkpoint_of_another_architecture_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"best.safetensors: holds a 'tiny' encoder, not 'resnet50'"):
        load_encoder(saved, architecture="resnet50")
    page = json.loads(saved.with_suffix(".json").read_text())
    page["architecture"]["features"] = 7
    saved.with_suffix(".json").write_text(json.dumps(page))
    with pytest.raises(ValueError, match=r"best.safetensors: tensors are not those of a 'tiny' encoder .*bottleneck"):
        load_encoder(saved)


def test_a_page_from_before_an_architecture_had_a_stride_is_understood(tmp_path: Path) -> None:
    page = save_encoder(tmp_path, build_encoder("resnet18-mini", 2))
    del page["architecture"]["stride"]
    (tmp_path / "best.json").write_text(json.dumps(page))
    assert load_encoder(tmp_path, architecture="resnet18-mini").architecture.stride == 8


def test_an_encoder_is_never_saved_under_a_published_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"best.pth: encoders are kept as .safetensors .*give one of .safetensors$"):
        save_encoder(tmp_path / "best.pth", build_encoder(TINY, 2))
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_with_changed_weights_is_refused(saved: Path) -> None:
    tensors = load_file(saved)
    tensors["classifier.bias"] += 1
    save_file(tensors, saved)
    with pytest.raises(ValueError, match="differ in fingerprint"):
        load_encoder(saved)


def test_damaged_and_missing_checkpoints_say_so(saved: Path) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="tensors are not those"):
        load_encoder(saved)
    saved.with_suffix(".json").write_text("{}")
    with pytest.raises(ValueError, match="best.json: does not describe an encoder"):
        load_encoder(saved)
    saved.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="best.json"):
        load_encoder(saved)
    saved.unlink()
    for spec in (saved, saved.parent, saved.parent / "nowhere"):
        with pytest.raises((FileNotFoundError, ValueError), match=str(saved.parent)):
            load_encoder(spec)
    with pytest.raises(ValueError, match=r"last.bin: encoders are kept as .safetensors .* '.bin'"):
        load_encoder(saved.parent / "last.bin")
    save_state(saved.parent / "last.pt", {"network": {"a": torch.ones(1)}, "step": 3})
    with pytest.raises(ValueError, match=r"last.pt: holds no network"):
        load_encoder(saved.parent / "last.pt")


def test_state_files_cannot_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"network": Trap()}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="last.pt: not a training state"):
        load_state(tmp_path / "last.pt")
    assert not (tmp_path / "ran").exists()
    save_state(tmp_path / "last.pt", {"step": 3, "tensor": torch.arange(3)})
    assert load_state(tmp_path / "last.pt")["tensor"].tolist() == [0, 1, 2]


# --- a full disk ---


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Stands for a disk with that much room."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_sentence_and_keeps_what_was_there(tmp_path: Path) -> None:
    last, best, network = tmp_path / "last.pt", tmp_path / "best.safetensors", build_encoder(TINY, 20)
    save_state(last, {"step": 3})
    save_encoder(best, build_encoder(TINY, 2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for path, write in (
        (last, lambda: save_state(last, {"tensor": torch.zeros(10**5)})),
        (best, lambda: save_encoder(best, network)),
    ):
        with no_file_larger_than(4096), pytest.raises(OSError) as caught:
            write()
        assert str(caught.value).startswith(f"{path}: cannot be written (") and "\n" not in str(caught.value)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- published files ---


def equal(one: PSPNet, other: PSPNet) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    tensors = {f"module.{name}": value for name, value in state("resnet18-mini", 4, HEAD).items()}
    path = tmp_path / "published" / "best.pth"
    path.parent.mkdir()
    save_with_settings(path, {"epoch": 7, "state_dict": tensors}, {"layers": 18}, {})
    return path


def test_a_published_file_is_an_encoder_as_it_is(published: Path) -> None:
    encoder = load_encoder(published)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(encoder.classifier.bias, state("resnet18-mini", 4)["classifier.bias"])
    published.with_suffix(".json").write_text('{"something": "of somebody else\'s"}')
    assert equal(load_encoder(published, architecture="resnet18-mini"), encoder)
    with pytest.raises(ValueError, match=r"best.pth: not the tensors of a 'resnet50' encoder"):
        load_encoder(published, architecture="resnet50")
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth: no such checkpoint"):
        load_encoder(published.with_name("nowhere.pth"))


def test_a_published_file_becomes_two_and_one_again(published: Path, tmp_path: Path) -> None:
    about = {"corpus": "ytvis", "fold": 0, "base": ["cat", "dog", "cow"]}
    page = convert(published, tmp_path / "made" / "best.safetensors", about)
    assert json.loads(json.dumps(page)) == json.loads((tmp_path / "made" / "best.json").read_text())
    assert page["source"] == "best.pth" and page["epoch"] == 7 and page["settings"] == {"layers": 18, "more": {}}
    assert page["left_out"] == sorted(HEAD) and page["base"] == about["base"] and page["classes"] == 4
    original, made = load_encoder(published), load_encoder(tmp_path / "made")
    assert equal(original, made) and page["fingerprint"] == fingerprint(original)
    back = convert(tmp_path / "made", tmp_path / "back.pth")
    contents = torch.load(tmp_path / "back.pth", weights_only=True)
    assert contents.keys() == {"epoch", "state_dict"} and contents["epoch"] == 7
    assert all(name.startswith("module.") for name in contents["state_dict"])
    assert equal(load_encoder(tmp_path / "back.pth"), original)
    assert back["base"] == about["base"] and back == json.loads((tmp_path / "back.json").read_text())


def test_any_encoder_survives_the_way_there_and_back(saved: Path, tmp_path: Path) -> None:
    """Also one whose architecture has no name, and one of two with the same tensors: the page knows."""
    convert(saved, tmp_path / "there.pth", {"metrics": {"epoch": 5}})
    page = convert(tmp_path / "there.pth", tmp_path / "back.safetensors")
    assert equal(load_encoder(tmp_path / "back.safetensors"), load_encoder(saved))
    assert load_encoder(tmp_path / "there.pth").architecture == TINY and page["base"] == ["cat", "dog"]
    assert torch.load(tmp_path / "there.pth", weights_only=True)["epoch"] == 5
    tensors = torch.load(tmp_path / "there.pth", weights_only=True)
    tensors["state_dict"]["module.classifier.bias"] += 1
    torch.save(tensors, tmp_path / "there.pth")
    with pytest.raises(ValueError, match=r"there.pth: weights and their .json differ in fingerprint"):
        load_encoder(tmp_path / "there.pth")


def test_a_conversion_that_makes_no_sense_is_refused(published: Path, saved: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.safetensors"
    for source, to in ((published, tmp_path / "new.pth"), (saved, target), (saved.parent, target)):
        with pytest.raises(ValueError, match="one of the two has to be a .pth, the other a .safetensors"):
            convert(source, to)
    with pytest.raises(ValueError, match="tells 4 classes apart, background among them, but 2 base classes are named"):
        convert(published, target, {"base": ["cat", "dog"]})
    with pytest.raises(ValueError, match="encoders are kept as .safetensors"):
        convert(published, tmp_path / "new.bin")
    with pytest.raises(FileNotFoundError, match=r"missing.pth: no such checkpoint"):
        convert(tmp_path / "missing.pth", target)
    assert not target.exists() and not target.with_suffix(".json").exists()


# --- what an encoder has seen ---


def seen_by(path: Path, corpus: str, number: int, base: list[str]) -> Path:
    path = path / "best.safetensors"
    save_encoder(path, build_encoder(TINY, 1 + len(base)), {"corpus": corpus, "fold": number, "base": base})
    return path


def named(novel: dict[int, str], base: dict[int, str], corpus: str = "ytvis"):
    made = fold(corpus=corpus, classes=tuple(novel))
    return replace(made, names=novel | base, base=tuple(base), novel=tuple(novel))


def test_an_encoder_that_has_seen_novel_classes_is_refused(tmp_path: Path) -> None:
    division = named({1: "person", 5: "skateboard"}, {2: "cat", 3: "dog"})
    fine = seen_by(tmp_path / "a", "ytvis", 0, ["cat", "dog"])
    assert equal(load_encoder(fine, fold=division), load_encoder(fine))
    assert load_encoder(seen_by(tmp_path / "b", "coco", 3, ["cow", "dog", "cat"]), fold=division)
    wrong = seen_by(tmp_path / "c", "ytvis", 1, ["skateboard", "cat", "person"])
    with pytest.raises(ValueError) as caught:
        load_encoder(wrong, fold=division)
    assert str(caught.value) == (
        f"{wrong}: trained on ytvis fold 1, whose base classes include person, skateboard, novel in ytvis fold 0; "
        "take the encoder of this fold"
    )
    load_encoder(wrong)
    convert(wrong, tmp_path / "c.pth")
    for place in (wrong.parent, tmp_path / "c.pth"):
        with pytest.raises(ValueError, match="include person, skateboard, novel"):
            load_encoder(place, fold=division)


def test_classes_are_the_same_in_either_spelling(tmp_path: Path) -> None:
    names = ["airplane", "dining table", "Tennis Racket", "tv", "couch", "motorcycle", "potted plant"]
    seen = seen_by(tmp_path, "coco", 1, names)
    others = "aeroplane diningtable tennis_racket tvmonitor sofa motorbike pottedplant"
    for name in others.split():
        with pytest.raises(ValueError, match=f"coco fold 1, whose base classes include {name}, novel in pascal"):
            load_encoder(seen, fold=named({1: name}, {2: "cat"}, "pascal"))


def test_base_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    division = named({1: "person"}, {2: "cat", 3: "dog"})
    with pytest.raises(ValueError, match=r"trained on ytvis fold 0 with the base classes of ytvis fold 0 in another"):
        load_encoder(seen_by(tmp_path, "ytvis", 0, ["dog", "cat"]), fold=division)


def test_an_encoder_that_does_not_say_what_it_has_seen_passes(published: Path, tmp_path: Path) -> None:
    division = named({1: "person"}, {2: "cat", 3: "dog"})
    save_encoder(tmp_path / "quiet.safetensors", build_encoder(TINY, 3))
    for spec in (published, tmp_path / "quiet.safetensors", "torch.nn:Identity"):
        assert callable(load_encoder(spec, fold=division))
    with pytest.warns(UserWarning, match="untrained"):
        load_encoder("resnet18-mini", fold=division)
