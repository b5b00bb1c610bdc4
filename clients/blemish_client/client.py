# SPDX-License-Identifier: Apache-2.0
"""The SDK: a blocking client of the services of blemish.v1."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from blemish.v1 import dataset_pb2, job_pb2, model_pb2, search_pb2
from blemish.v1.dataset_pb2 import (
    Dataset,
    DatasetImage,
    DeleteImagesResponse,
    ImportDatasetResponse,
    UploadImagesResponse,
)
from blemish.v1.dataset_pb2_grpc import DatasetServiceStub
from blemish.v1.image_pb2 import Image
from blemish.v1.inspection_pb2 import (
    PRIORITY_UNSPECIFIED,
    STORE_UNSPECIFIED,
    STREAM_POLICY_LATEST,
    Inspection,
    Priority,
    Store,
    StreamPolicy,
)
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish.v1.job_pb2 import (
    JOB_PRIORITY_UNSPECIFIED,
    CreateJobRequest,
    EfficientAd,
    Job,
    JobPriority,
    JobState,
    LogLine,
    PatchCore,
    Worker,
)
from blemish.v1.job_pb2_grpc import JobServiceStub
from blemish.v1.model_pb2 import Model, ModelVersion
from blemish.v1.model_pb2_grpc import ModelServiceStub
from blemish.v1.search_pb2 import Hit
from blemish.v1.search_pb2_grpc import SearchServiceStub
from blemish.v1.server_pb2 import GetServerInfoRequest, GetServerInfoResponse
from blemish.v1.server_pb2_grpc import ServerServiceStub
from blemish_client.names import dataset_name, item_name, job_name, model_name
from blemish_client.search import Found
from blemish_client.streaming.camera import Camera, Lost, Seen
from blemish_client.transport import watching
from blemish_client.transport.connection import TIMEOUT_S, Connection, pages
from blemish_client.transport.credentials import Credentials
from blemish_client.transport.requests import (
    Query,
    SearchOptions,
    score_request,
    search_request,
    stream_config,
)
from blemish_client.transport.retry import Patience
from blemish_client.transport.upload import ImageFile, layout, of_images, of_model

_MOST = 1000  # on a page, of what there may be many thousands of


class Client:
    """Calls a blemish server; many threads may share one.

    Names may be short: ``tile`` for ``datasets/tile``; ``m``, ``m@production`` or ``m/3`` for the
    models ``models/m``, ``models/m@production`` and ``models/m/versions/3``. Every method raises
    ``blemish_client.errors.BlemishError``, one of its subclasses where the cause has one.

    >>> with Client("localhost:50051") as client:
    ...     client.score(Path("frame.png").read_bytes(), "tile-patchcore").verdict
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        timeout_s: float = TIMEOUT_S,
        patience: Patience | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._line = Connection(
            target, timeout_s=timeout_s, patience=patience or Patience(), credentials=credentials
        )
        channel = self._line.channel
        self._inspection = InspectionServiceStub(channel)
        self._search = SearchServiceStub(channel)
        self._datasets = DatasetServiceStub(channel)
        self._jobs = JobServiceStub(channel)
        self._models = ModelServiceStub(channel)
        self._server = ServerServiceStub(channel)

    @property
    def target(self) -> str:
        return self._line.target

    def close(self) -> None:
        """Close the connection; calls under way end."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def server_info(self) -> GetServerInfoResponse:
        """Ask for version, limits and the state of what the server needs."""
        return self._line.call(self._server.GetServerInfo, GetServerInfoRequest())

    # Inspection and search

    def score(
        self,
        image: bytes | Image,
        model: str,
        *,
        anomaly_map: bool = False,
        embedding: bool = False,
        priority: Priority.ValueType = PRIORITY_UNSPECIFIED,
        store: Store.ValueType = STORE_UNSPECIFIED,
        camera: str = "",
    ) -> Inspection:
        """Score an encoded image (JPEG, PNG, BMP, TIFF, WebP), or a message that holds a raw one.

        Args:
            image: it.
            model: scores it.
            anomaly_map: send it with the answer.
            embedding: likewise.
            priority: of the contract: whose turn it is first.
            store: of the contract: whether it is kept for search.
            camera: that took it, for whoever finds it.
        """
        request = score_request(
            image,
            model,
            anomaly_map=anomaly_map,
            embedding=embedding,
            priority=priority,
            store=store,
            camera=camera,
        )
        return self._line.call(self._inspection.Score, request).inspection

    def stream(
        self,
        images: Iterable[bytes],
        model: str,
        *,
        policy: StreamPolicy.ValueType = STREAM_POLICY_LATEST,
        camera: str = "",
        first: int = 0,
        anomaly_map: bool = False,
        embedding: bool = False,
        target_false_reject_rate: float | None = None,
        max_latency_s: float = 0.0,
        priority: Priority.ValueType = PRIORITY_UNSPECIFIED,
        store: Store.ValueType = STORE_UNSPECIFIED,
    ) -> Iterator[Seen | Lost]:
        """Score encoded images as a camera sends them, and yield what is said of each, in order.

        A lost connection is looked for and the stream goes on in it, numbered on.

        Args:
            images: the frames; read in another thread, as fast as the server takes them.
            model: scores them; what it means is looked up again and again.
            policy: of the contract: what becomes of a frame that comes while others are worked on.
            camera: its name, told back with every answer.
            first: sequence number of the first frame.
            anomaly_map: send it with every answer.
            embedding: likewise.
            target_false_reject_rate: judge this stream's frames by it; as the model is calibrated if None.
            max_latency_s: refuse frames that would take longer; 0 sets no limit.
            priority: of the contract: whose turn it is first.
            store: of the contract: whether its frames are kept for search.

        Raises:
            BlemishError: if the server refuses the stream, or is away for longer than patience lasts.
        """
        config = stream_config(
            model,
            policy=policy,
            anomaly_map=anomaly_map,
            embedding=embedding,
            target_false_reject_rate=target_false_reject_rate,
            max_latency_s=max_latency_s,
            priority=priority,
            store=store,
        )
        return Camera(self._line, config, images, name=camera, first=first).run()

    def search(
        self, query: Query | None, model: str, limit: int = 10, **options: Unpack[SearchOptions]
    ) -> Found:
        """Find indexed images like an encoded image, a stored item by its name, or an embedding."""
        request = search_request(query, model, limit, options)
        return Found(self._line.stream(self._search.Search, request))

    def items(self, model: str, *, where: str = "") -> Iterator[Hit]:
        """Yield the indexed images that fit a condition, in no order that means anything."""
        request = search_pb2.ListItemsRequest(model=model_name(model), where=where)
        while True:
            answer = self._line.call(self._search.ListItems, request)
            yield from answer.items
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def label(self, item: str, model: str, label: search_pb2.Label.ValueType, label_class: str = "") -> Hit:
        """Note what a person says of an indexed image; the last word counts."""
        request = search_pb2.LabelItemRequest(
            model=model_name(model), item=item_name(item), label=label, label_class=label_class
        )
        return self._line.call(self._search.LabelItem, request).item

    # Datasets

    def create_dataset(self, dataset_id: str, *, category: str = "") -> Dataset:
        """Make an empty dataset; its category is its id unless given."""
        request = dataset_pb2.CreateDatasetRequest(dataset_id=dataset_id, category=category)
        return self._line.call(self._datasets.CreateDataset, request).dataset

    def upload(
        self,
        dataset: str,
        folder: Path | str,
        *,
        on_image: Callable[[ImageFile], None] | None = None,
    ) -> UploadImagesResponse:
        """Send the images of a folder in MVTec AD's layout to a dataset that is there.

        After a failure call it again: what arrived before is kept, and counted as unchanged.

        Args:
            dataset: its name.
            folder: has train/good, test/CLASS and ground_truth/CLASS, or some of them.
            on_image: is told of each image when it was sent, in another thread.

        Raises:
            OSError: if a file cannot be read.
            ValueError: if the folder has no images in that layout.
        """
        messages = of_images(dataset_name(dataset), layout(Path(folder)).images, on_image)
        return self._line.send(self._datasets.UploadImages, messages)

    def import_dataset(self, dataset_id: str, path: str, *, category: str = "") -> ImportDatasetResponse:
        """Copy a folder of the server's own file system into a dataset, new or there."""
        request = dataset_pb2.ImportDatasetRequest(dataset_id=dataset_id, category=category, path=path)
        return self._line.call_at_length(self._datasets.ImportDataset, request)

    def dataset(self, name: str) -> Dataset:
        request = dataset_pb2.GetDatasetRequest(name=dataset_name(name))
        return self._line.call(self._datasets.GetDataset, request).dataset

    def datasets(self) -> Iterator[Dataset]:
        """List all datasets by name."""

        def page(token: str) -> tuple[Iterable[Dataset], str]:
            request = dataset_pb2.ListDatasetsRequest(page_token=token)
            answer = self._line.call(self._datasets.ListDatasets, request)
            return answer.datasets, answer.next_page_token

        return pages(page)

    def images(self, dataset: str, *, under: str = "") -> Iterator[DatasetImage]:
        """List the images and masks of a dataset by path; only those that begin with ``under``."""

        def page(token: str) -> tuple[Iterable[DatasetImage], str]:
            request = dataset_pb2.ListImagesRequest(
                dataset=dataset_name(dataset), page_size=_MOST, page_token=token, path_prefix=under
            )
            answer = self._line.call(self._datasets.ListImages, request)
            return answer.images, answer.next_page_token

        return pages(page)

    def delete_images(self, dataset: str, paths: Iterable[str]) -> DeleteImagesResponse:
        """Remove images for good, the masks of defective ones and what was indexed of them too."""
        request = dataset_pb2.DeleteImagesRequest(dataset=dataset_name(dataset), paths=paths)
        return self._line.call_at_length(self._datasets.DeleteImages, request)

    def delete_dataset(self, dataset: str) -> None:
        """Remove a dataset for good, and what was indexed of it; models that learned from it stay."""
        request = dataset_pb2.DeleteDatasetRequest(name=dataset_name(dataset))
        self._line.call_at_length(self._datasets.DeleteDataset, request)

    # Jobs

    def train(
        self,
        dataset: str,
        *,
        model_id: str = "",
        detector: PatchCore | EfficientAd | None = None,
        seed: int = 0,
        target_false_reject_rate: float = 0.0,
        promote: bool = False,
        false_alarms_of: str = "",
        request_id: str | None = None,
        priority: JobPriority.ValueType = JOB_PRIORITY_UNSPECIFIED,
        max_run_time_s: float = 0.0,
        max_memory_bytes: int = 0,
    ) -> Job:
        """Have a model learn the good training images of a dataset; what is not set has a default.

        Args:
            dataset: its name.
            model_id: ``{dataset}-{detector}`` if empty.
            detector: settings of PatchCore or EfficientAD; PatchCore with its defaults unless given.
            seed: equal seeds and images make equal models.
            target_false_reject_rate: share of good images that the threshold may reject, to 0.5.
            promote: make the version the production one.
            false_alarms_of: a model in whose index people labelled images that are good: these too.
            request_id: names this request, so that sending it again makes no second job.
            priority: which of the jobs that wait for the same workers is taken first.
            max_run_time_s: of one attempt; beyond it the job fails. 0 sets no limit.
            max_memory_bytes: of the process that works on it; beyond it the job fails. 0 sets no limit.
        """
        work = job_pb2.Train(
            dataset=dataset_name(dataset),
            model_id=model_id,
            patchcore=None if isinstance(detector, EfficientAd) else detector or PatchCore(),
            efficientad=detector if isinstance(detector, EfficientAd) else None,
            seed=seed,
            target_false_reject_rate=target_false_reject_rate,
            promote=promote,
            false_alarms_of=model_name(false_alarms_of) if false_alarms_of else "",
        )
        request = CreateJobRequest(train=work, priority=priority)
        return self._create_job(request, request_id, max_run_time_s, max_memory_bytes)

    def embed(
        self,
        model: str,
        dataset: str | None,
        *,
        request_id: str | None = None,
        priority: JobPriority.ValueType = JOB_PRIORITY_UNSPECIFIED,
        max_run_time_s: float = 0.0,
        max_memory_bytes: int = 0,
    ) -> Job:
        """Have the images of a dataset scored and put into the index of a model version.

        Without a dataset it is the frames that were kept of the model.
        """
        if dataset is None:
            work = job_pb2.Embed(model=model_name(model), kept_frames=True)
        else:
            work = job_pb2.Embed(model=model_name(model), dataset=dataset_name(dataset))
        request = CreateJobRequest(embed=work, priority=priority)
        return self._create_job(request, request_id, max_run_time_s, max_memory_bytes)

    def evaluate(
        self,
        model: str,
        dataset: str,
        *,
        request_id: str | None = None,
        priority: JobPriority.ValueType = JOB_PRIORITY_UNSPECIFIED,
        max_run_time_s: float = 0.0,
        max_memory_bytes: int = 0,
    ) -> Job:
        """Have a model version measured on the test images of a dataset."""
        work = job_pb2.Evaluate(model=model_name(model), dataset=dataset_name(dataset))
        request = CreateJobRequest(evaluate=work, priority=priority)
        return self._create_job(request, request_id, max_run_time_s, max_memory_bytes)

    def _create_job(
        self,
        request: CreateJobRequest,
        request_id: str | None,
        max_run_time_s: float,
        max_memory_bytes: int,
    ) -> Job:
        request.request_id = request_id or str(uuid.uuid4())
        if max_run_time_s:
            request.limits.max_run_time.FromNanoseconds(round(max_run_time_s * 1e9))
        if max_memory_bytes:
            request.limits.max_memory_bytes = max_memory_bytes
        return self._line.call_patiently(self._jobs.CreateJob, request).job

    def job(self, name: str) -> Job:
        request = job_pb2.GetJobRequest(name=job_name(name))
        return self._line.call(self._jobs.GetJob, request).job

    def jobs(self, *, states: Iterable[JobState.ValueType] = ()) -> Iterator[Job]:
        """List jobs, newest first; those in any of ``states``, or all."""
        wanted = tuple(states)

        def page(token: str) -> tuple[Iterable[Job], str]:
            request = job_pb2.ListJobsRequest(page_token=token, states=wanted)
            answer = self._line.call(self._jobs.ListJobs, request)
            return answer.jobs, answer.next_page_token

        return pages(page)

    def watch(self, job: Job | str) -> Iterator[Job]:
        """Yield the job as it is, then at every change until it has ended.

        Goes on where it was when the server was away for less than patience lasts.
        """
        return watching.watch(self._line, _name_of(job))

    def wait(self, job: Job | str) -> Job:
        """Return the job once it has ended, whichever way: see ``state`` and ``error``."""
        *_, last = self.watch(job)
        return last

    def cancel(self, job: Job | str) -> Job:
        """Ask a job to end; one that has ended stays as it is."""
        request = job_pb2.CancelJobRequest(name=_name_of(job))
        return self._line.call(self._jobs.CancelJob, request).job

    def log(self, job: Job | str, *, after: str = "") -> Iterator[LogLine]:
        """Yield what a job's process has written, then what it writes, until the job has ended.

        Args:
            job: the job or its name.
            after: the id of a line; only those that come after it.
        """
        return watching.log(self._line, _name_of(job), after)

    def workers(self) -> list[Worker]:
        """The workers that are there, by name."""
        return list(self._line.call(self._jobs.ListWorkers, job_pb2.ListWorkersRequest()).workers)

    # Models

    def pin(self, version: str, pinned: bool = True) -> ModelVersion:
        """Have a version kept when workers remove old ones, or no longer."""
        request = model_pb2.PinModelRequest(name=model_name(version), pinned=pinned)
        return self._line.call(self._models.PinModel, request).version

    def model(self, name: str) -> ModelVersion:
        """Return the card of one version."""
        request = model_pb2.GetModelRequest(name=model_name(name))
        return self._line.call(self._models.GetModel, request).version

    def models(self) -> Iterator[Model]:
        """List all models by name, each with its versions, newest first."""

        def page(token: str) -> tuple[Iterable[Model], str]:
            request = model_pb2.ListModelsRequest(page_token=token)
            answer = self._line.call(self._models.ListModels, request)
            return answer.models, answer.next_page_token

        return pages(page)

    def promote(self, version: str) -> ModelVersion:
        """Make a version the production one."""
        request = model_pb2.PromoteModelRequest(name=model_name(version))
        return self._line.call(self._models.PromoteModel, request).version

    def shadow(self, version: str, shadow: bool = True) -> ModelVersion:
        """Have a version judge beside the one in production without a say, or no longer; see its card."""
        request = model_pb2.ShadowModelRequest(name=model_name(version), shadow=shadow)
        return self._line.call(self._models.ShadowModel, request).version

    def export_model(
        self, model: str, file: Path | str, *, on_bytes: Callable[[int, int], None] | None = None
    ) -> None:
        """Write a version into one file, for ``import_model`` of another server.

        Args:
            model: the version, or what means one.
            file: is there whole or not at all; what was there before is replaced.
            on_bytes: hears how many have come, and of how many.

        Raises:
            OSError: if the file cannot be written.
        """
        request = model_pb2.ExportModelRequest(name=model_name(model))
        answers = self._line.stream(self._models.ExportModel, request, at_length=True)
        target, size = Path(file), 0
        staged = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with staged.open("xb") as out:
                for answer in answers:
                    size = size or answer.size_bytes
                    out.write(answer.chunk)
                    if on_bytes is not None:
                        on_bytes(out.tell(), size)
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)

    def import_model(
        self,
        file: Path | str,
        *,
        model_id: str = "",
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> ModelVersion:
        """Have what ``export_model`` wrote become a version of a model here; it is not promoted.

        Args:
            file: the export.
            model_id: of the model; as it was called where it was exported if empty.
            on_bytes: hears how many were sent, and of how many, in another thread.

        Raises:
            OSError: if the file cannot be read.
        """
        return self._line.send(self._models.ImportModel, of_model(Path(file), model_id, on_bytes)).version

    def delete_model(self, model: str, *, force: bool = False) -> None:
        """Remove a version for good, or all of a model with the frames that were kept of it.

        Args:
            model: a version, or a model.
            force: of a model, also if a version of it is in production.
        """
        request = model_pb2.DeleteModelRequest(name=model_name(model), force=force)
        self._line.call_at_length(self._models.DeleteModel, request)

    def report(self, model: str, *, evaluation: Job | str = "") -> bytes:
        """Return the HTML page that a version's training left, or an evaluation of it by a job."""
        request = model_pb2.GetReportRequest(
            name=model_name(model), evaluation=_name_of(evaluation) if evaluation else ""
        )
        return b"".join(answer.chunk for answer in self._line.stream(self._models.GetReport, request))

    def update_calibration(
        self,
        version: str,
        *,
        author: str,
        target_false_reject_rate: float | None = None,
        threshold: float | None = None,
        trained: bool = False,
        comment: str = "",
        expected_revision: int = 0,
    ) -> ModelVersion:
        """Change which scores of a version are anomalous, from the next frame on; say just one way.

        Args:
            version: its name, with the number.
            author: who asks for it.
            target_false_reject_rate: the threshold that held-out good images warrant for it, to 0.5.
            threshold: in units of the version's scores.
            trained: back to what training left.
            comment: why.
            expected_revision: change nothing unless it is the current one.

        Raises:
            ValueError: if it is said in no way, or in several.
        """
        if (target_false_reject_rate is not None) + (threshold is not None) + trained != 1:
            raise ValueError("give one of target_false_reject_rate, threshold and trained")
        request = model_pb2.UpdateCalibrationRequest(
            name=model_name(version),
            author=author,
            comment=comment,
            expected_revision=expected_revision,
        )
        if target_false_reject_rate is not None:
            request.target_false_reject_rate = target_false_reject_rate
        elif threshold is not None:
            request.threshold = threshold
        else:
            request.trained.SetInParent()
        return self._line.call(self._models.UpdateCalibration, request).version


def _name_of(job: Job | str) -> str:
    return job_name(job) if isinstance(job, str) else job.name
