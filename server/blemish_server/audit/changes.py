# SPDX-License-Identifier: Apache-2.0
"""The calls that change something, and the facts that their entries have.

Only the fields named here reach the log, so it has neither images nor secrets.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blemish.v1 import dataset_pb2, job_pb2, model_pb2, search_pb2
from blemish.v1.search_pb2 import Label

# Together they keep an entry below the longest line of the log, also if every character is escaped.
_MAX_RESOURCE_CHARACTERS = 60_000
_MAX_TEXT = 500
_MAX_PATHS = 1001
"""Paths that are listed; the service refuses more than a thousand."""


class Facts:
    """The facts of one call, collected from its requests and its response. Long texts are cut."""

    def __init__(self) -> None:
        self._resources: dict[str, None] = {}
        self._details: dict[str, str] = {}
        self._characters = 0

    @property
    def resources(self) -> tuple[str, ...]:
        return tuple(self._resources)

    @property
    def details(self) -> Mapping[str, str]:
        return dict(self._details)

    def add_resource(self, name: str) -> None:
        """Add a resource, unless its name is empty. Count those for which there is no space."""
        name = _cut(name)
        if not name or name in self._resources:
            return
        if self._characters + len(name) > _MAX_RESOURCE_CHARACTERS:
            self.count("resources_left_out")
            return
        self._characters += len(name)
        self._resources[name] = None

    def add(self, **details: object) -> None:
        """Add details, except those that are empty, None or False."""
        for name, value in details.items():
            if value is True:
                self._details[name] = "true"
            elif value is not False and value is not None and value != "":
                self._details[name] = _cut(str(value))

    def count(self, name: str) -> None:
        """Increase a number by 1."""
        self._details[name] = str(int(self._details.get(name, 0)) + 1)


Describe = Callable[[Any, Facts], None]


def action_of(method: str) -> str:
    """Return the name of the RPC ``/package.Service/Method``."""
    return method.rpartition("/")[2]


def _create_dataset(request: dataset_pb2.CreateDatasetRequest, facts: Facts) -> None:
    facts.add_resource(f"datasets/{request.dataset_id}")
    facts.add(category=request.category)


def _upload_images(request: dataset_pb2.UploadImagesRequest, facts: Facts) -> None:
    match request.WhichOneof("part"):
        case "dataset":
            facts.add_resource(request.dataset)
            facts.add(replace=request.replace)
        case "image":
            facts.count("sent")


def _import_dataset(request: dataset_pb2.ImportDatasetRequest, facts: Facts) -> None:
    facts.add_resource(f"datasets/{request.dataset_id}")
    facts.add(path=request.path, category=request.category, replace=request.replace)
    facts.add(white_level=request.white_level or None)


def _update_dataset(request: dataset_pb2.UpdateDatasetRequest, facts: Facts) -> None:
    facts.add_resource(request.name)
    facts.add(white_level=str(request.white_level))


def _add_items(request: dataset_pb2.AddItemsRequest, facts: Facts) -> None:
    facts.add_resource(request.dataset)
    facts.add_resource(request.model)
    facts.add(split=request.split, author=request.author, unlabelled_class=request.unlabelled_class)


def _added(response: dataset_pb2.AddItemsResponse, facts: Facts) -> None:
    outcomes = [each.outcome for each in response.items]
    stored = outcomes.count(dataset_pb2.ADDED_OUTCOME_STORED)
    facts.add(stored=stored, left_out=len(outcomes) - stored or None)
    for each in response.items:
        if each.path:
            facts.add_resource(each.item)


def _delete_images(request: dataset_pb2.DeleteImagesRequest, facts: Facts) -> None:
    _add_paths(request.dataset, request.paths, facts)


def _add_paths(dataset: str, paths: Sequence[str], facts: Facts) -> None:
    facts.add_resource(dataset)
    for path in paths[:_MAX_PATHS]:
        facts.add_resource(f"{dataset}/{path}")


def _move_images(request: dataset_pb2.MoveImagesRequest, facts: Facts) -> None:
    _add_paths(request.dataset, request.paths, facts)
    facts.add(folder=request.folder)


def _name(request: Any, facts: Facts) -> None:
    facts.add_resource(request.name)


def _create_job(request: job_pb2.CreateJobRequest, facts: Facts) -> None:
    kind = request.WhichOneof("work")
    facts.add(kind=kind, job_request=request.request_id)
    if kind is None:
        return
    work = getattr(request, kind)
    facts.add_resource(work.dataset)
    if kind == "train":
        facts.add_resource(f"models/{work.model_id}" if work.model_id else "")
        facts.add(detector=work.WhichOneof("detector"), promote=work.promote)
        facts.add(promoted_calibration=_choice(work.promoted_calibration))
        facts.add(false_alarms_of=work.false_alarms_of)
    else:
        facts.add_resource(work.model)


def _promote_model(request: model_pb2.PromoteModelRequest, facts: Facts) -> None:
    facts.add_resource(request.name)
    facts.add(author=request.author, calibration=_choice(request.calibration))


def _choice(choice: model_pb2.CalibrationChoice.ValueType) -> str:
    """Return the name of a choice of a calibration, empty if there is none."""
    if choice not in model_pb2.CalibrationChoice.values():
        return str(choice)
    name = model_pb2.CalibrationChoice.Name(choice).removeprefix("CALIBRATION_CHOICE_")
    return name.lower() if choice else ""


def _promoted(response: model_pb2.PromoteModelResponse, facts: Facts) -> None:
    _version(response, facts)
    facts.add(replaced=response.replaced, threshold_now=response.version.calibration.threshold)


def _pin_model(request: model_pb2.PinModelRequest, facts: Facts) -> None:
    facts.add_resource(request.name)
    facts.add(pinned=str(request.pinned).lower())


def _shadow_model(request: model_pb2.ShadowModelRequest, facts: Facts) -> None:
    facts.add_resource(request.name)
    facts.add(shadow=str(request.shadow).lower())


def _delete_model(request: model_pb2.DeleteModelRequest, facts: Facts) -> None:
    facts.add_resource(request.name)
    facts.add(force=request.force)


def _import_model(request: model_pb2.ImportModelRequest, facts: Facts) -> None:
    if request.WhichOneof("part") == "header":
        facts.add_resource(f"models/{request.header.model_id}" if request.header.model_id else "")
        facts.add(size_bytes=request.header.size_bytes)


def _update_calibration(request: model_pb2.UpdateCalibrationRequest, facts: Facts) -> None:
    facts.add_resource(request.name)
    facts.add(author=request.author, comment=request.comment, regions=request.HasField("regions"))
    match request.WhichOneof("rule"):
        case "target_false_reject_rate":
            facts.add(target_false_reject_rate=request.target_false_reject_rate)
        case "threshold":
            facts.add(threshold=request.threshold)
        case "trained":
            facts.add(trained=True)
        case "revision":
            facts.add(restored_revision=request.revision)
    facts.add(acknowledge_extreme=request.acknowledge_extreme)


def _label_item(request: search_pb2.LabelItemRequest, facts: Facts) -> None:
    facts.add_resource(request.model)
    facts.add_resource(request.item)
    label = Label.Name(request.label) if request.label in Label.values() else str(int(request.label))
    facts.add(label=label.removeprefix("LABEL_").lower(), label_class=request.label_class)


def _labelled(response: search_pb2.LabelItemResponse, facts: Facts) -> None:
    facts.add_resource(response.item.item)  # the request may name it by fewer digits


def _nothing(message: Any, facts: Facts) -> None:
    """Add no facts."""


def _stored(
    response: dataset_pb2.UploadImagesResponse | dataset_pb2.ImportDatasetResponse, facts: Facts
) -> None:
    facts.add(
        stored=response.stored,
        unchanged=response.unchanged,
        replaced=response.replaced or None,
        skipped=response.skipped_count or None,
    )


def _removed(response: dataset_pb2.DeleteImagesResponse, facts: Facts) -> None:
    facts.add(removed=response.removed)


def _moved(response: dataset_pb2.MoveImagesResponse, facts: Facts) -> None:
    facts.add(moved=len(response.images), deleted_masks=response.deleted_masks or None)


def _job(response: job_pb2.CreateJobResponse, facts: Facts) -> None:
    # The request may name the latest version.
    facts.add_resource(response.job.embed.model or response.job.evaluate.model)
    facts.add_resource(response.job.name)


def _version(
    response: model_pb2.ImportModelResponse
    | model_pb2.PinModelResponse
    | model_pb2.PromoteModelResponse
    | model_pb2.ShadowModelResponse,
    facts: Facts,
) -> None:
    facts.add_resource(response.version.name)  # the request may name the latest one


def _revision(response: model_pb2.UpdateCalibrationResponse, facts: Facts) -> None:
    calibration = response.version.calibration
    facts.add(revision=calibration.revision, threshold_now=calibration.threshold)


_DATASETS, _MODELS, _JOBS = (f"/blemish.v1.{name}Service" for name in ("Dataset", "Model", "Job"))
CHANGES: Mapping[str, tuple[Describe, Describe]] = {
    f"{_DATASETS}/CreateDataset": (_create_dataset, _nothing),
    f"{_DATASETS}/UploadImages": (_upload_images, _stored),
    f"{_DATASETS}/ImportDataset": (_import_dataset, _stored),
    f"{_DATASETS}/AddItems": (_add_items, _added),
    f"{_DATASETS}/DeleteImages": (_delete_images, _removed),
    f"{_DATASETS}/MoveImages": (_move_images, _moved),
    f"{_DATASETS}/UpdateDataset": (_update_dataset, _nothing),
    f"{_DATASETS}/DeleteDataset": (_name, _nothing),
    f"{_JOBS}/CreateJob": (_create_job, _job),
    f"{_JOBS}/CancelJob": (_name, _nothing),
    f"{_MODELS}/PromoteModel": (_promote_model, _promoted),
    f"{_MODELS}/PinModel": (_pin_model, _version),
    f"{_MODELS}/ShadowModel": (_shadow_model, _version),
    f"{_MODELS}/UpdateCalibration": (_update_calibration, _revision),
    f"{_MODELS}/DeleteModel": (_delete_model, _nothing),
    # An export changes nothing, but takes a model out of the server.
    f"{_MODELS}/ExportModel": (_name, _nothing),
    f"{_MODELS}/ImportModel": (_import_model, _version),
    "/blemish.v1.SearchService/LabelItem": (_label_item, _labelled),
}
"""The audited methods, each with a function for its requests and one for its response."""


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
