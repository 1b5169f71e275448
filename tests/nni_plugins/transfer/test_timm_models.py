"""A found network under a name in timm: what timm says of it is what it gives, with weights and without."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nni_plugins.run.result import load_net
from nni_plugins.transfer.timm_models import register

EXAMPLE = Path(__file__).parents[3] / "exported" / "example"
numbers = itertools.count()


@pytest.fixture(scope="module")
def timm() -> Any:
    return pytest.importorskip("timm", reason="timm is an optional extra: pip install nni-plugins[timm]")


@pytest.fixture
def name(timm: Any) -> str:
    """A fresh name of the example's network."""
    del timm
    name = f"found_on_digits_{next(numbers)}"
    register(name, EXAMPLE)
    return name


def test_pretrained_it_has_the_logits_of_the_reference(timm: Any, name: str) -> None:
    reference = np.load(EXAMPLE / "reference.npz")
    model = timm.create_model(name, pretrained=True).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(reference["images"]))
    np.testing.assert_allclose(found.numpy(), reference["logits"], atol=1e-4)
    assert model.pretrained_cfg["input_size"] == (1, 16, 16) and model.num_classes == 10


@pytest.mark.parametrize("out_indices", [(0, 1, 2), (1, 2), (-1,)])
def test_feature_info_agrees_with_what_comes(timm: Any, name: str, out_indices: tuple[int, ...]) -> None:
    model = timm.create_model(name, pretrained=True, features_only=True, out_indices=out_indices).eval()
    images = torch.randn(2, 1, 32, 32)
    maps = model(images)
    info = model.feature_info
    assert [m.shape[1] for m in maps] == info.channels()
    assert [32 // m.shape[2] for m in maps] == info.reduction()
    wanted = list(load_net(EXAMPLE).forward_features(images).values())  # type: ignore[operator]
    for found, index in zip(maps, out_indices, strict=True):
        torch.testing.assert_close(found, wanted[index])


def test_a_map_that_there_is_not(timm: Any, name: str) -> None:
    with pytest.raises(ValueError, match=r"has 3 feature maps, 0 to 2, got \(0, 3\)"):
        timm.create_model(name, features_only=True, out_indices=(0, 3))


def test_every_weight_of_a_backbone_gets_a_gradient(timm: Any, name: str) -> None:
    model = timm.create_model(name, features_only=True)
    sum(m.square().mean() for m in model(torch.randn(4, 1, 16, 16))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_other_classes_and_channels_take_the_rest_of_the_weights(timm: Any, name: str) -> None:
    model = timm.create_model(name, pretrained=True, num_classes=3, in_chans=3).eval()
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 3)
    ours = load_net(EXAMPLE).state_dict()
    theirs = {key.removeprefix("net."): tensor for key, tensor in model.state_dict().items()}
    others = {key for key in ours if ours[key].shape != theirs[key].shape or not torch.equal(ours[key], theirs[key])}
    assert others == {"stem0.0.weight", "classifier.weight", "classifier.bias"}


def test_without_classes_it_gives_what_the_classifier_reads(timm: Any, name: str) -> None:
    whole = timm.create_model(name, pretrained=True).eval()
    images = torch.randn(2, 1, 16, 16)
    logits = whole(images)
    classifier = whole.get_classifier()
    whole.reset_classifier(0)
    features = whole(images)
    assert features.shape == (2, whole.num_features)
    torch.testing.assert_close(classifier(features), logits)
    assert timm.create_model(name, num_classes=0)(images).shape == features.shape


def test_wrong_input_is_one_sentence(timm: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="identifier in lower case such as found_on_digits, got 'my-net'"):
        register("my-net", EXAMPLE)
    with pytest.raises(ValueError, match="timm has a model 'resnet18' already; choose another name"):
        register("resnet18", EXAMPLE)
    with pytest.raises(FileNotFoundError, match=r"has no genotype\.json; give a folder"):
        register("nothing_there", tmp_path)
    with pytest.raises(ValueError, match=r"global_pool must be avg, .* got 'max'"):
        timm.create_model(name).reset_classifier(2, "max")


def test_without_timm_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"timm is missing .*pip install nni-plugins\[timm\]"):
        register("found", EXAMPLE)
