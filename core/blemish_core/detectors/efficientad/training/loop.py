# SPDX-License-Identifier: Apache-2.0
"""The training loop of EfficientAD's student and autoencoder: steps of one image within a time limit."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish_core.detectors.base import ReadImage, TrainingContext
from blemish_core.detectors.common.masking import split_looks
from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.efficientad.training import start
from blemish_core.detectors.efficientad.training.checkpoint import Checkpoint, TrainingState
from blemish_core.detectors.efficientad.training.losses import augment, losses_of_step, standardised
from blemish_core.detectors.efficientad.training.photographs import Photographs
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd

_LEARNING_RATE = 1e-4
_WEIGHT_DECAY = 1e-5
_DECAYED_SHARE = 0.05  # of the steps, the last ones, at a tenth of the learning rate
_GREY_SHARE = 0.3  # of the photographs
_CHECK_EVERY = 500  # steps
_PATIENCE = 10  # checks without improvement
_IMPROVED = 0.995  # of the best loss so far
_SAVE_EVERY_S = 60.0
# The autoencoder is trained alone before the student's last layer is solved for: for this share of the time
# or the steps, and at this learning rate.
_WARMUP_SHARE = 0.2
_WARMUP_RATE = 1e-3


class TrainingImages:
    """Good images, prepared on first use and cached as far as memory allows."""

    def __init__(
        self, detector: TrainableEfficientAd, images: Sequence[ReadImage], context: TrainingContext
    ) -> None:
        self._detector = detector
        self._images = images
        self._device = torch.device(context.device)
        self._free_bytes = context.max_feature_bytes
        self._prepared: dict[int, Tensor] = {}
        self._teacher_features: dict[int, Tensor] = {}

    def prepared(self, number: int) -> Tensor:
        """Return the network's input, (1, 3, S, S), on the device."""
        (pixels,), _ = split_looks([self.input(number)])
        return pixels[None]

    def looks(self, number: int) -> Tensor | None:
        """Return the mask of an image, bool (S, S), or None if there is none."""
        return split_looks([self.input(number)])[1][0]

    def input(self, number: int) -> Tensor:
        """Return the result of ``Detector.prepare``, on the device."""
        cached = self._prepared.get(number)
        if cached is None:
            cached = self._detector.prepare(self._images[number]()).to(self._device)
            self._cache(self._prepared, number, cached)
        return cached

    def teacher_features(self, number: int) -> Tensor:
        """Return the teacher's features, (1, 384, R, R), which are the same at every step."""
        cached = self._teacher_features.get(number)
        if cached is None:
            with torch.no_grad():
                cached = self._detector.model.teacher(self.prepared(number))
            self._cache(self._teacher_features, number, cached)
        return cached

    def _cache(self, cache: dict[int, Tensor], number: int, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if size <= self._free_bytes:
            self._free_bytes -= size
            cache[number] = value


class TrainingLoop:
    """The training of student and autoencoder."""

    def __init__(
        self,
        detector: TrainableEfficientAd,
        images: TrainingImages,
        learned: NDArray[np.int64],
        validation: NDArray[np.int64],
        photographs: Photographs,
        context: TrainingContext,
        settings: EfficientAdSettings,
    ) -> None:
        """Resume from the checkpoint of the context, if there is one.

        Args:
            detector: detector to train.
            images: all good images.
            learned: numbers of the images to train on.
            validation: numbers of the images that decide when training stops improving.
            photographs: photographs of anything but the surface.
            context: resources and limits.
            settings: the detector's settings.
        """
        self._model = detector.model
        self._images = images
        self._learned = [int(number) for number in learned]
        self._validation = [int(number) for number in validation]
        self._photographs = photographs
        self._context = context
        self._settings = settings
        self._trained = nn.ModuleDict({"student": self._model.student, "ae": self._model.ae})
        self._optimizer = torch.optim.Adam(self._trained.parameters(), weight_decay=_WEIGHT_DECAY)
        self._checkpoint = Checkpoint(context.checkpoint)
        self._state = self._checkpoint.load(self._trained, self._optimizer)
        self._began_s = time.monotonic() - self._state.spent_s

    def run(self) -> dict[str, str]:
        """Train until the steps or the time are used up, or the loss stops improving; return facts."""
        solved = start.is_solved_for(self._settings, self._context.device)
        if solved and not self._state.begun:
            self._solve_start()
        step, best, stale = self._state.step, self._state.best, self._state.stale
        saved_s = time.monotonic()
        self._set_training_mode()
        while True:
            share = self._used_share(step)
            # Total number of steps at the present pace.
            planned = max(step, round(step / share)) if step else self._settings.max_steps
            self._context.progress("training", step, planned, "steps")
            if share >= 1 or stale >= _PATIENCE:
                break
            self._step(step, _LEARNING_RATE * (1.0 if share < 1 - _DECAYED_SHARE else 0.1))
            step += 1
            if step % _CHECK_EVERY == 0:
                loss = self._validation_loss()
                best, stale = (loss, 0) if loss < _IMPROVED * best else (best, stale + 1)
            if time.monotonic() - saved_s > _SAVE_EVERY_S:
                saved_s = time.monotonic()
                self._save(TrainingState(begun=True, step=step, best=best, stale=stale))
        self._context.progress("training", step, step, "steps")
        self._model.eval()
        ended_by = "steps" if step >= self._settings.max_steps else "time"
        return {
            "steps": str(step),
            "ended by": "no more progress" if stale >= _PATIENCE else ended_by,
            "start": "last layer solved for" if solved else "random weights",
        }

    def _used_share(self, step: int) -> float:
        """Return the used share of the steps or of the time, whichever is larger."""
        share = step / self._settings.max_steps
        if self._settings.max_seconds:
            share = max(share, (time.monotonic() - self._began_s) / self._settings.max_seconds)
        return share

    def _solve_start(self) -> None:
        """Train the autoencoder alone for a while, then solve for the student's last layer."""
        self._train_autoencoder()
        self._model.eval()
        start.copy_teacher(self._model)
        random = np.random.default_rng(self._context.seed)
        squares = start.LeastSquares(self._model, len(self._learned), random)
        with torch.inference_mode():
            for done, number in enumerate(self._learned):
                self._context.progress("start", done, len(self._learned), "images")
                image = self._images.prepared(number)
                restored = self._model.ae(image, image.shape[-2:])
                squares.add_good(image, torch.cat([self._teacher_features(number), restored], dim=1))
                squares.add_other(self._photograph(random, image))
            squares.solve()
        self._context.progress("start", len(self._learned), len(self._learned), "images")
        self._state = TrainingState(begun=True)
        self._save(self._state)

    def _train_autoencoder(self) -> None:
        self._set_training_mode()
        optimizer = torch.optim.Adam(
            self._model.ae.parameters(), lr=_WARMUP_RATE, weight_decay=_WEIGHT_DECAY
        )
        random = np.random.default_rng(self._context.seed)
        step = 0
        while (share := self._used_share(step)) < _WARMUP_SHARE:
            total = round(step / share * _WARMUP_SHARE) if step else 0
            self._context.progress("autoencoder", step, total, "steps")
            number = int(random.choice(self._learned))
            image = self._images.prepared(number)
            restored = self._model.ae(image, image.shape[-2:])
            optimizer.zero_grad(set_to_none=True)
            loss = (self._teacher_features(number) - restored).square().mean()
            loss.backward()
            optimizer.step()
            step += 1
        self._context.progress("autoencoder", step, step, "steps")

    def _step(self, step: int, learning_rate: float) -> None:
        # A generator per step, so that a resumed training equals an uninterrupted one.
        random = np.random.default_rng([self._context.seed, step])
        torch.manual_seed(int(random.integers(2**62)))
        number = int(random.choice(self._learned))
        image = self._images.prepared(number)
        photograph, augmented = self._photograph(random, image), augment(image, random)
        losses = losses_of_step(self._model, image, self._teacher_features(number), photograph, augmented)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
        self._optimizer.step()

    def _teacher_features(self, number: int) -> Tensor:
        """Return the teacher's standardised features of an image, (1, 384, R, R)."""
        return standardised(self._model, self._images.teacher_features(number))

    def _photograph(self, random: np.random.Generator, image: Tensor) -> Tensor:
        """Return a random photograph of the size and on the device of ``image``."""
        view = self._photographs.view(image.shape[-1], random, grey_share=_GREY_SHARE)
        return view[None].to(image.device)

    def _validation_loss(self) -> float:
        """Return the mean of the maps of good images that are not trained on."""
        self._model.eval()
        with torch.inference_mode():
            maps = [self._model.get_maps(self._images.prepared(each)) for each in self._validation[:8]]
        self._set_training_mode()
        return float(np.mean([float(st.mean() + ae.mean()) for st, ae in maps]))

    def _set_training_mode(self) -> None:
        self._model.train()
        self._model.teacher.eval()

    def _save(self, state: TrainingState) -> None:
        spent_s = time.monotonic() - self._began_s
        self._checkpoint.save(self._trained, self._optimizer, replace(state, spent_s=spent_s))
