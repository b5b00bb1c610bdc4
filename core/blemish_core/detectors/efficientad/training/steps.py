# SPDX-License-Identifier: Apache-2.0
"""The steps in which EfficientAD's student and autoencoder learn, one image each, within a time."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish_core.detectors.base import ReadImage, TrainingContext
from blemish_core.detectors.efficientad.detector import EfficientAd, EfficientAdSettings
from blemish_core.detectors.efficientad.training import start as start
from blemish_core.detectors.efficientad.training.checkpoint import Checkpoint, Reached
from blemish_core.detectors.efficientad.training.losses import augmented, losses_of_step, standardised
from blemish_core.detectors.efficientad.training.photographs import Photographs

_LEARNING_RATE = 1e-4
_WEIGHT_DECAY = 1e-5
_DECAYED_SHARE = 0.05  # of the steps, at the end, at a tenth of the learning rate
_GREY_SHARE = 0.3  # of the photographs
_CHECK_EVERY = 500  # steps
_PATIENCE = 10  # checks without improvement
_IMPROVED = 0.995  # of the best so far
_SAVE_EVERY_S = 60.0
# Where the student's last layer is solved for, the autoencoder learns alone first: for this share of the
# time or the steps, and at this rate.
_ALONE_SHARE = 0.2
_ALONE_RATE = 1e-3


class Surface:
    """The good images, prepared when first asked for and kept where memory allows."""

    def __init__(self, detector: EfficientAd, images: Sequence[ReadImage], terms: TrainingContext) -> None:
        self._detector = detector
        self._images = images
        self._device = torch.device(terms.device)
        self._room_bytes = terms.max_feature_bytes
        self._prepared: dict[int, Tensor] = {}
        self._answered: dict[int, Tensor] = {}

    def prepared(self, number: int) -> Tensor:
        """The model's input, (1, 3, S, S), on the device."""
        found = self._prepared.get(number)
        if found is None:
            found = self._detector.prepare(self._images[number]())[None].to(self._device)
            self._keep(self._prepared, number, found)
        return found

    def answered(self, number: int) -> Tensor:
        """The teacher's answer, (1, 384, R, R): the same at every step."""
        found = self._answered.get(number)
        if found is None:
            with torch.no_grad():
                found = self._detector.model.teacher(self.prepared(number))
            self._keep(self._answered, number, found)
        return found

    def _keep(self, where: dict[int, Tensor], number: int, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if size <= self._room_bytes:
            self._room_bytes -= size
            where[number] = value


class Steps:
    """The training of student and autoencoder."""

    def __init__(
        self,
        detector: EfficientAd,
        surface: Surface,
        learned: NDArray[np.int64],
        judging: NDArray[np.int64],
        others: Photographs,
        terms: TrainingContext,
        settings: EfficientAdSettings,
    ) -> None:
        self._model = detector.model
        self._surface = surface
        self._learned = [int(number) for number in learned]
        self._judging = [int(number) for number in judging]
        self._others = others
        self._terms = terms
        self._settings = settings
        self._learning = nn.ModuleDict({"student": self._model.student, "ae": self._model.ae})
        self._optimizer = torch.optim.Adam(self._learning.parameters(), weight_decay=_WEIGHT_DECAY)
        self._checkpoint = Checkpoint(terms.checkpoint)
        self._reached = self._checkpoint.load(self._learning, self._optimizer)
        self._began_s = time.monotonic() - self._reached.spent_s

    def run(self) -> dict[str, str]:
        """Train until the steps, the time or the progress is used up; say how that went."""
        solved = start.is_solved_for(self._settings, self._terms.device)
        if solved and not self._reached.begun:
            self._begin()
        step, best, stale = self._reached.step, self._reached.best, self._reached.stale
        saved_s = time.monotonic()
        self._to_learn()
        while True:
            share = self._share(step)
            # In all, at the pace so far.
            planned = max(step, round(step / share)) if step else self._settings.max_steps
            self._terms.progress("training", step, planned, "steps")
            if share >= 1 or stale >= _PATIENCE:
                break
            self._step(step, _LEARNING_RATE * (1.0 if share < 1 - _DECAYED_SHARE else 0.1))
            step += 1
            if step % _CHECK_EVERY == 0:
                loss = self._unseen_loss()
                best, stale = (loss, 0) if loss < _IMPROVED * best else (best, stale + 1)
            if time.monotonic() - saved_s > _SAVE_EVERY_S:
                saved_s = time.monotonic()
                self._save(Reached(begun=True, step=step, best=best, stale=stale))
        self._terms.progress("training", step, step, "steps")
        self._model.eval()
        ended_by = "steps" if step >= self._settings.max_steps else "time"
        return {
            "steps": str(step),
            "ended by": "no more progress" if stale >= _PATIENCE else ended_by,
            "start": "last layer solved for" if solved else "random weights",
        }

    def _share(self, step: int) -> float:
        """How much of the steps or of the time is used up, whichever is more."""
        share = step / self._settings.max_steps
        if self._settings.max_seconds:
            share = max(share, (time.monotonic() - self._began_s) / self._settings.max_seconds)
        return share

    def _begin(self) -> None:
        """Have the autoencoder learn alone for a while, then solve for the student's last layer."""
        self._alone()
        self._model.eval()
        start.take_over(self._model)
        random = np.random.default_rng(self._terms.seed)
        squares = start.LeastSquares(self._model, len(self._learned), random)
        with torch.inference_mode():
            for done, number in enumerate(self._learned):
                self._terms.progress("start", done, len(self._learned), "images")
                image = self._surface.prepared(number)
                restored = self._model.ae(image, image.shape[-2:])
                squares.add_good(image, torch.cat([self._taught(number), restored], dim=1))
                squares.add_other(self._view(random, image))
            squares.solve()
        self._terms.progress("start", len(self._learned), len(self._learned), "images")
        self._reached = Reached(begun=True)
        self._save(self._reached)

    def _alone(self) -> None:
        self._to_learn()
        optimizer = torch.optim.Adam(
            self._model.ae.parameters(), lr=_ALONE_RATE, weight_decay=_WEIGHT_DECAY
        )
        random = np.random.default_rng(self._terms.seed)
        step = 0
        while (share := self._share(step)) < _ALONE_SHARE:
            total = round(step / share * _ALONE_SHARE) if step else 0
            self._terms.progress("autoencoder", step, total, "steps")
            number = int(random.choice(self._learned))
            image = self._surface.prepared(number)
            restored = self._model.ae(image, image.shape[-2:])
            optimizer.zero_grad(set_to_none=True)
            loss = (self._taught(number) - restored).square().mean()
            loss.backward()
            optimizer.step()
            step += 1
        self._terms.progress("autoencoder", step, step, "steps")

    def _step(self, step: int, learning_rate: float) -> None:
        # Of its own for each step, so that an attempt that goes on does as one that was never interrupted.
        random = np.random.default_rng([self._terms.seed, step])
        torch.manual_seed(int(random.integers(2**62)))
        number = int(random.choice(self._learned))
        image = self._surface.prepared(number)
        view, other_light = self._view(random, image), augmented(image, random)
        losses = losses_of_step(self._model, image, self._taught(number), view, other_light)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]  # torch left it so
        self._optimizer.step()

    def _taught(self, number: int) -> Tensor:
        """The teacher's standardised answer to a learned image, (1, 384, R, R)."""
        return standardised(self._model, self._surface.answered(number))

    def _view(self, random: np.random.Generator, image: Tensor) -> Tensor:
        """A photograph of something else, as large as ``image`` and beside it."""
        return self._others.view(image.shape[-1], random, grey_share=_GREY_SHARE)[None].to(image.device)

    def _unseen_loss(self) -> float:
        """How far student, teacher and autoencoder differ on good images that are not learned."""
        self._model.eval()
        with torch.inference_mode():
            maps = [self._model.get_maps(self._surface.prepared(number)) for number in self._judging[:8]]
        self._to_learn()
        return float(np.mean([float(st.mean() + ae.mean()) for st, ae in maps]))

    def _to_learn(self) -> None:
        self._model.train()
        self._model.teacher.eval()

    def _save(self, reached: Reached) -> None:
        spent_s = time.monotonic() - self._began_s
        self._checkpoint.save(self._learning, self._optimizer, replace(reached, spent_s=spent_s))
