# SPDX-License-Identifier: Apache-2.0
"""Features of transformers: tokens of patches, as in AnomalyDINO (Damm et al., arXiv:2405.14529).

The tokens of the last block are normalised by the network's final layer and then to length 1. So the
Euclidean distance d of two features and their cosine distance c, which the paper uses, order patches
equally: d * d = 2 * c. Class and register tokens are dropped.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors.common.backbone import Backbone


class TransformerModel(nn.Module):
    """A transformer and the memory bank of its features, named as in anomalib's models."""

    memory_bank: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.feature_extractor = TransformerFeatures(backbone)
        self.register_buffer("memory_bank", torch.empty(0))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        """Accept a bank of any size."""
        if (bank := state_dict.get(f"{prefix}memory_bank")) is not None:
            self.memory_bank = torch.empty_like(bank)
        super()._load_from_state_dict(state_dict, prefix, *others)


class TransformerFeatures(nn.Module):
    """Images (B, 3, h, w) to features (B, D, rows, columns), one of length 1 for each patch.

    Images are scaled so that patches cover ``Backbone.stride`` px of the original. Position embeddings are
    interpolated to the grid.
    """

    symbolic_sizes = True
    """Computations depend on the size of the input, so an exported network needs it as a symbol."""

    def __init__(self, backbone: Backbone) -> None:
        """Build the network with random weights.

        Raises:
            ValueError: if the backbone is not a transformer.
        """
        super().__init__()
        if backbone.patch_px is None:
            raise ValueError(f"{backbone.name} is not a transformer; this is a bug")
        network: Any = timm.create_model(
            backbone.timm_name, pretrained=False, num_classes=0, dynamic_img_size=True
        ).eval()
        # Antialiased interpolation of positions cannot be converted to OpenVINO. anomalib also replaces it
        # for the whole process.
        module = sys.modules[type(network).__module__]
        if hasattr(module, "resample_abs_pos_embed"):
            vars(module)["resample_abs_pos_embed"] = _interpolated_positions
        if isinstance(rotary := getattr(network, "rope", None), RotaryEmbeddingDinoV3):
            network.rope = _symbolic(rotary)
        self.feature_extractor = network
        self.out_dims: list[int] = [network.num_features]
        self.scale = backbone.patch_px / backbone.stride

    def extra_repr(self) -> str:
        """Distinguish networks of equal modules and weights: OpenVINO's cache is keyed by both."""
        return f"scale={self.scale}"

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D, rows, columns)."""
        if self.scale != 1:
            images = functional.interpolate(images, scale_factor=self.scale, mode="bilinear")
        (tokens,) = self.feature_extractor.forward_intermediates(
            images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return functional.normalize(tokens, dim=1)


class SymbolicRotaryEmbedding(nn.Module):
    """DINOv3's rotary embedding of positions, computed such that torch.export keeps the size of the grid.

    timm converts the size to float, which makes it a constant of the exported program.
    """

    def __init__(self, rotary: RotaryEmbeddingDinoV3) -> None:
        """Take the periods of timm's embedding."""
        super().__init__()
        self.rotary = rotary

    def get_embed(self, shape: Sequence[int]) -> Tensor:
        """Return sines and cosines (rows * columns, 2 * dim) for a grid of ``shape``."""
        rotary: Any = self.rotary
        periods: Tensor = rotary.periods
        axes = [
            (torch.arange(length, device=periods.device, dtype=periods.dtype) + 0.5) / length
            for length in shape
        ]
        positions = 2 * torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1) - 1
        angles = (2 * torch.pi * positions.flatten(0, 1)[:, :, None] / periods).flatten(1)
        sines, cosines = angles.sin(), angles.cos()
        return torch.cat([sines, sines, cosines, cosines], dim=-1)


def _symbolic(rotary: RotaryEmbeddingDinoV3) -> nn.Module:
    """Return an equal embedding that can be exported; for variants of DINOv3's, the given one."""
    symbolic = SymbolicRotaryEmbedding(rotary)
    grid = [2, 3]
    expected = rotary.get_embed(grid)
    equal = expected.shape == symbolic.get_embed(grid).shape and torch.allclose(
        expected, symbolic.get_embed(grid), atol=1e-5
    )
    return symbolic if equal else rotary


_interpolated_positions = partial(resample_abs_pos_embed, antialias=False)
