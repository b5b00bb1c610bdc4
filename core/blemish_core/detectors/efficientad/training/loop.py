# SPDX-License-Identifier: Apache-2.0
"""The training of EfficientAD's student and autoencoder within its limits of steps and time."""

import time
from dataclasses import replace
from math import inf
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish_core.detectors.base import TrainingContext
from blemish_core.detectors.efficientad import teacher as teachers
from blemish_core.detectors.efficientad.training import start
from blemish_core.detectors.efficientad.training.checkpoint import Checkpoint, SavedTraining, TrainingState
from blemish_core.detectors.efficientad.training.crops import FeatureCrops, TargetFeatures
from blemish_core.detectors.efficientad.training.images import TrainingImages
from blemish_core.detectors.efficientad.training.losses import standardised
from blemish_core.detectors.efficientad.training.photographs import Photographs
from blemish_core.detectors.efficientad.training.plan import TrainingClock, TrainingPlan
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd
from blemish_core.detectors.efficientad.training.whole_images import WholeImages

_LEARNING_RATE = 1e-4
_WEIGHT_DECAY = 1e-5
_DECAYED_SHARE = 0.05  # of the steps, the last ones, at a tenth of the learning rate
_GREY_SHARE = 0.3  # of the photographs
_CHECK_EVERY = 500  # steps
_CHECK_CROPS_EVERY = 25  # steps
_PATIENCE = 10  # checks without improvement
_IMPROVED = 0.995  # of the best loss so far
_SAVE_EVERY_S = 60.0
_VALIDATION_IMAGES, _PHOTOGRAPHS = 8, 48  # of which crops are taken


class StepLosses(Protocol):
    """The losses of one kind of steps."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters that a step trains."""

    def loss(self, random: np.random.Generator) -> Tensor:
        """Return the loss of a step, ()."""

    def held_out_loss(self) -> float:
        """Return the loss on validation images."""


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
        plan: TrainingPlan,
        clock: TrainingClock,
        checkpoint: Checkpoint,
        saved: SavedTraining | None,
    ) -> None:
        """Prepare a training.

        Args:
            detector: detector to train.
            images: all good images.
            learned: numbers of the images to train on.
            validation: numbers of the images that decide when training stops improving.
            photographs: photographs of anything but the surface.
            context: resources and limits.
            plan: kind and limits of the training.
            clock: time since the start of the training.
            checkpoint: store of the progress.
            saved: progress to resume from, or None.
        """
        self._model = detector.model
        self._images = images
        self._learned = [int(number) for number in learned]
        self._validation = [int(number) for number in validation]
        self._photographs = photographs
        self._context = context
        self._plan = plan
        self._clock = clock
        self._checkpoint = checkpoint
        self._trained = detector.trained
        self._saved = saved
        self._state = TrainingState(len(learned)) if saved is None else saved.state
        self._start: dict[str, Tensor] = {}

    def run(self) -> dict[str, str]:
        """Train until the steps or the time are used up, or the loss stops improving; return facts.

        The result is the solved start if the steps did not lower the loss on validation images.
        """
        self._begin()
        losses = self._step_losses()
        optimizer = torch.optim.Adam(losses.parameters, weight_decay=_WEIGHT_DECAY)
        if self._saved is not None:
            self._saved.restore_moments(optimizer)
        if self._plan.solved and self._state.start_loss == inf:
            loss = losses.held_out_loss()
            self._state = replace(self._state, start_loss=loss, best=loss)
        stopped = self._take_steps(losses, optimizer)
        step = self._state.step
        self._context.progress("training", step, step, "steps")
        facts = {"steps": str(step), "ended by": stopped, "start": "random weights"}
        if self._plan.solved:
            facts["start"] = "last layer solved for"
            loss = losses.held_out_loss()
            facts["held-out loss"] = f"{self._state.start_loss:.3f} at the start, {loss:.3f} at the end"
            if step and not loss < self._state.start_loss:
                self._trained.load_state_dict(self._start)
                facts["ended by"] = "no progress beyond the start, which is published"
        self._model.eval()
        return facts

    def _begin(self) -> None:
        """Restore the saved training, or find the initial weights."""
        if self._saved is not None:
            self._trained.load_state_dict(self._saved.weights)
            self._start = dict(self._saved.start)
        elif self._plan.solved:
            self._solve_start()
            self._start = {name: value.clone() for name, value in self._trained.state_dict().items()}
            self._save(None)
        self._set_training_mode()

    def _step_losses(self) -> StepLosses:
        if self._plan.solved:
            return self._feature_crops()
        return WholeImages(self._model, self._images, self._learned, self._validation, self._photograph)

    def _take_steps(self, losses: StepLosses, optimizer: torch.optim.Adam) -> str:
        """Take steps until a limit is reached; return which one."""
        saved_s = time.monotonic()
        began_s, first = self._clock.spent_s, self._state.step
        while True:
            state = self._state
            share = self._used_share(state.step)
            self._context.progress("training", state.step, self._planned_steps(first, began_s), "steps")
            if share >= 1:
                return "steps" if state.step >= self._plan.steps else "time"
            if state.stale >= _PATIENCE:
                return "no more progress"
            self._take_step(
                losses, optimizer, _LEARNING_RATE * (1.0 if share < 1 - _DECAYED_SHARE else 0.1)
            )
            self._state = replace(state, step=state.step + 1)
            if self._state.step % (_CHECK_CROPS_EVERY if self._plan.solved else _CHECK_EVERY) == 0:
                self._check(losses)
            if time.monotonic() - saved_s > _SAVE_EVERY_S:
                saved_s = time.monotonic()
                self._save(optimizer)

    def _take_step(self, losses: StepLosses, optimizer: torch.optim.Adam, learning_rate: float) -> None:
        # A generator per step, so that a resumed training equals an uninterrupted one.
        random = np.random.default_rng([self._context.seed, self._state.step])
        torch.manual_seed(int(random.integers(2**62)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.zero_grad(set_to_none=True)
        losses.loss(random).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()

    def _check(self, losses: StepLosses) -> None:
        loss = losses.held_out_loss()
        if loss < _IMPROVED * self._state.best:
            self._state = replace(self._state, best=loss, stale=0)
        else:
            self._state = replace(self._state, stale=self._state.stale + 1)

    def _used_share(self, step: int) -> float:
        """Return the used share of the steps or of the time, whichever is larger."""
        return max(step / self._plan.steps, self._clock.spent_s / self._plan.seconds)

    def _planned_steps(self, first: int, began_s: float) -> int:
        """Return the total number of steps at the pace since the step ``first``."""
        step = self._state.step
        if step == first or self._plan.seconds == inf:
            return self._plan.steps
        step_s = (self._clock.spent_s - began_s) / (step - first)
        left_s = max(0.0, self._plan.seconds - self._clock.spent_s)
        return min(self._plan.steps, step + round(left_s / max(step_s, 1e-9)))

    def _solve_start(self) -> None:
        """Solve for the student's last layer."""
        self._model.eval()
        start.copy_teacher(self._model)
        random = np.random.default_rng(self._context.seed)
        squares = start.LeastSquares(self._model, len(self._learned), random)
        with torch.inference_mode():
            for done, number in enumerate(self._learned):
                self._context.progress("start", done, len(self._learned), "images")
                image = self._images.prepared(number)
                squares.add_good(self._lower_layers(image), self._teacher_features(number))
                squares.add_other(self._lower_layers(self._photograph(random, image)))
            squares.solve()
        self._context.progress("start", len(self._learned), len(self._learned), "images")

    def _feature_crops(self) -> FeatureCrops:
        """Compute the features that steps take crops of, as many as fit into memory."""
        self._model.eval()
        random = np.random.default_rng(self._context.seed)
        learned: list[TargetFeatures] = []
        others: list[Tensor] = []
        with torch.inference_mode():
            validation = [self._features(number) for number in self._validation[:_VALIDATION_IMAGES]]
            for done, number in enumerate(self._learned):
                self._context.progress("crops", done, len(self._learned), "images")
                learned.append(self._features(number))
                if len(others) < _PHOTOGRAPHS:
                    view = self._photograph(random, self._images.prepared(number))
                    others.append(self._lower_layers(view)[0].half())
                if len(learned) * learned[0].bytes > self._context.max_feature_bytes // 2:
                    break
        self._context.progress("crops", len(learned), len(learned), "images")
        self._set_training_mode()
        return FeatureCrops(self._model, learned, validation, others)

    def _features(self, number: int) -> TargetFeatures:
        field = self._lower_layers(self._images.prepared(number))
        return TargetFeatures(field[0].half(), self._teacher_features(number)[0].half())

    def _lower_layers(self, images: Tensor) -> Tensor:
        return teachers.lower_layers(dict(self._model.student.named_parameters()), images)

    def _teacher_features(self, number: int) -> Tensor:
        """Return the teacher's standardised features of an image, (1, 384, R, R)."""
        return standardised(self._model, self._images.teacher_features(number))

    def _photograph(self, random: np.random.Generator, image: Tensor) -> Tensor:
        """Return a random photograph of the size and on the device of ``image``."""
        view = self._photographs.view(image.shape[-1], random, grey_share=_GREY_SHARE)
        return view[None].to(image.device)

    def _set_training_mode(self) -> None:
        self._model.train()
        self._model.teacher.eval()

    def _save(self, optimizer: torch.optim.Adam | None) -> None:
        state = replace(self._state, spent_s=self._clock.spent_s)
        self._checkpoint.save(state, self._trained, self._start, optimizer)
