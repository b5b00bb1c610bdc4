# SPDX-License-Identifier: Apache-2.0

import pytest
import timm
import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import Tensor, nn

from blemish_core.detectors.common.backbone import Backbone
from blemish_core.detectors.patchcore.transformer_features import (
    SymbolicRotaryEmbedding,
    TransformerFeatures,
)
from blemish_core.imaging.geometry import ANY_SIZE
from blemish_core.runtimes import openvino_runtime
from blemish_core.runtimes.openvino_runtime import NotConvertible, OpenVinoRuntime

SMALL = "test_vit"
"""A transformer of timm for tests, with patches of 16 px and a native input of 160 px."""
DINO_V2 = "vit_small_patch14_reg4_dinov2"


def features(name: str) -> TransformerFeatures:
    torch.manual_seed(5)
    extractor = TransformerFeatures(Backbone.named(name)).eval()
    for weight in extractor.parameters():  # initial weights hardly depend on the image
        nn.init.normal_(weight, std=weight[0].numel() ** -0.5 if weight.ndim == 2 else 0.2)
    return extractor


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(6))


def test_feature_has_length_1() -> None:
    with torch.inference_mode():
        maps = features(SMALL)(noise(2, 3, 96, 128))
    assert maps.norm(dim=1).sub(1).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (208, 80)])
@pytest.mark.parametrize("name", [SMALL, DINO_V2])
def test_grid_has_the_stride_of_the_backbone(name: str, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        maps = features(name)(noise(1, 3, *size))
    assert Backbone.named(name).stride == 16
    assert maps.shape[2:] == (size[0] // 16, size[1] // 16)


def test_features_are_the_normalised_patch_tokens_of_the_last_block() -> None:
    extractor = features(SMALL)
    images = noise(2, 3, 160, 160)  # the native size, at which positions are not interpolated
    with torch.inference_mode():
        tokens = extractor.feature_extractor.forward_features(images)[:, 1:]
        maps = extractor(images)
    expected = tokens / tokens.norm(dim=2, keepdim=True)
    assert maps.flatten(2).transpose(1, 2).sub(expected).abs().max() < 1e-5


def test_patches_of_14_px_see_the_image_scaled() -> None:
    """An even image stays even, and its size is a multiple of the patch only after scaling."""
    extractor = features(DINO_V2)
    seen: list[torch.Size] = []
    extractor.feature_extractor.patch_embed.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].shape)
    )
    with torch.inference_mode():
        extractor(torch.full((1, 3, 96, 128), 0.5))
    assert seen == [(1, 3, 84, 112)]


def test_network_with_stages_is_not_a_transformer() -> None:
    with pytest.raises(ValueError, match="resnet18 is not a transformer"):
        TransformerFeatures(Backbone.named("resnet18"))


@pytest.mark.parametrize("grid", [(16, 16), (5, 9), (40, 2)])
def test_symbolic_rotary_embedding_equals_that_of_timm(grid: tuple[int, int]) -> None:
    rotary = RotaryEmbeddingDinoV3(64)
    assert (
        SymbolicRotaryEmbedding(rotary).get_embed(grid).sub(rotary.get_embed(list(grid))).abs().max() < 1e-6
    )


def test_rotary_embedding_of_dino_v3_is_replaced_by_the_symbolic_one() -> None:
    extractor = TransformerFeatures(Backbone.named("vit_small_patch16_dinov3"))
    assert isinstance(extractor.feature_extractor.rope, SymbolicRotaryEmbedding)


def test_weights_have_the_names_of_timm() -> None:
    name = "vit_small_patch16_dinov3"
    own = TransformerFeatures(Backbone.named(name)).feature_extractor.state_dict()
    assert own.keys() == timm.create_model(name, pretrained=False).state_dict().keys()


def test_openvino_gives_the_features_of_torch_for_inputs_of_all_sizes() -> None:
    extractor = features(SMALL)
    runtime = OpenVinoRuntime.of(extractor, ANY_SIZE, threads=1)
    for shape in ((1, 3, 256, 272), (3, 3, 96, 160), (1, 3, 512, 64)):
        images = noise(*shape)
        with torch.inference_mode():
            ours = extractor(images)
        (its,) = runtime(images)
        assert its.shape == ours.shape
        assert float((its - ours).abs().max()) < 1e-5


class FixedSize(nn.Module):
    """A network that makes the size of its input a constant when it is exported."""

    symbolic_sizes = True

    def forward(self, images: Tensor) -> Tensor:
        return images * float(images.shape[2])


def test_network_of_a_fixed_size_is_refused_by_openvino() -> None:
    openvino_runtime.CONVERSIONS.clear()
    with pytest.raises(NotConvertible, match="depends on the size of its input"):
        OpenVinoRuntime.of(FixedSize(), ANY_SIZE)
