# SPDX-License-Identifier: Apache-2.0
"""A gRPC server with canned answers, for tests of the SDK and the command line."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from PIL import Image

from blemish.v1 import (
    audit_pb2,
    dataset_pb2,
    inspection_pb2,
    job_pb2,
    model_pb2,
    search_pb2,
    server_pb2,
)
from blemish.v1.audit_pb2_grpc import AuditServiceServicer, add_AuditServiceServicer_to_server
from blemish.v1.dataset_pb2 import ClassCount, Dataset
from blemish.v1.dataset_pb2_grpc import DatasetServiceServicer, add_DatasetServiceServicer_to_server
from blemish.v1.image_pb2 import (
    RENDITION_MAP,
    VERDICT_ANOMALOUS,
    VERDICT_NORMAL,
    AnomalyMap,
    DefectRegion,
    ImageFile,
)
from blemish.v1.inspection_pb2 import STREAM_POLICY_LATEST
from blemish.v1.inspection_pb2_grpc import (
    InspectionServiceServicer,
    add_InspectionServiceServicer_to_server,
)
from blemish.v1.job_pb2 import JOB_STATE_QUEUED, JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED, Job, Phase
from blemish.v1.job_pb2_grpc import JobServiceServicer, add_JobServiceServicer_to_server
from blemish.v1.model_pb2 import Interval, Metrics, Model, ModelVersion
from blemish.v1.model_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from blemish.v1.search_pb2_grpc import SearchServiceServicer, add_SearchServiceServicer_to_server
from blemish.v1.server_pb2_grpc import ServerServiceServicer, add_ServerServiceServicer_to_server


@dataclass(frozen=True)
class CallError:
    """An error with which the fake server ends a call."""

    code: grpc.StatusCode
    message: str = "no"
    reason: str = ""
    field: str = ""
    retry_after_s: float = 0.0
    detailed: bool = True

    def abort(self, context: Any) -> None:
        if self.detailed:
            number: int = self.code.value[0]
            status = Status(code=number, message=self.message)
            details: list[Message] = [ErrorInfo(reason=self.reason, domain="blemish")]
            if self.field:
                violation = BadRequest.FieldViolation(field=self.field, description=self.message)
                details.append(BadRequest(field_violations=[violation]))
            if self.retry_after_s:
                retry = RetryInfo()
                retry.retry_delay.FromNanoseconds(round(self.retry_after_s * 1e9))
                details.append(retry)
            for detail in details:
                status.details.add().Pack(detail)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(self.code, self.message)


class FakeServer(
    InspectionServiceServicer,
    SearchServiceServicer,
    DatasetServiceServicer,
    JobServiceServicer,
    ModelServiceServicer,
    ServerServiceServicer,
    AuditServiceServicer,
):
    """All services of blemish, with recorded requests and configurable answers and errors."""

    def __init__(self) -> None:
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.times_left: dict[str, list[float]] = defaultdict(list)
        """Time until the deadline of each call, in seconds, by method."""
        self.errors: dict[str, list[CallError]] = defaultdict(list)
        """Errors of the next calls, by method."""
        self.verdict = VERDICT_NORMAL
        self.defect_class = inspection_pb2.DefectClass(
            class_name="crack", share=0.75, neighbors=5, consensus=inspection_pb2.CONSENSUS_MAJORITY
        )
        """Class of every anomalous image."""
        self.page_size = 2
        self.estimate = job_pb2.EstimateTrainingResponse(reason="no worker has measured its speed yet")
        self.job: Job | None = None
        """Answer of GetJob. None is a queued job."""
        self.map_side = 8
        self.regions: list[DefectRegion] = []
        """Regions of every inspection that asks for them."""
        self.datasets = [Dataset(name=f"datasets/d{i}", category="tile", train_images=i) for i in range(5)]
        self.rejected: set[str] = set()
        """Paths of images that uploads and imports skip."""
        self.test_classes: list[str] = []
        """Classes of the test images of every dataset."""
        self.calibration_preview = model_pb2.PreviewCalibrationResponse()
        self.unpaired = dataset_pb2.UnpairedFiles()
        """Masks and images without a partner, for uploads and imports."""
        self.ignores_masks = False
        """True for a server that does not know masks of trainings."""
        self.preview: inspection_pb2.Preview | None = None
        """Preview of each scored image, if the request asks for one."""
        self.alignment: inspection_pb2.Alignment | None = None
        """Place of the part in each scored image."""
        self.ignores_alignment = False
        """True for a server whose masks do not move."""
        self.card = ModelVersion()
        """Fields added to the card of every version."""
        self.is_calibrated = True
        """False if all versions have the calibration of their training."""
        self.ignores_choices = False
        """True for a server that does not keep targets."""
        self.production: ModelVersion | None = None
        """Version in production of every model."""
        self.archive = bytes(range(256)) * 10
        self.images = [
            dataset_pb2.DatasetImage(path=f"train/good/{i}.png", size_bytes=9, width=8, height=6)
            for i in range(3)
        ]
        self.models = [
            Model(name=f"models/m{i}", versions=[version(f"models/m{i}/versions/1")]) for i in range(3)
        ]
        self.worker = job_pb2.Worker(name="line-3:77", queues=["train"], devices=["cpu"], jobs=["jobs/j1"])
        self.audit_entries: list[audit_pb2.AuditEntry] = []
        self.jobs = [Job(name=f"jobs/j{i}", state=JOB_STATE_SUCCEEDED, error="") for i in range(5)]
        made = "jobs/made"
        self.watches: list[list[Job | CallError]] = [[queued(made), running(made), ended(made)]]
        """Events of each call of WatchJob. The last list serves all further calls."""
        self.lines: list[str] = []
        """Log lines of every job."""
        self.inspection_watches: list[list[inspection_pb2.WatchInspectionsResponse | CallError]] = []
        """Responses of each call of WatchInspections. The token is revoked after the last one."""
        self.streams: list[list[inspection_pb2.ScoreStreamResponse | CallError | None]] = []
        """Answers to the frames of each call of ScoreStream. None is a usual inspection."""
        self.frames: list[int] = []
        """Sequence numbers of all received frames."""
        self.names: list[str] = []
        """Names of all received frames."""
        self.omitted: dict[int, int] = {}
        """Sizes of frames that came without their image, by sequence number."""
        self.max_message_bytes = 0
        """Largest message that the server announces. 0 is an older server, which announces none."""
        self.packs = True
        """False to behave like an older server, which sends one hit per message."""
        self.labels: dict[str, int] = {}
        """Labels that items were given, or that another person has given them."""
        self.unseen = 0
        """Number of candidates left unseen by a search by region."""
        self.hits = [hit("crack", 0.9, 1), hit("crack", 0.8, 2), hit("good", 0.5, 3)]

    def _enter(self, method: str, request: Any, context: Any) -> None:
        self.requests[method].append(request)
        self.times_left[method].append(context.time_remaining())
        if self.errors[method]:
            self.errors[method].pop(0).abort(context)

    def Score(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("Score", request, context)
        if request.image.encoded == b"not an image":
            CallError(grpc.StatusCode.INVALID_ARGUMENT, "not an image", "INVALID_IMAGE", "image").abort(
                context
            )
        inspection = make_inspection(request, self.verdict, self.map_side, self.defect_class)
        if self.alignment is not None:
            inspection.alignment.CopyFrom(self.alignment)
        if request.outputs.regions:
            inspection.regions.extend(self.regions)
        if request.outputs.mask:
            inspection.mask = picture(16)
        if request.outputs.preview and self.preview is not None:
            inspection.preview.CopyFrom(self.preview)
        return inspection_pb2.ScoreResponse(inspection=inspection)

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("Search", request, context)
        if request.HasField("image"):
            query = inspection_pb2.Inspection(
                score=2, threshold=1, verdict=self.verdict, model_version=request.model
            )
            yield search_pb2.SearchResponse(query=query)
        found = self.hits[: request.limit]
        if request.packed and self.packs:
            yield search_pb2.SearchResponse(hits=search_pb2.Hits(hits=found))
        else:
            yield from (search_pb2.SearchResponse(hit=one) for one in found)
        if len(self.hits) > request.limit:
            yield search_pb2.SearchResponse(page=search_pb2.SearchPage(next_page_token="more"))
        if self.unseen:
            yield search_pb2.SearchResponse(page=search_pb2.SearchPage(unseen=self.unseen))

    def ListItems(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("ListItems", request, context)
        first = int(request.page_token or 0)
        following = str(first + 2) if first + 2 < len(self.hits) else ""
        return search_pb2.ListItemsResponse(
            items=self.hits[first : first + 2],
            next_page_token=following,
            total_size=0 if first else len(self.hits),
        )

    def GetItem(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("GetItem", request, context)
        prefix = request.item.lower()
        fitting = self.hits[:1] if prefix == "items/latest" else []
        fitting = fitting or [each for each in self.hits if each.item.startswith(prefix)]
        if not fitting:
            CallError(grpc.StatusCode.NOT_FOUND, f"the index has no item {request.item}").abort(context)
        if len(fitting) > 1:
            message = f"{request.item} fits several items; write more of its digits"
            CallError(grpc.StatusCode.INVALID_ARGUMENT, message, field="item").abort(context)
        return search_pb2.GetItemResponse(item=fitting[0])

    def GetItemImage(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("GetItemImage", request, context)
        if request.rendition == RENDITION_MAP:
            values = np.arange(16, dtype="<f4").tobytes()
            description = ImageFile(size_bytes=len(values), width=48, height=48)
            description.anomaly_map.CopyFrom(AnomalyMap(width=4, height=4, threshold=7.0))
            yield search_pb2.GetItemImageResponse(file=description)
            yield search_pb2.GetItemImageResponse(chunk=values)
            return
        yield from image_parts(picture(48, 1), request, search_pb2.GetItemImageResponse)

    def GetImage(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("GetImage", request, context)
        yield from image_parts(picture(48, 2), request, dataset_pb2.GetImageResponse)

    def LabelItem(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("LabelItem", request, context)
        stored = self.labels.get(request.item)
        if request.expected_label and stored not in (None, request.label, request.expected_label):
            taken = f"{request.item} is labelled {stored} by now; read it again"
            CallError(grpc.StatusCode.ABORTED, taken, "OUTDATED").abort(context)
        self.labels[request.item] = request.label
        labelled = search_pb2.Hit(item=request.item, label=request.label, label_class=request.label_class)
        return search_pb2.LabelItemResponse(item=labelled)

    def CreateDataset(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("CreateDataset", request, context)
        made = Dataset(name=f"datasets/{request.dataset_id}", category=request.category)
        return dataset_pb2.CreateDatasetResponse(dataset=made)

    def UploadImages(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        self._enter("UploadImages", None, context)
        messages = self.requests["UploadImages"] = list(request_iterator)
        stored = sum(message.HasField("image") for message in messages)
        headers = [message.image for message in messages if message.HasField("image")]
        rejected = [header.path for header in headers if header.path in self.rejected]
        stored -= len(rejected)
        sent = Dataset(name=messages[0].dataset, train_images=stored)
        return dataset_pb2.UploadImagesResponse(
            dataset=sent,
            stored=stored,
            skipped_count=len(rejected),
            skipped=[dataset_pb2.SkippedFile(path=path, reason="is empty") for path in rejected],
            unpaired=self.unpaired,
        )

    def ImportDataset(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("ImportDataset", request, context)
        answer = dataset_pb2.ImportDatasetResponse(stored=3, skipped_count=1, expected_count=1)
        if self.rejected:
            answer.skipped_count += len(self.rejected)
            answer.skipped.extend(
                dataset_pb2.SkippedFile(path=path, reason="is empty") for path in sorted(self.rejected)
            )
        answer.unpaired.CopyFrom(self.unpaired)
        answer.dataset.name = f"datasets/{request.dataset_id}"
        answer.dataset.test_images.append(ClassCount(class_name="good", images=2))
        answer.skipped.add(path="train/good/notes.txt", reason="not an image", expected=True)
        return answer

    def GetDataset(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("GetDataset", request, context)
        tested = [ClassCount(class_name=name, images=1) for name in self.test_classes]
        dataset = Dataset(name=request.name, category="tile", test_images=tested)
        return dataset_pb2.GetDatasetResponse(dataset=dataset)

    def ListDatasets(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("ListDatasets", request, context)
        items, token = self._page(self.datasets, request)
        return dataset_pb2.ListDatasetsResponse(datasets=items, next_page_token=token)

    def ListImages(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("ListImages", request, context)
        images, token = self._page(self.images, request)
        return dataset_pb2.ListImagesResponse(images=images, next_page_token=token)

    def AddItems(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("AddItems", request, context)
        added = [
            dataset_pb2.AddedItem(
                item=item,
                outcome=dataset_pb2.ADDED_OUTCOME_STORED,
                path=f"{request.split}/crack/{number}.png",
            )
            for number, item in enumerate(request.items)
        ]
        if len(added) > 1:
            added[-1].outcome = dataset_pb2.ADDED_OUTCOME_LEFT_OUT
            added[-1].path, added[-1].reason = "", "it has no label"
        return dataset_pb2.AddItemsResponse(dataset=Dataset(name=request.dataset), items=added)

    def DeleteImages(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("DeleteImages", request, context)
        left = Dataset(name=request.dataset, train_images=3)
        return dataset_pb2.DeleteImagesResponse(dataset=left, removed=len(request.paths))

    def MoveImages(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("MoveImages", request, context)
        moved = [
            dataset_pb2.MovedImage(path=path, new_path=f"{request.folder}/{path.rpartition('/')[2]}")
            for path in request.paths
        ]
        return dataset_pb2.MoveImagesResponse(
            dataset=Dataset(name=request.dataset, train_images=3), images=moved, deleted_masks=1
        )

    def UpdateDataset(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("UpdateDataset", request, context)
        level = request.white_level
        updated = Dataset(name=request.name, white_level=level, white_level_given=level > 0)
        return dataset_pb2.UpdateDatasetResponse(dataset=updated)

    def DeleteDataset(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("DeleteDataset", request, context)
        return dataset_pb2.DeleteDatasetResponse()

    def ShadowModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("ShadowModel", request, context)
        version = ModelVersion(name=request.name, shadow=request.shadow)
        return model_pb2.ShadowModelResponse(version=version)

    def ExportModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("ExportModel", request, context)
        yield model_pb2.ExportModelResponse(size_bytes=len(self.archive))
        for start in range(0, len(self.archive), 1000):
            if self.errors["chunk"]:
                self.errors["chunk"].pop(0).abort(context)
            yield model_pb2.ExportModelResponse(chunk=self.archive[start : start + 1000])

    def ImportModel(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        requests = list(request_iterator)
        self._enter("ImportModel", requests, context)
        imported = ModelVersion(name=f"models/{requests[0].header.model_id or 'm'}/versions/4")
        return model_pb2.ImportModelResponse(version=imported)

    def DeleteModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("DeleteModel", request, context)
        return model_pb2.DeleteModelResponse()

    def EstimateTraining(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("EstimateTraining", request, context)
        return self.estimate

    def CreateJob(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("CreateJob", request, context)
        made = queued("jobs/made")
        work = request.WhichOneof("work")
        getattr(made, work).CopyFrom(getattr(request, work))
        if self.ignores_masks:
            made.train.ClearField("mask")
        if self.ignores_alignment:
            made.train.mask.ClearField("alignment")
        return job_pb2.CreateJobResponse(job=made)

    def GetJob(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("GetJob", request, context)
        return job_pb2.GetJobResponse(job=self.job or queued(request.name))

    def ListJobs(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("ListJobs", request, context)
        items, token = self._page(self.jobs, request)
        return job_pb2.ListJobsResponse(jobs=items, next_page_token=token)

    def ListWorkers(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("ListWorkers", request, context)
        return job_pb2.ListWorkersResponse(workers=[self.worker])

    def ListAuditEntries(self, request: Any, context: Any) -> Any:  # noqa: N802
        sent = audit_pb2.ListAuditEntriesRequest()
        sent.CopyFrom(request)
        self._enter("ListAuditEntries", sent, context)
        items, token = self._page(self.audit_entries, request)
        return audit_pb2.ListAuditEntriesResponse(entries=items, next_page_token=token)

    def PinModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("PinModel", request, context)
        version = model_pb2.ModelVersion(name=request.name, pinned=request.pinned)
        return model_pb2.PinModelResponse(version=version)

    def WatchJob(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("WatchJob", request, context)
        if request.log:
            lines = [job_pb2.LogLine(id=f"{n}-0", text=text) for n, text in enumerate(self.lines, 1)]
            yield job_pb2.WatchJobResponse(lines=lines)
        events = self.watches.pop(0) if len(self.watches) > 1 else self.watches[0]
        for event in events:
            if isinstance(event, CallError):
                event.abort(context)
            else:
                yield job_pb2.WatchJobResponse(job=event)

    def WatchInspections(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Send the next of ``inspection_watches``; the last one ends with UNAUTHENTICATED."""
        self._enter("WatchInspections", request, context)
        for event in self.inspection_watches.pop(0):
            if isinstance(event, CallError):
                event.abort(context)
            else:
                yield event
        if not self.inspection_watches:
            CallError(grpc.StatusCode.UNAUTHENTICATED, "the token was revoked").abort(context)

    def CancelJob(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("CancelJob", request, context)
        asked = Job(name=request.name, state=job_pb2.JOB_STATE_CANCELLING)
        return job_pb2.CancelJobResponse(job=asked)

    def ScoreStream(self, requests: Any, context: Any) -> Any:  # noqa: N802
        """Answer each frame with the next entry of the first of ``streams``."""
        config = next(requests).config
        self._enter("ScoreStream", config, context)
        script = self.streams.pop(0) if self.streams else []
        for number, request in enumerate(requests):
            self.frames.append(request.frame.sequence)
            self.names.append(request.frame.name)
            if request.frame.omitted_bytes:
                self.omitted[request.frame.sequence] = request.frame.omitted_bytes
            event = script[number] if number < len(script) else None
            if isinstance(event, CallError):
                event.abort(context)
                return
            answer = event or inspection_pb2.ScoreStreamResponse(
                inspection=inspection_pb2.Inspection(score=1.0)
            )
            answer.camera, answer.sequence = request.frame.camera, request.frame.sequence
            answer.capture_time.CopyFrom(request.frame.capture_time)
            yield answer
            if answer.HasField("ending"):
                return

    def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("ListModels", request, context)
        items, token = self._page(self.models, request)
        return model_pb2.ListModelsResponse(models=items, next_page_token=token)

    def GetModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("GetModel", request, context)
        if request.name.endswith("@production"):
            if self.production is None:
                CallError(grpc.StatusCode.NOT_FOUND, "no version is in production").abort(context)
            return model_pb2.GetModelResponse(version=self.production)
        found = version(request.name.replace("/latest", "/3"))
        if not self.is_calibrated:
            del found.calibration_history[0]
            found.calibration.CopyFrom(found.calibration_history[0])
        found.MergeFrom(self.card)
        return model_pb2.GetModelResponse(version=found)

    def CompareModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("CompareModels", request, context)
        interval = model_pb2.Interval
        return model_pb2.CompareModelsResponse(
            first=model_pb2.ComparedModel(name=request.first, threshold=1.5),
            second=model_pb2.ComparedModel(name=request.second, threshold=2.5),
            dataset=request.dataset,
            good_images=20,
            defective_images=10,
            metrics=[
                model_pb2.MetricComparison(
                    name="detection_rate",
                    first=0.5,
                    first_interval=interval(low=0.2, high=0.8),
                    second=0.9,
                    difference=0.4,
                    difference_interval=interval(low=0.1, high=0.7),
                )
            ],
            classes=[
                model_pb2.ClassComparison(
                    class_name=name,
                    images=5,
                    detection=model_pb2.MetricComparison(
                        name="detection_rate", first=0.4, second=1.0, difference=0.6, p_value=0.25
                    ),
                )
                for name in ("crack", "oil")
            ],
            pixel_metrics=[
                model_pb2.MetricComparison(
                    name="aupro",
                    first=0.81,
                    first_interval=interval(low=0.7, high=0.9),
                    second=0.83,
                    difference=0.02,
                )
            ],
            found_only_by_second=[
                model_pb2.ComparedImage(path="test/crack/4.png", first_score=1.0, second_score=3.0)
            ],
        )

    def ListSuspects(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("ListSuspects", request, context)
        return model_pb2.ListSuspectsResponse(
            model_version="models/tile/versions/3",
            dataset="datasets/tile",
            threshold=18.1,
            suspects=[
                model_pb2.Suspect(
                    path="train/good/0.png",
                    original_path="train/good/a b.png",
                    held_out=True,
                    score=18.1,
                    rank=1,
                    count=20,
                    next_score=13.1,
                    stands_out=True,
                    threshold_without=13.1,
                ),
                model_pb2.Suspect(path="train/good/1.png", score=3.5, rank=1, count=1),
            ],
        )

    def ListScores(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("ListScores", request, context)
        yield model_pb2.ListScoresResponse(held_out=True, scores=[1.0, 2.0])
        yield model_pb2.ListScoresResponse(held_out=True, scores=[30.0])
        yield model_pb2.ListScoresResponse(class_name="[red]crack", scores=[4.0, 40.0])

    def GetReport(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("GetReport", request, context)
        page = f"<!doctype html><p>{request.name} {request.evaluation}".encode()
        for start in range(0, len(page), 16):
            yield model_pb2.GetReportResponse(chunk=page[start : start + 16])

    def PromoteModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("PromoteModel", request, context)
        promoted = version(request.name)
        promoted.production = True
        trained = promoted.calibration_history[1]
        promoted.calibration.CopyFrom(trained)
        promoted.calibration.target_false_reject_rate = 0.05
        is_kept = request.calibration == model_pb2.CALIBRATION_CHOICE_KEEP_TARGET
        if is_kept and self.production and not self.ignores_choices:
            promoted.calibration.rule = model_pb2.THRESHOLD_RULE_FALSE_REJECT_RATE
            promoted.calibration.author = request.author
            kept = self.production.calibration
            promoted.calibration.target_false_reject_rate = (
                kept.target_false_reject_rate or kept.warranted_false_reject_rate
            )
        return model_pb2.PromoteModelResponse(version=promoted)

    def UpdateCalibration(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("UpdateCalibration", request, context)
        changed = version(request.name)
        changed.calibration.revision = 3
        return model_pb2.UpdateCalibrationResponse(version=changed)

    def PreviewCalibration(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("PreviewCalibration", request, context)
        return self.calibration_preview

    def GetServerInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._enter("GetServerInfo", request, context)
        info = server_pb2.GetServerInfoResponse(version="0.1.0", device="cpu")
        info.limits.max_message_bytes = self.max_message_bytes
        info.dependencies.add(name="redis", available=True)
        info.dependencies.add(name="qdrant", available=False, detail="connection refused; no search")
        info.disk.free_bytes, info.disk.total_bytes = 400_000_000, 8_000_000_000
        info.disk.shortage = "the disk has 400.0 MB free; free some space"
        last = server_pb2.LastInspection(
            model_version="models/tile/versions/3", verdict=VERDICT_ANOMALOUS, score=12.5
        )
        info.streams.add(
            model="models/tile",
            policy=STREAM_POLICY_LATEST,
            cameras=["line-3"],
            frames=900,
            dropped_frames=12,
            frames_per_second=24.96,
            last=last,
        )
        info.cameras.add(camera="line-3", images_per_second=24.96, last=last)
        info.cameras.add(camera="[red]lab", images_per_second=0.5, last=last)
        return info

    def _page(self, items: list[Any], request: Any) -> tuple[list[Any], str]:
        start = int(request.page_token or 0)
        end = start + self.page_size
        return items[start:end], str(end) if end < len(items) else ""


def image_parts(data: bytes, request: Any, kind: Any) -> Iterator[Any]:
    """Yield the answers with an image, in chunks of 1000 bytes."""
    digest = hashlib.sha256(data).digest()
    yield kind(
        file=ImageFile(media_type="image/png", size_bytes=len(data), sha256=digest, width=48, height=48)
    )
    end = request.read_offset + request.read_limit if request.read_limit else len(data)
    content = data[request.read_offset : end]
    for start in range(0, len(content), 1000):
        yield kind(chunk=content[start : start + 1000])


def make_inspection(
    request: Any, verdict: Any, side: int, defect_class: inspection_pb2.DefectClass
) -> inspection_pb2.Inspection:
    answer = inspection_pb2.Inspection(
        score=1.5, p_value=0.02, verdict=verdict, threshold=1.0, model_version="models/m/versions/1"
    )
    if request.outputs.anomaly_map:
        pixels = np.zeros((side, side), dtype="<f4")
        pixels[2:4, 2:4] = 3.0
        answer.anomaly_map.CopyFrom(
            AnomalyMap(width=side, height=side, values=pixels.tobytes(), threshold=1.0)
        )
    if request.outputs.embedding:
        answer.embedding.extend([0.6, 0.8])
    if request.outputs.defect_class and verdict == VERDICT_ANOMALOUS:
        answer.defect_class.CopyFrom(defect_class)
    return answer


def version(name: str) -> ModelVersion:
    metrics = Metrics(dataset="datasets/tile", good_images=2, image_auroc=0.99)
    metrics.intervals["image_auroc"].CopyFrom(Interval(low=0.91, high=1.0))
    cracks = metrics.classes.add(
        class_name="crack", images=12, image_auroc=0.98, fpr_at_95_tpr=0.125, detection_rate=0.9
    )
    for figure, low, high in (("image_auroc", 0.9, 1.0), ("fpr_at_95_tpr", 0.0, 1.0)):
        cracks.intervals[figure].CopyFrom(Interval(low=low, high=high))
    cracks.pixel_auroc = cracks.aupro = 0.9
    for figure in ("pixel_auroc", "aupro"):
        cracks.intervals[figure].CopyFrom(Interval(low=0.8, high=0.95))
    metrics.latency.runtime = "openvino"
    metrics.latency.inference.p50.FromMilliseconds(12)
    made = ModelVersion(name=name, dataset="datasets/tile", detector="patchcore", metrics=metrics)
    made.training["steps"] = "140"
    fixed, trained = model_pb2.THRESHOLD_RULE_FIXED, model_pb2.THRESHOLD_RULE_TRAINED
    made.calibration_history.add(revision=2, threshold=24.5, rule=fixed, author="ann", comment="[too] many")
    made.calibration_history.add(revision=1, threshold=22.25, rule=trained, author="jobs/made")
    made.calibration.CopyFrom(made.calibration_history[0])
    return made


def hit(class_name: str, similarity: float, number: int) -> search_pb2.Hit:
    return search_pb2.Hit(
        item=f"items/{number}",
        similarity=similarity,
        dataset="datasets/tile",
        category="tile",
        path=f"test/{class_name}/{number:03}.png",
        class_name=class_name,
        score=2.0,
        verdict=VERDICT_NORMAL if class_name == "good" else VERDICT_ANOMALOUS,
        thumbnail=picture(48, number),
    )


def queued(name: str) -> Job:
    return Job(name=name, state=JOB_STATE_QUEUED, revision=1)


def running(name: str, done: int = 1, revision: int = 2) -> Job:
    phases = [Phase(name="features", done=done, total=4, unit="images"), Phase(name="coreset")]
    return Job(name=name, state=JOB_STATE_RUNNING, revision=revision, phases=phases)


def ended(name: str, state: job_pb2.JobState.ValueType = JOB_STATE_SUCCEEDED, revision: int = 9) -> Job:
    done = Job(name=name, state=state, revision=revision)
    done.result.model_version = "models/tile-patchcore/versions/1"
    done.result.metrics.CopyFrom(version("models/m/versions/1").metrics)
    if state != JOB_STATE_SUCCEEDED:
        done.error = "the worker ran out of memory"
    return done


def picture(side: int, seed: int = 0) -> bytes:
    """Return a PNG of noise that depends only on the seed."""
    noise = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def write_dataset_folder(at: Path) -> dict[str, bytes]:
    """Write a dataset folder of six images and some other files; return the images by path."""
    contents = {
        "train/good/000.png": picture(16, 0),
        "train/good/001.PNG": picture(16, 1),
        "train/good/002.png": hashlib.sha256(b"large").digest() * 80_000,  # more than two chunks
        "test/crack/000.png": picture(16, 2),
        "test/good/000.png": picture(16, 3),
        "ground_truth/crack/000_mask.png": picture(16, 4),
    }
    others = {"train/good/._hidden.png": b"x", "test/crack/notes.txt": b"x", "license.txt": b"x"}
    for path, content in {**contents, **others}.items():
        (at / path).parent.mkdir(parents=True, exist_ok=True)
        (at / path).write_bytes(content)
    return contents


def serve(server: FakeServer, address: str) -> grpc.Server:
    """Start a gRPC server with all services of ``server``."""
    grpc_server = grpc.server(
        ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 << 20)]
    )
    add_InspectionServiceServicer_to_server(server, grpc_server)
    add_SearchServiceServicer_to_server(server, grpc_server)
    add_DatasetServiceServicer_to_server(server, grpc_server)
    add_JobServiceServicer_to_server(server, grpc_server)
    add_ModelServiceServicer_to_server(server, grpc_server)
    add_ServerServiceServicer_to_server(server, grpc_server)
    add_AuditServiceServicer_to_server(server, grpc_server)
    grpc_server.add_insecure_port(address)
    grpc_server.start()
    return grpc_server
