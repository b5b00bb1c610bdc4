# SPDX-License-Identifier: Apache-2.0
"""The asyncio client. It has all calls of ``Client``, with the same parameters, results and errors.

>>> async with AsyncClient("localhost:50051") as client:
...     async for result in client.stream(frames, "tile-patchcore", camera="left"):
...         print(result)
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from blemish.v1 import dataset_pb2, job_pb2, model_pb2
from blemish.v1.audit_pb2 import AuditEntry
from blemish.v1.audit_pb2_grpc import AuditServiceStub
from blemish.v1.dataset_pb2 import (
    AddedItem,
    Dataset,
    DatasetImage,
    DeleteImagesResponse,
    ImportDatasetResponse,
    MoveImagesResponse,
    UnpairedFiles,
    UploadImagesResponse,
)
from blemish.v1.dataset_pb2_grpc import DatasetServiceStub
from blemish.v1.image_pb2 import AnomalyMap
from blemish.v1.inspection_pb2 import Inspection, WatchInspectionsResponse
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish.v1.job_pb2 import CreateJobRequest, EstimateTrainingResponse, Job, LogLine, Worker
from blemish.v1.job_pb2_grpc import JobServiceStub
from blemish.v1.model_pb2 import (
    CompareModelsResponse,
    ExportModelResponse,
    ListSuspectsResponse,
    Model,
    ModelVersion,
    PreviewCalibrationResponse,
)
from blemish.v1.model_pb2_grpc import ModelServiceStub
from blemish.v1.search_pb2 import LABEL_UNSPECIFIED, Hit, ListItemsResponse, SearchResponse
from blemish.v1.search_pb2 import Label as LabelMessage
from blemish.v1.search_pb2_grpc import SearchServiceStub
from blemish.v1.server_pb2 import GetServerInfoRequest, GetServerInfoResponse
from blemish.v1.server_pb2_grpc import ServerServiceStub
from blemish_client.images import ImageLike
from blemish_client.names import dataset_name, job_name, model_name
from blemish_client.shared import SharedClient
from blemish_client.streaming.async_frame_stream import AsyncFrameStream, Images
from blemish_client.streaming.ledger import FrameResult, Ledger, LostFrames
from blemish_client.transport import inspection_watch, watching
from blemish_client.transport.connection import AsyncConnection
from blemish_client.transport.listing_requests import (
    ITEMS_PER_PAGE,
    AdditionOptions,
    AuditedCalls,
    AuditOptions,
    ImageOptions,
    addition_requests,
    audit_request,
    dataset_image_request,
    images_request,
    import_request,
    item_image_request,
    item_map_request,
    item_request,
    items_request,
    label_request,
)
from blemish_client.transport.requests import (
    FrameStreamOptions,
    InspectionWatchOptions,
    JobOptions,
    ScoreOptions,
    SearchOptions,
    SearchQuery,
    inspection_watch_request,
    score_request,
    search_request,
    stream_config,
)
from blemish_client.transport.upload import (
    FolderOptions,
    ImageContent,
    ImageFile,
    content_messages,
    folder_conversion,
    image_messages,
    import_messages,
    import_stream_messages,
    scan_folder,
    upload_messages,
    with_skipped,
)
from blemish_client.transport.work_requests import (
    CalibrationOptions,
    TrainOptions,
    compare_request,
    embed_request,
    estimate_request,
    evaluate_request,
    jobs_request,
    name_of,
    preview_request,
    promote_request,
    report_request,
    staged,
    suspects_request,
    train_request,
    update_request,
)
from blemish_client.types.enums import JobState, Label
from blemish_client.types.model_scores import ModelScores
from blemish_client.types.stored_image import StoredImage, receive_image, receive_map


class AsyncClient(SharedClient[AsyncConnection]):
    """A client for one event loop, with the calls of ``Client``.

    Calls that yield there are asynchronous iterators here. ``search`` yields the messages of the answer.
    """

    _connection_class = AsyncConnection

    def _create_stubs(self) -> None:
        channel = self._connection.channel
        self._inspection = InspectionServiceStub(channel)
        self._search = SearchServiceStub(channel)
        self._datasets = DatasetServiceStub(channel)
        self._jobs = JobServiceStub(channel)
        self._models = ModelServiceStub(channel)
        self._audit = AuditServiceStub(channel)
        self._server = ServerServiceStub(channel)

    async def close(self) -> None:
        """Close the connection and end all running calls."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def server_info(self) -> GetServerInfoResponse:
        """Return the server's version, limits and the state of its dependencies."""
        return await self._connection.call(self._server.GetServerInfo, GetServerInfoRequest())

    async def audit_entries(self, **conditions: Unpack[AuditOptions]) -> AsyncGenerator[AuditEntry]:
        """Yield the calls in the audit log, as ``Client.audit_entries`` does."""
        calls = AuditedCalls()
        pages = self._connection.pages(
            self._audit.ListAuditEntries, audit_request(conditions), lambda page: page.entries
        )
        async with aclosing(pages) as entries:
            async for entry in entries:
                if calls.is_first(entry):
                    yield entry

    # Inspection and search

    async def score(self, image: ImageLike, model: str, **options: Unpack[ScoreOptions]) -> Inspection:
        """Score one image, as ``Client.score`` does."""
        request = score_request(image, model, options)
        return (await self._connection.call(self._inspection.Score, request)).inspection

    def watch_inspections(
        self, **options: Unpack[InspectionWatchOptions]
    ) -> AsyncGenerator[WatchInspectionsResponse]:
        """Yield the verdicts on all images of the server, as ``Client.watch_inspections`` does."""
        request = inspection_watch_request(options)
        return inspection_watch.watch_async(self._connection, request, options.get("on_unreachable"))

    async def search(
        self, query: "SearchQuery | None", model: str, limit: int = 10, **options: Unpack[SearchOptions]
    ) -> AsyncGenerator[SearchResponse]:
        """Yield the inspection of a query image, then the hits, then the token of the next page."""
        request = search_request(query, model, limit, options)
        async with aclosing(self._connection.stream(self._search.Search, request)) as answers:
            async for answer in answers:
                if answer.WhichOneof("event") != "hits":
                    yield answer
                for hit in answer.hits.hits:
                    yield SearchResponse(hit=hit)

    def stream(
        self, images: Images, model: str, **options: Unpack[FrameStreamOptions]
    ) -> AsyncGenerator[FrameResult | LostFrames]:
        """Score the frames of a camera, as ``Client.stream`` does.

        ``images`` may be an ordinary iterable, which is then read in threads.
        """
        ledger = Ledger(
            stream_config(model, options),
            options.get("camera", ""),
            options.get("first", 0),
            self._connection.retry_policy,
            options.get("on_unreachable"),
        )
        return AsyncFrameStream(self._connection, ledger, images).run()

    def items(self, model: str, *, where: str = "", order_by: str = "") -> AsyncGenerator[Hit]:
        """Yield the indexed images that match a condition, as ``Client.items`` does."""
        request = items_request(model, where, order_by, ITEMS_PER_PAGE, "")
        return self._connection.pages(self._search.ListItems, request, lambda page: page.items)

    async def items_page(
        self,
        model: str,
        *,
        where: str = "",
        order_by: str = "",
        page_size: int = 100,
        page_token: str = "",
    ) -> ListItemsResponse:
        """Return one page of the items, as ``Client.items_page`` does."""
        request = items_request(model, where, order_by, page_size, page_token)
        return await self._connection.call(self._search.ListItems, request)

    async def count_items(self, model: str, *, where: str = "") -> int:
        """Return the number of indexed images that match a condition."""
        request = items_request(model, where, "", 1, "")
        return (await self._connection.call(self._search.ListItems, request)).total_size

    async def item(self, name: str, model: str) -> Hit:
        """Return one indexed image, as ``Client.item`` does."""
        request = item_request(name, model)
        return (await self._connection.call(self._search.GetItem, request)).item

    async def item_image(self, item: str, model: str, **options: Unpack[ImageOptions]) -> StoredImage:
        """Return the image of an indexed item, as ``Client.item_image`` does."""
        request = item_image_request(item, model, options)
        answers = self._connection.stream(self._search.GetItemImage, request)
        return receive_image([answer async for answer in answers])

    async def item_map(self, item: str, model: str) -> AnomalyMap:
        """Return the anomaly map of an indexed item, computed with the version of the index."""
        answers = self._connection.stream(self._search.GetItemImage, item_map_request(item, model))
        return receive_map([answer async for answer in answers])

    async def label(
        self,
        item: str,
        model: str,
        label: Label | LabelMessage.ValueType,
        label_class: str = "",
        *,
        expected: Label | LabelMessage.ValueType = LABEL_UNSPECIFIED,
        expected_class: str = "",
    ) -> Hit:
        """Label an indexed image, as ``Client.label`` does."""
        request = label_request(item, model, label, label_class, expected, expected_class)
        return (await self._connection.call(self._search.LabelItem, request)).item

    # Datasets

    async def create_dataset(self, dataset_id: str, *, category: str = "", white_level: int = 0) -> Dataset:
        """Create an empty dataset, as ``Client.create_dataset`` does."""
        request = dataset_pb2.CreateDatasetRequest(
            dataset_id=dataset_id, category=category, white_level=white_level
        )
        return (await self._connection.call(self._datasets.CreateDataset, request)).dataset

    async def update_dataset(self, dataset: str, *, white_level: int) -> Dataset:
        """Set the white level of a dataset; 0 removes it. Models that were trained before keep theirs."""
        request = dataset_pb2.UpdateDatasetRequest(name=dataset_name(dataset), white_level=white_level)
        return (await self._connection.call(self._datasets.UpdateDataset, request)).dataset

    async def upload(
        self,
        dataset: str,
        folder: Path | str,
        *,
        on_image: Callable[[ImageFile], None] | None = None,
        replace: bool = False,
        category: str = "",
        **options: Unpack[FolderOptions],
    ) -> UploadImagesResponse:
        """Upload a folder to an existing dataset, as ``Client.upload`` does. Files are read in threads."""
        conversion = folder_conversion(options, category)
        layout = await asyncio.to_thread(scan_folder, Path(folder), conversion)
        if layout.plan.lacks_good and not conversion.only_defective:
            known = {test_class.class_name for test_class in (await self.dataset(dataset)).test_images}
            layout.plan.check_good(conversion, already="good" in known)
        skipped = [*layout.skipped]
        messages = upload_messages(dataset_name(dataset), layout.images, skipped, on_image, replace=replace)
        response = await self._connection.send(
            lambda channel: DatasetServiceStub(channel).UploadImages, messages
        )
        return with_skipped(response, skipped)

    async def upload_image(
        self, dataset: str, path: str, content: bytes, *, replace: bool = False
    ) -> UploadImagesResponse:
        """Store one image or mask in an existing dataset, as ``Client.upload_image`` does."""
        messages = image_messages(dataset_name(dataset), path, content, replace=replace)
        return await self._connection.send(
            lambda channel: DatasetServiceStub(channel).UploadImages, messages
        )

    async def upload_images(
        self, dataset: str, images: Iterable[ImageContent], *, replace: bool = False
    ) -> UploadImagesResponse:
        """Upload images from memory to an existing dataset, as ``Client.upload_images`` does."""
        messages = content_messages(dataset_name(dataset), images, replace=replace)
        return await self._connection.send(
            lambda channel: DatasetServiceStub(channel).UploadImages, messages
        )

    async def import_dataset(
        self,
        dataset_id: str,
        path: str,
        *,
        category: str = "",
        replace: bool = False,
        white_level: int = 0,
        **options: Unpack[FolderOptions],
    ) -> ImportDatasetResponse:
        """Copy a folder of the server's file system into a dataset, as ``Client.import_dataset`` does."""
        request = import_request(
            dataset_id, path, options, category=category, replace=replace, white_level=white_level
        )
        return await self._connection.call_without_timeout(self._datasets.ImportDataset, request)

    async def dataset(self, name: str) -> Dataset:
        request = dataset_pb2.GetDatasetRequest(name=dataset_name(name))
        return (await self._connection.call(self._datasets.GetDataset, request)).dataset

    def datasets(self) -> AsyncGenerator[Dataset]:
        """Yield all datasets by name."""
        return self._connection.pages(
            self._datasets.ListDatasets, dataset_pb2.ListDatasetsRequest(), lambda page: page.datasets
        )

    def images(self, dataset: str, *, under: str = "") -> AsyncGenerator[DatasetImage]:
        """Yield the images and masks of a dataset whose paths begin with ``under``, by path."""
        request = images_request(dataset, under)
        return self._connection.pages(self._datasets.ListImages, request, lambda page: page.images)

    async def dataset_image(self, dataset: str, path: str, **options: Unpack[ImageOptions]) -> StoredImage:
        """Return an image or a mask of a dataset, as ``Client.dataset_image`` does."""
        request = dataset_image_request(dataset, path, options)
        answers = self._connection.stream(self._datasets.GetImage, request)
        return receive_image([answer async for answer in answers])

    async def add_items(
        self, dataset: str, model: str, items: Iterable[str], **options: Unpack[AdditionOptions]
    ) -> list[AddedItem]:
        """Copy the images of indexed items into a dataset, as ``Client.add_items`` does."""
        added: list[AddedItem] = []
        for request in addition_requests(dataset, model, items, options):
            answer = await self._connection.call_without_timeout(self._datasets.AddItems, request)
            added += answer.items
        return added

    async def delete_images(self, dataset: str, paths: Iterable[str]) -> DeleteImagesResponse:
        """Delete images, their masks and their index entries."""
        request = dataset_pb2.DeleteImagesRequest(dataset=dataset_name(dataset), paths=paths)
        return await self._connection.call_without_timeout(self._datasets.DeleteImages, request)

    async def move_images(self, dataset: str, paths: Iterable[str], folder: str) -> MoveImagesResponse:
        """Move images to another class with their masks, all of them or none.

        Masks of images that become good are deleted.

        Args:
            dataset: name of the dataset.
            paths: paths or original paths of at most 1000 images.
            folder: train/good or test/CLASS.
        """
        request = dataset_pb2.MoveImagesRequest(dataset=dataset_name(dataset), paths=paths, folder=folder)
        return await self._connection.call_without_timeout(self._datasets.MoveImages, request)

    async def unpaired(self, dataset: str) -> UnpairedFiles:
        """Return the masks without an image and the defective test images without a mask.

        Both are empty if the server is older than this call.
        """
        request = dataset_pb2.GetDatasetRequest(name=dataset_name(dataset))
        return (await self._connection.call(self._datasets.GetDataset, request)).unpaired

    async def delete_dataset(self, dataset: str) -> None:
        """Delete a dataset and its index entries. Models trained on it remain."""
        request = dataset_pb2.DeleteDatasetRequest(name=dataset_name(dataset))
        await self._connection.call_without_timeout(self._datasets.DeleteDataset, request)

    # Jobs

    async def estimate_training(
        self, dataset: str, **options: Unpack[TrainOptions]
    ) -> EstimateTrainingResponse:
        """Estimate the time of a training, as ``Client.estimate_training`` does."""
        return await self._connection.call(self._jobs.EstimateTraining, estimate_request(dataset, options))

    async def train(self, dataset: str, **options: Unpack[TrainOptions]) -> Job:
        """Start a job that trains a model, as ``Client.train`` does."""
        return await self._create_job(train_request(dataset, options))

    async def embed(self, model: str, dataset: str | None, **options: Unpack[JobOptions]) -> Job:
        """Start a job that adds images to the index of a model version, as ``Client.embed`` does."""
        return await self._create_job(embed_request(model, dataset, options))

    async def evaluate(self, model: str, dataset: str, **options: Unpack[JobOptions]) -> Job:
        """Start a job that measures a model version on the test images of a dataset."""
        return await self._create_job(evaluate_request(model, dataset, options))

    async def _create_job(self, request: CreateJobRequest) -> Job:
        return (await self._connection.call_with_retries(self._jobs.CreateJob, request)).job

    async def job(self, name: str) -> Job:
        request = job_pb2.GetJobRequest(name=job_name(name))
        return (await self._connection.call(self._jobs.GetJob, request)).job

    def jobs(self, *, states: Iterable[JobState | job_pb2.JobState.ValueType] = ()) -> AsyncGenerator[Job]:
        """Yield jobs, the newest first. With ``states``, only jobs in one of them."""
        return self._connection.pages(self._jobs.ListJobs, jobs_request(states), lambda page: page.jobs)

    def watch(self, job: Job | str) -> AsyncGenerator[Job]:
        """Yield the job as it is, then after every change, as ``Client.watch`` does."""
        return watching.watch_async(self._connection, name_of(job))

    async def wait(self, job: Job | str) -> Job:
        """Return the job once it has ended. Its ``state`` and ``error`` show the outcome."""
        *_, last = [changed async for changed in self.watch(job)]
        return last

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a job. A job that has ended is returned unchanged."""
        request = job_pb2.CancelJobRequest(name=name_of(job))
        return (await self._connection.call(self._jobs.CancelJob, request)).job

    def log(self, job: Job | str, *, after: str = "") -> AsyncGenerator[LogLine]:
        """Yield the log lines of a job until it has ended, as ``Client.log`` does."""
        return watching.log_async(self._connection, name_of(job), after)

    async def workers(self) -> list[Worker]:
        """Return the running workers by name."""
        answer = await self._connection.call(self._jobs.ListWorkers, job_pb2.ListWorkersRequest())
        return list(answer.workers)

    # Models

    async def pin(self, version: str, pinned: bool = True) -> ModelVersion:
        """Pin a version so that workers do not remove it as an old one, or unpin it."""
        request = model_pb2.PinModelRequest(name=model_name(version), pinned=pinned)
        return (await self._connection.call(self._models.PinModel, request)).version

    async def model(self, name: str) -> ModelVersion:
        """Return the card of one version."""
        request = model_pb2.GetModelRequest(name=model_name(name))
        return (await self._connection.call(self._models.GetModel, request)).version

    def models(self) -> AsyncGenerator[Model]:
        """Yield all models by name, each with its versions, the newest first."""
        return self._connection.pages(
            self._models.ListModels, model_pb2.ListModelsRequest(), lambda page: page.models
        )

    async def compare(self, first: str, second: str, *, dataset: str = "") -> CompareModelsResponse:
        """Compare two versions on the test images that both have scored, as ``Client.compare`` does."""
        request = compare_request(first, second, dataset)
        return await self._connection.call(self._models.CompareModels, request)

    async def suspects(self, dataset: str, *, model: str = "", limit: int = 10) -> ListSuspectsResponse:
        """Return the good training images with the highest scores, as ``Client.suspects`` does."""
        request = suspects_request(dataset, model, limit)
        return await self._connection.call(self._models.ListSuspects, request)

    async def scores(self, model: str) -> ModelScores:
        """Return the scores behind the figures of a version, as ``Client.scores`` does."""
        found = ModelScores()
        request = model_pb2.ListScoresRequest(name=model_name(model))
        async for message in self._connection.stream(self._models.ListScores, request):
            found.add(message)
        return found

    async def promote(
        self, version: str, *, keep_target: bool | None = None, author: str = ""
    ) -> ModelVersion:
        """Promote a version to production, as ``Client.promote`` does."""
        request = promote_request(version, keep_target, author)
        return (await self._connection.call(self._models.PromoteModel, request)).version

    async def shadow(self, version: str, shadow: bool = True) -> ModelVersion:
        """Start or stop a shadow deployment, as ``Client.shadow`` does."""
        request = model_pb2.ShadowModelRequest(name=model_name(version), shadow=shadow)
        return (await self._connection.call(self._models.ShadowModel, request)).version

    async def export_model(
        self, model: str, file: Path | str, *, on_bytes: Callable[[int, int], None] | None = None
    ) -> None:
        """Write a version to a file, as ``Client.export_model`` does. Threads write it."""
        request = model_pb2.ExportModelRequest(name=model_name(model))
        stream = self._connection.stream(self._models.ExportModel, request, without_timeout=True)
        size = 0
        with staged(Path(file)) as out:
            async with aclosing(stream) as answers:
                async for answer in answers:
                    size = size or answer.size_bytes
                    await asyncio.to_thread(out.write, answer.chunk)
                    if on_bytes is not None:
                        on_bytes(out.tell(), size)

    async def import_model(
        self,
        file: Path | str,
        *,
        model_id: str = "",
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> ModelVersion:
        """Import an exported version, as ``Client.import_model`` does. Threads read the file."""
        messages = import_messages(Path(file), model_id, on_bytes)
        answer = await self._connection.send(
            lambda channel: ModelServiceStub(channel).ImportModel, messages
        )
        return answer.version

    async def export_stream(self, model: str) -> AsyncIterator[ExportModelResponse]:
        """Yield an exported version as it comes, as ``Client.export_stream`` does."""
        request = model_pb2.ExportModelRequest(name=model_name(model))
        stream = self._connection.stream(self._models.ExportModel, request, without_timeout=True)
        async with aclosing(stream) as answers:
            async for answer in answers:
                yield answer

    async def import_stream(
        self, chunks: Iterable[bytes], size_bytes: int, *, model_id: str = ""
    ) -> ModelVersion:
        """Import an exported version from its bytes, as ``Client.import_stream`` does."""
        messages = import_stream_messages(chunks, size_bytes, model_id)
        answer = await self._connection.send(
            lambda channel: ModelServiceStub(channel).ImportModel, messages
        )
        return answer.version

    async def delete_model(self, model: str, *, force: bool = False) -> None:
        """Delete a version, or a model with all its versions and kept frames."""
        request = model_pb2.DeleteModelRequest(name=model_name(model), force=force)
        await self._connection.call_without_timeout(self._models.DeleteModel, request)

    async def report(self, model: str, *, evaluation: Job | str = "") -> bytes:
        """Return the HTML report of a version's training, or of an evaluation job."""
        answers = self._connection.stream(self._models.GetReport, report_request(model, evaluation))
        return b"".join([answer.chunk async for answer in answers])

    async def update_calibration(
        self,
        version: str,
        *,
        author: str,
        comment: str = "",
        expected_revision: int = 0,
        acknowledge_extreme: bool = False,
        **change: Unpack[CalibrationOptions],
    ) -> ModelVersion:
        """Change the threshold or the regions of a version, as ``Client.update_calibration`` does."""
        request = update_request(
            version,
            change,
            author=author,
            comment=comment,
            expected_revision=expected_revision,
            acknowledge_extreme=acknowledge_extreme,
        )
        return (await self._connection.call(self._models.UpdateCalibration, request)).version

    async def preview_calibration(
        self,
        version: str,
        *,
        period: timedelta | None = None,
        max_frames: int = 0,
        **change: Unpack[CalibrationOptions],
    ) -> PreviewCalibrationResponse:
        """Return what ``update_calibration`` would change, and change nothing."""
        request = preview_request(version, change, period=period, max_frames=max_frames)
        return await self._connection.call(self._models.PreviewCalibration, request)
