# SPDX-License-Identifier: Apache-2.0
"""How EfficientAD learns: steps of one image each, within a time, gone on with after a kill."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blemish_core.detectors import teacher as teachers
from blemish_core.detectors.anomalib_models import EfficientAdModel
from blemish_core.detectors.checkpoint import Checkpoint
from blemish_core.detectors.detector import Held, Outcome, ReadImage, Terms, Training
from blemish_core.detectors.efficientad import EfficientAd, EfficientAdSettings
from blemish_core.detectors.efficientad_losses import answer_of_teacher, augmented, losses_of_step
from blemish_core.detectors.photographs import Photographs, photographs
from blemish_core.detectors.split import held_out_count
from blemish_core.detectors.teacher import CHANNELS
from blemish_core.errors import NotPossibleYet

MIN_IMAGES = 3  # two to learn, one to hold out
_SHARED_BELOW = 10  # held-out images that are too few to spare some for the maps' quantiles alone
_BATCH = 4
_WEIGHT_DECAY = 1e-5
_DECAYED_SHARE = 0.05  # of the steps, at the end, at a tenth of the learning rate
_GREY_SHARE = 0.3  # of the photographs
_CHECK_EVERY = 500  # steps
_PATIENCE = 10  # checks without improvement
_IMPROVED = 0.995  # of the best so far
_SAVE_EVERY_S = 60.0


def train(settings: EfficientAdSettings, images: Sequence[ReadImage], terms: Terms) -> Training:
    """Learn from good images, of which some are held out.

    A fifth of the images, or as many as the target false-reject rate needs (at most a third), are held out
    to calibrate by, and half as many again for the quantiles of the maps and to see when to stop; where
    fewer than 10 are held out they serve for both.

    Raises:
        NotPossibleYet: with fewer than 3 images, or without a teacher or photographs.
    """
    if len(images) < MIN_IMAGES:
        raise NotPossibleYet(
            f"EfficientAD learns from at least {MIN_IMAGES} good images, but the dataset has "
            f"{len(images)} in train/good; upload more"
        )
    teacher = teachers.find(settings.size, terms.weights)
    torch.manual_seed(terms.seed)
    detector = EfficientAd(settings, terms.device)
    detector.model.teacher.load_state_dict(teacher.weights)
    others, source = photographs(terms.photographs, terms.weights / "imagenette")

    order = np.random.default_rng(terms.seed).permutation(len(images))
    count = held_out_count(len(images), terms.target_false_reject_rate)
    held_out, learned = np.split(order, [count])
    judging = held_out
    if count >= _SHARED_BELOW:
        judging, learned = np.split(learned, [ceil(count / 2)])
    surface = _Surface(detector, images, terms)
    _measure_teacher(detector.model, surface, learned, terms)
    steps = _Steps(detector, surface, learned, judging, others, terms)
    facts = steps.run(settings) | {"teacher": teacher.origin, "penalty": source}

    _measure_maps(detector, surface, judging, terms)
    outcomes = _outcomes(detector, surface, held_out, terms)
    scores = tuple(outcome.score for outcome in outcomes)
    detector.measure_scores(scores)
    held = Held(scores, tuple(float(outcome.anomaly_map.max()) for outcome in outcomes))
    return Training(detector, held, len(learned), "held out", facts, tuple(held_out.tolist()))


class _Surface:
    """The good images, prepared when first asked for and kept where memory allows."""

    def __init__(self, detector: EfficientAd, images: Sequence[ReadImage], terms: Terms) -> None:
        self._detector = detector
        self._images = images
        self._device = torch.device(terms.device)
        self._room_bytes = terms.max_feature_bytes
        self._prepared: dict[int, Tensor] = {}
        self._taught: dict[int, Tensor] = {}

    def prepared(self, number: int) -> Tensor:
        """The model's input, (1, 3, S, S), on the device."""
        found = self._prepared.get(number)
        if found is None:
            found = self._detector.prepare(self._images[number]())[None].to(self._device)
            self._keep(self._prepared, number, found)
        return found

    def taught(self, number: int) -> Tensor:
        """The teacher's standardised answer, (1, 384, R, R): the same at every step."""
        found = self._taught.get(number)
        if found is None:
            found = answer_of_teacher(self._detector.model, self.prepared(number))
            self._keep(self._taught, number, found)
        return found

    def _keep(self, where: dict[int, Tensor], number: int, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if size <= self._room_bytes:
            self._room_bytes -= size
            where[number] = value


class _Steps:
    """The student's and the autoencoder's training."""

    def __init__(
        self,
        detector: EfficientAd,
        surface: _Surface,
        learned: NDArray[np.int64],
        judging: NDArray[np.int64],
        others: Photographs,
        terms: Terms,
    ) -> None:
        self._model = detector.model
        self._size = detector.input_size
        self._surface = surface
        self._learned = learned
        self._judging = judging
        self._others = others
        self._terms = terms
        learning = [*self._model.student.parameters(), *self._model.ae.parameters()]
        self._optimizer = torch.optim.Adam(learning, weight_decay=_WEIGHT_DECAY)

    def run(self, settings: EfficientAdSettings) -> dict[str, str]:
        """Train until the steps, the time or the progress is used up; say how long that was."""
        model, checkpoint = self._model, Checkpoint(self._terms.checkpoint)
        reached = checkpoint.load(self._learning, self._optimizer)
        step, best, stale = reached.step, reached.best, reached.stale
        began_s = time.monotonic() - reached.spent_s
        saved_s = time.monotonic()
        model.train()
        model.teacher.eval()
        while True:
            spent_s = time.monotonic() - began_s
            share = step / settings.max_steps
            if settings.max_seconds:
                share = max(share, spent_s / settings.max_seconds)
            # Steps in all, at the pace so far.
            planned = settings.max_steps if not step else max(step, round(step / max(share, 1e-9)))
            self._terms.progress("training", step, planned, "steps")
            if share >= 1 or stale >= _PATIENCE:
                break
            self._step(step, _learning_rate(share, planned))
            step += 1
            if step % _CHECK_EVERY == 0:
                loss = self._unseen_loss()
                best, stale = (loss, 0) if loss < _IMPROVED * best else (best, stale + 1)
            if time.monotonic() - saved_s > _SAVE_EVERY_S:
                saved_s = time.monotonic()
                now = replace(reached, step=step, spent_s=saved_s - began_s, best=best, stale=stale)
                checkpoint.save(self._learning, self._optimizer, now)
        self._terms.progress("training", step, step, "steps")
        model.eval()
        why = (
            "no more progress" if stale >= _PATIENCE else "steps" if step >= settings.max_steps else "time"
        )
        return {"steps": str(step), "ended by": why}

    @cached_property
    def _learning(self) -> nn.ModuleDict:
        return nn.ModuleDict({"student": self._model.student, "ae": self._model.ae})

    def _step(self, step: int, learning_rate: float) -> None:
        # Of its own for each step, so that an attempt that goes on does as one that was never interrupted.
        random = np.random.default_rng([self._terms.seed, step])
        torch.manual_seed(int(random.integers(2**62)))
        number = int(random.choice(self._learned))
        image = self._surface.prepared(number)
        view = self._others.view(self._size, random, grey_share=_GREY_SHARE)[None].to(image.device)
        losses = losses_of_step(
            self._model, image, self._surface.taught(number), view, augmented(image, random)
        )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]  # torch left it so
        self._optimizer.step()

    def _unseen_loss(self) -> float:
        """How far student, teacher and autoencoder differ on good images that are not learned."""
        self._model.eval()
        with torch.inference_mode():
            maps = [self._model.get_maps(self._surface.prepared(int(n))) for n in self._judging[:8]]
        self._model.train()
        self._model.teacher.eval()
        return float(np.mean([float(st.mean() + ae.mean()) for st, ae in maps]))


def _learning_rate(share: float, planned: int) -> float:
    """The paper's 1e-4, a tenth of it at the end; higher where few steps are all there is time for."""
    rate = 1e-4
    return rate if share < 1 - _DECAYED_SHARE else 0.1 * rate


def _measure_teacher(
    model: EfficientAdModel, surface: _Surface, learned: NDArray[np.int64], terms: Terms
) -> None:
    """Have the teacher's channels standardised over the learned images."""
    total = squares = torch.zeros(CHANNELS, dtype=torch.float64)
    count = 0
    with torch.inference_mode():
        for done, number in enumerate(learned):
            terms.progress("teacher", done, len(learned), "images")
            answer = model.teacher(surface.prepared(int(number))).double().transpose(0, 1).flatten(1).cpu()
            total = total + answer.sum(1)
            squares = squares + answer.square().sum(1)
            count += answer.shape[1]
    terms.progress("teacher", len(learned), len(learned), "images")
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
    model.mean_std["mean"].data.copy_(mean.float().view(1, -1, 1, 1))
    model.mean_std["std"].data.copy_(std.float().view(1, -1, 1, 1))


def _measure_maps(
    detector: EfficientAd, surface: _Surface, judging: NDArray[np.int64], terms: Terms
) -> None:
    """Take the quantiles of the maps and the lie of the features from good images not learned."""
    model = detector.model
    with torch.inference_mode():
        pairs = [model.get_maps(surface.prepared(int(number)), normalize=False) for number in judging]
        quantiles: dict[str, Tensor] = {}
        for name, maps in zip(("st", "ae"), zip(*pairs, strict=True), strict=True):
            # NumPy: torch.quantile ends at 16 M values.
            low, high = np.quantile(torch.cat(maps).cpu().numpy(), [0.9, 0.995])
            quantiles |= {f"qa_{name}": torch.tensor(low), f"qb_{name}": torch.tensor(high)}
        detector.measure_maps(quantiles, torch.zeros(CHANNELS), torch.ones(()))
        judged = [detector.network(surface.prepared(int(number))) for number in judging]
        spread = torch.cat([maps for maps, _ in judged]).std()
        detector.measure_maps(quantiles, torch.zeros(CHANNELS), spread)
        features = [detector.network(surface.prepared(int(number)))[1] for number in judging]
    detector.measure_maps(quantiles, torch.cat(features).mean(0), spread)


def _outcomes(
    detector: EfficientAd, surface: _Surface, held_out: NDArray[np.int64], terms: Terms
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for start in range(0, len(held_out), _BATCH):
        terms.progress("calibration", start, len(held_out), "images")
        batch = [surface.prepared(int(number))[0] for number in held_out[start : start + _BATCH]]
        outcomes += detector.inspect(batch)
    terms.progress("calibration", len(held_out), len(held_out), "images")
    return outcomes
