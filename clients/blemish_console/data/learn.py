# SPDX-License-Identifier: Apache-2.0
"""Trainings that also learn the images which people labelled good, and the offer of their versions."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from blemish.v1.dataset_pb2 import Dataset
from blemish.v1.job_pb2 import JOB_STATE_SUCCEEDED, EfficientAd, Job, PatchCore, Train
from blemish.v1.model_pb2 import ModelVersion
from blemish.v1.search_pb2 import LABEL_FALSE_ALARM, Hit
from blemish_client.client import Client
from blemish_client.errors import NotFound
from blemish_client.names import short
from blemish_client.transport.work_requests import TrainOptions
from blemish_console import texts
from blemish_console.data.models import is_older

_JOBS_READ = 100
"""Number of the latest jobs among which a training is found again."""
_LEARNED = "label = false-alarm OR label = good"
"""Filter of the items that such a training takes, as described in ``Train.false_alarms_of``."""


class CannotLearn(Exception):
    """There is nothing to learn from, or nothing to learn it with. The message has the remedy."""


@dataclass
class LabelledGood:
    """Numbers of labelled images of one camera or dataset."""

    source: str
    """Name of the camera, or of the dataset if ``is_dataset``."""
    is_dataset: bool
    false_alarms: int = 0
    good: int = 0


@dataclass(frozen=True)
class LearnPlan:
    """A training of the next version of a model, before it is started."""

    base: ModelVersion
    """Version whose dataset and settings are used: the one in production, or else the newest one."""
    dataset: Dataset
    sources: list[LabelledGood]
    """Labelled images that are taken along, by camera and dataset."""
    in_dataset: int
    """Number of labelled images of the training dataset, which are left out."""
    options: TrainOptions
    has_settings: bool
    """False if the job of the base version is no longer stored, so that default settings are used."""

    @property
    def false_alarms(self) -> int:
        return sum(each.false_alarms for each in self.sources)

    @property
    def good(self) -> int:
        return sum(each.good for each in self.sources)


def read_plan(client: Client, model: str) -> LearnPlan:
    """Return a training that takes the labelled images of a model's index along.

    Raises:
        CannotLearn: if there are no such images, or the training of the version cannot be repeated.
        BlemishError: if a call fails.
    """
    base = client.model(model)
    try:
        sources, in_dataset = count_sources(client.items(model, where=_LEARNED), base.dataset)
    except NotFound:  # the model has no index, so it has no labels either
        sources, in_dataset = [], 0
    if not sources:
        raise CannotLearn(texts.ONLY_OWN_LABELS if in_dataset else texts.NOTHING_TO_LEARN)
    try:
        dataset = client.dataset(base.dataset)
    except NotFound as error:
        raise CannotLearn(
            texts.LEARN_DATASET_GONE.format(dataset=short(base.dataset), model=_id_of(base))
        ) from error
    trained = _training_of(client, base)
    options: TrainOptions = {
        "model_id": _id_of(base),
        "false_alarms_of": _id_of(base),
        "detector": _detector_of(base, trained),
        "seed": trained.seed if trained is not None else base.seed,
        # The version in production may judge by another target than that of its training.
        "target_false_reject_rate": base.calibration.target_false_reject_rate
        or (trained.target_false_reject_rate if trained is not None else 0.0),
    }
    if base.HasField("mask"):
        options["mask_of"] = base.name
    return LearnPlan(base, dataset, sources, in_dataset, options, trained is not None)


def count_sources(items: Iterable[Hit], dataset: str) -> tuple[list[LabelledGood], int]:
    """Return the labelled images by camera and dataset, and the number of those in ``dataset``."""
    found: dict[tuple[bool, str], LabelledGood] = {}
    in_dataset = 0
    for item in items:
        if item.dataset == dataset:
            in_dataset += 1
            continue
        key = bool(item.dataset), short(item.dataset) if item.dataset else item.camera
        source = found.setdefault(key, LabelledGood(key[1], key[0]))
        if item.label == LABEL_FALSE_ALARM:
            source.false_alarms += 1
        else:
            source.good += 1
    return [found[key] for key in sorted(found)], in_dataset


def start(client: Client, plan: LearnPlan) -> Job:
    """Start the training of a plan."""
    return client.train(plan.dataset.name, **plan.options)


def find_latest(client: Client, model: str) -> Job | None:
    """Return the newest training that learns labelled images of a model for a version of the same model."""
    id = model.partition("@")[0].partition("/")[0]
    for job in islice(client.jobs(), _JOBS_READ):
        if job.train.model_id == id and _model_of(job.train.false_alarms_of) == id:
            return job
    return None


class Standing(StrEnum):
    """The standing of a published version among those of its model."""

    NEW = "new"
    """It can become the shadow."""
    SHADOW = "shadow"
    PRODUCTION = "production"
    OLDER = "older"
    """A newer version is in production."""
    ALONE = "alone"
    """No version is in production, so none can have a shadow."""
    DELETED = "deleted"


@dataclass(frozen=True)
class ShadowOffer:
    """A version that a training has published, and its role."""

    version: str
    """Name of the version."""
    standing: Standing
    production: str = ""
    """Name of the version in production."""
    shadow: str = ""
    """Name of another version that is the shadow."""


def read_offer(client: Client, job: Job) -> ShadowOffer | None:
    """Return the offer for the version of a training; None if the job published none."""
    version = job.result.model_version
    if job.WhichOneof("work") != "train" or job.state != JOB_STATE_SUCCEEDED or not version:
        return None
    model = version.partition("/versions/")[0]
    versions = [each for found in client.models() if found.name == model for each in found.versions]
    own = next((each for each in versions if each.name == version), None)
    production = next((each.name for each in versions if each.production), "")
    shadow = next((each.name for each in versions if each.shadow and each.name != version), "")
    if own is None:
        standing = Standing.DELETED
    elif own.production:
        standing = Standing.PRODUCTION
    elif own.shadow:
        standing = Standing.SHADOW
    elif not production:
        standing = Standing.ALONE
    else:
        standing = Standing.OLDER if is_older(version, production) else Standing.NEW
    return ShadowOffer(version, standing, production, shadow)


def _training_of(client: Client, version: ModelVersion) -> Train | None:
    """Return the request by which a version was trained; None if its job is no longer stored here."""
    try:
        job = client.job(version.job) if version.job else None
    except NotFound:
        return None
    # The job of an imported version may be another one of this server.
    return job.train if job is not None and job.result.model_version == version.name else None


def _detector_of(version: ModelVersion, trained: Train | None) -> PatchCore | EfficientAd:
    """Return the settings of the detector, which are the defaults if they are not stored."""
    if version.detector == "efficientad":
        return trained.efficientad if trained is not None else EfficientAd()
    return trained.patchcore if trained is not None else PatchCore()


def _id_of(version: ModelVersion) -> str:
    return short(version.name).partition("/")[0]


def _model_of(name: str) -> str:
    return short(name).partition("@")[0].partition("/")[0] if name else ""
