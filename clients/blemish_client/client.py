# SPDX-License-Identifier: Apache-2.0
"""The blocking client of all services of blemish.v1."""

from collections.abc import Callable, Generator, Iterable, Iterator
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
from blemish.v1.search_pb2 import LABEL_UNSPECIFIED, Hit, ListItemsResponse
from blemish.v1.search_pb2 import Label as LabelMessage
from blemish.v1.search_pb2_grpc import SearchServiceStub
from blemish.v1.server_pb2 import GetServerInfoRequest, GetServerInfoResponse
from blemish.v1.server_pb2_grpc import ServerServiceStub
from blemish_client.images import ImageLike
from blemish_client.names import dataset_name, job_name, model_name
from blemish_client.search import SearchResults
from blemish_client.shared import SharedClient
from blemish_client.streaming.frame_stream import FrameStream
from blemish_client.streaming.ledger import FrameResult, Ledger, LostFrames
from blemish_client.transport import inspection_watch, watching
from blemish_client.transport.connection import Connection
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
from blemish_client.types.frame import FrameLike
from blemish_client.types.model_scores import ModelScores
from blemish_client.types.stored_image import StoredImage, receive_image, receive_map


class Client(SharedClient[Connection]):
    """A blocking client of a blemish server, shared by any number of threads.

    Names may be short: ``tile`` for ``datasets/tile``. ``m``, ``m@production`` and ``m/3`` stand for
    ``models/m``, ``models/m@production`` and ``models/m/versions/3``. ``m/latest`` is the version with the
    highest number. Failed calls raise a subclass of
    ``blemish_client.BlemishError``.

    >>> with Client("localhost:50051") as client:
    ...     client.score(Path("frame.png").read_bytes(), "tile-patchcore").verdict
    """

    _connection_class = Connection

    def _create_stubs(self) -> None:
        channel = self._connection.channel
        self._inspection = InspectionServiceStub(channel)
        self._search = SearchServiceStub(channel)
        self._datasets = DatasetServiceStub(channel)
        self._jobs = JobServiceStub(channel)
        self._models = ModelServiceStub(channel)
        self._server = ServerServiceStub(channel)
        self._audit = AuditServiceStub(channel)

    def close(self) -> None:
        """Close the connection and end all running calls."""
        self._connection.close()

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
        """Return the server's version, limits and the state of its dependencies."""
        return self._connection.call(self._server.GetServerInfo, GetServerInfoRequest())

    def audit_entries(self, **conditions: Unpack[AuditOptions]) -> Iterator[AuditEntry]:
        """Yield the calls in the audit log, the last ended first, with one entry each.

        A call in progress, or one during which the server was killed, has an entry without an end time.

        Args:
            **conditions: see ``AuditOptions``.
        """
        entries = self._connection.pages(
            self._audit.ListAuditEntries, audit_request(conditions), lambda page: page.entries
        )
        return filter(AuditedCalls().is_first, entries)

    # Inspection and search

    def score(self, image: ImageLike, model: str, **options: Unpack[ScoreOptions]) -> Inspection:
        """Score one image.

        Args:
            image: path of a file, encoded image such as a JPEG, PNG or TIFF, array as for ``raw_image``,
                image of Pillow, or message.
            model: model or version that scores the image.
            **options: see ``ScoreOptions``.

        Raises:
            OSError: if the image is a path, and the file cannot be read.
            ValueError: if it is an array that is not an image.
        """
        request = score_request(image, model, options)
        return self._connection.call(self._inspection.Score, request).inspection

    def stream(
        self, images: Iterable[FrameLike], model: str, **options: Unpack[FrameStreamOptions]
    ) -> Iterator[FrameResult | LostFrames]:
        """Score the frames of a camera and yield their results in order.

        After a lost connection the stream reconnects and continues with consecutive numbers. A promotion
        of the model takes effect between two frames.

        Args:
            images: frames, each as ``score`` takes it, or a ``Frame`` with its origin. They are read in
                another thread, as fast as the server accepts them. A frame that exceeds the server's
                largest message is refused alone.
            model: model or version that scores the frames.
            **options: see ``FrameStreamOptions``.

        Raises:
            BlemishError: if the server rejects the stream, or stays unreachable for longer than the retry
                policy allows.
        """
        ledger = Ledger(
            stream_config(model, options),
            options.get("camera", ""),
            options.get("first", 0),
            self._connection.retry_policy,
            options.get("on_unreachable"),
        )
        return FrameStream(self._connection, ledger, images).run()

    def watch_inspections(
        self, **options: Unpack[InspectionWatchOptions]
    ) -> Generator[WatchInspectionsResponse]:
        """Yield the verdicts on all images of the server as they are given, without end.

        The first response has the states of the cameras, which are sent again every two seconds. After a
        lost connection the watch resumes with states that have the last inspection of each camera. Events
        in between are not sent.

        Args:
            **options: see ``InspectionWatchOptions``.

        Raises:
            BlemishError: if the server rejects the watch, or stays unreachable for longer than the retry
                policy allows.
        """
        request = inspection_watch_request(options)
        return inspection_watch.watch(self._connection, request, options.get("on_unreachable"))

    def search(
        self, query: "SearchQuery | None", model: str, limit: int = 10, **options: Unpack[SearchOptions]
    ) -> SearchResults:
        """Find the indexed images most similar to a query.

        Args:
            query: image as ``score`` takes it, but the path of a file as a ``Path``; name of an indexed
                item; or embedding. None with ``like`` or ``labelled``.
            model: model or version whose index is searched.
            limit: number of hits.
            **options: see ``SearchOptions``.
        """
        request = search_request(query, model, limit, options)
        return SearchResults(self._connection.stream(self._search.Search, request))

    def items(self, model: str, *, where: str = "", order_by: str = "") -> Iterator[Hit]:
        """Yield the indexed images that match a filter condition.

        Args:
            model: model or version whose index is read.
            where: filter condition, whose times have a zone.
            order_by: ``time``, ``time desc``, ``score`` or ``score desc``. Empty for no particular order.
        """
        request = items_request(model, where, order_by, ITEMS_PER_PAGE, "")
        return self._connection.pages(self._search.ListItems, request, lambda page: page.items)

    def items_page(
        self,
        model: str,
        *,
        where: str = "",
        order_by: str = "",
        page_size: int = 100,
        page_token: str = "",
    ) -> ListItemsResponse:
        """Return one page of the items that ``items`` yields, with the token of the next page.

        Args:
            model: model or version whose index is read.
            where: filter condition, as in ``items``.
            order_by: order, as in ``items``.
            page_size: number of items, at most 1000.
            page_token: token from the page before; empty for the first one, which has the total.
        """
        request = items_request(model, where, order_by, page_size, page_token)
        return self._connection.call(self._search.ListItems, request)

    def count_items(self, model: str, *, where: str = "") -> int:
        """Return the number of indexed images that match a filter condition."""
        request = items_request(model, where, "", 1, "")
        return self._connection.call(self._search.ListItems, request).total_size

    def item(self, name: str, model: str) -> Hit:
        """Return one indexed image.

        Args:
            name: name of the item, the first 4 or more digits of its id, or ``latest``.
            model: model or version with the item in its index.
        """
        request = item_request(name, model)
        return self._connection.call(self._search.GetItem, request).item

    def item_image(self, item: str, model: str, **options: Unpack[ImageOptions]) -> StoredImage:
        """Return the image of an indexed item, as it was received or as a small JPEG.

        Args:
            item: name of the item, the first 4 or more digits of its id, or ``latest``.
            model: model or version with the item in its index.
            **options: see ``ImageOptions``.
        """
        request = item_image_request(item, model, options)
        return receive_image(self._connection.stream(self._search.GetItemImage, request))

    def item_map(self, item: str, model: str) -> AnomalyMap:
        """Return the anomaly map of an indexed item, computed with the version of the index."""
        request = item_map_request(item, model)
        return receive_map(self._connection.stream(self._search.GetItemImage, request))

    def label(
        self,
        item: str,
        model: str,
        label: Label | LabelMessage.ValueType,
        label_class: str = "",
        *,
        expected: Label | LabelMessage.ValueType = LABEL_UNSPECIFIED,
        expected_class: str = "",
    ) -> Hit:
        """Label an indexed image. A new label replaces the previous one.

        Args:
            item: name of the item, the first 4 or more digits of its id, or ``latest``.
            model: model or version with the item in its index.
            label: the label; ``NONE`` removes it.
            label_class: class of a confirmed defect.
            expected: label that the item must have now, ``NONE`` for none. Unspecified replaces any.
            expected_class: class that goes with ``expected``.

        Raises:
            Aborted: if the item has another label than the expected one.
        """
        request = label_request(item, model, label, label_class, expected, expected_class)
        return self._connection.call(self._search.LabelItem, request).item

    # Datasets

    def create_dataset(self, dataset_id: str, *, category: str = "", white_level: int = 0) -> Dataset:
        """Create an empty dataset.

        Args:
            dataset_id: id of the dataset.
            category: kind of surface, by default the id.
            white_level: white level of samples of 16 bits, such as 4095; 0 takes each image at its word.
        """
        request = dataset_pb2.CreateDatasetRequest(
            dataset_id=dataset_id, category=category, white_level=white_level
        )
        return self._connection.call(self._datasets.CreateDataset, request).dataset

    def update_dataset(self, dataset: str, *, white_level: int) -> Dataset:
        """Set the white level of a dataset; 0 removes it. Models that were trained before keep theirs."""
        request = dataset_pb2.UpdateDatasetRequest(name=dataset_name(dataset), white_level=white_level)
        return self._connection.call(self._datasets.UpdateDataset, request).dataset

    def upload(
        self,
        dataset: str,
        folder: Path | str,
        *,
        on_image: Callable[[ImageFile], None] | None = None,
        replace: bool = False,
        category: str = "",
        **options: Unpack[FolderOptions],
    ) -> UploadImagesResponse:
        """Upload a folder to an existing dataset.

        Images that cannot be read or stored are skipped. The response lists them with reasons, and counts
        files because of which no image is missing in ``expected_count``. After a failure, call it again:
        images that were stored before are counted as unchanged.

        Args:
            dataset: name of the dataset.
            folder: folder with train/good, test/CLASS and ground_truth/CLASS, or in another layout.
            on_image: called with each image after it was sent, in another thread.
            replace: replace images whose content has changed. They are skipped otherwise.
            category: object to take from a folder of several, such as VisA's.
            **options: see ``FolderOptions``.

        Raises:
            NotADirectoryError: if there is no such folder.
            ValueError: if the folder has no known layout, or test images of which none is good.
        """
        conversion = folder_conversion(options, category)
        layout = scan_folder(Path(folder), conversion)
        if layout.plan.lacks_good and not conversion.only_defective:
            known = {test_class.class_name for test_class in self.dataset(dataset).test_images}
            layout.plan.check_good(conversion, already="good" in known)
        skipped = [*layout.skipped]
        messages = upload_messages(dataset_name(dataset), layout.images, skipped, on_image, replace=replace)
        response = self._connection.send(self._datasets.UploadImages, messages)
        return with_skipped(response, skipped)

    def upload_image(
        self, dataset: str, path: str, content: bytes, *, replace: bool = False
    ) -> UploadImagesResponse:
        """Store one image or mask in an existing dataset.

        Args:
            dataset: name of the dataset.
            path: path in the dataset, such as ``ground_truth/crack/003_mask.png``.
            content: encoded image.
            replace: replace an image with other content, as with ``upload``.

        Raises:
            AlreadyExists: if the path has other content, and it is not to be replaced.
            InvalidArgument: if the path or the image cannot be stored.
        """
        messages = image_messages(dataset_name(dataset), path, content, replace=replace)
        return self._connection.send(self._datasets.UploadImages, messages)

    def upload_images(
        self, dataset: str, images: Iterable[ImageContent], *, replace: bool = False
    ) -> UploadImagesResponse:
        """Upload images from memory to an existing dataset.

        Images that cannot be stored are skipped, and the response lists them with reasons.

        Args:
            dataset: name of the dataset.
            images: images with their paths in the dataset, taken one after the other in another thread.
            replace: replace images whose content has changed. They are skipped otherwise.
        """
        messages = content_messages(dataset_name(dataset), images, replace=replace)
        return self._connection.send(self._datasets.UploadImages, messages)

    def import_dataset(
        self,
        dataset_id: str,
        path: str,
        *,
        category: str = "",
        replace: bool = False,
        white_level: int = 0,
        **options: Unpack[FolderOptions],
    ) -> ImportDatasetResponse:
        """Copy a folder of the server's file system into a new or existing dataset.

        See ``upload``, and ``create_dataset`` for the white level; 0 keeps that of an existing dataset.
        """
        request = import_request(
            dataset_id, path, options, category=category, replace=replace, white_level=white_level
        )
        return self._connection.call_without_timeout(self._datasets.ImportDataset, request)

    def dataset(self, name: str) -> Dataset:
        request = dataset_pb2.GetDatasetRequest(name=dataset_name(name))
        return self._connection.call(self._datasets.GetDataset, request).dataset

    def datasets(self) -> Iterator[Dataset]:
        """Yield all datasets by name."""
        return self._connection.pages(
            self._datasets.ListDatasets, dataset_pb2.ListDatasetsRequest(), lambda page: page.datasets
        )

    def images(self, dataset: str, *, under: str = "") -> Iterator[DatasetImage]:
        """Yield the images and masks of a dataset whose paths begin with ``under``, by path."""
        request = images_request(dataset, under)
        return self._connection.pages(self._datasets.ListImages, request, lambda page: page.images)

    def dataset_image(self, dataset: str, path: str, **options: Unpack[ImageOptions]) -> StoredImage:
        """Return an image or a mask of a dataset, by its path or original path.

        Args:
            dataset: name of the dataset.
            path: path, or path of the file that was uploaded.
            **options: see ``ImageOptions``.
        """
        request = dataset_image_request(dataset, path, options)
        return receive_image(self._connection.stream(self._datasets.GetImage, request))

    def add_items(
        self, dataset: str, model: str, items: Iterable[str], **options: Unpack[AdditionOptions]
    ) -> list[AddedItem]:
        """Copy the images of indexed items into a dataset; return what became of each.

        Args:
            dataset: name of an existing dataset.
            model: model or version with the items in its index.
            items: names of the items.
            **options: see ``AdditionOptions``.
        """
        added: list[AddedItem] = []
        for request in addition_requests(dataset, model, items, options):
            added += self._connection.call_without_timeout(self._datasets.AddItems, request).items
        return added

    def delete_images(self, dataset: str, paths: Iterable[str]) -> DeleteImagesResponse:
        """Delete images, their masks and their index entries."""
        request = dataset_pb2.DeleteImagesRequest(dataset=dataset_name(dataset), paths=paths)
        return self._connection.call_without_timeout(self._datasets.DeleteImages, request)

    def move_images(self, dataset: str, paths: Iterable[str], folder: str) -> MoveImagesResponse:
        """Move images to another class with their masks, all of them or none.

        Masks of images that become good are deleted.

        Args:
            dataset: name of the dataset.
            paths: paths or original paths of at most 1000 images.
            folder: train/good or test/CLASS.
        """
        request = dataset_pb2.MoveImagesRequest(dataset=dataset_name(dataset), paths=paths, folder=folder)
        return self._connection.call_without_timeout(self._datasets.MoveImages, request)

    def unpaired(self, dataset: str) -> UnpairedFiles:
        """Return the masks without an image and the defective test images without a mask.

        Both are empty if the server is older than this call.
        """
        request = dataset_pb2.GetDatasetRequest(name=dataset_name(dataset))
        return (self._connection.call(self._datasets.GetDataset, request)).unpaired

    def delete_dataset(self, dataset: str) -> None:
        """Delete a dataset and its index entries. Models trained on it remain."""
        request = dataset_pb2.DeleteDatasetRequest(name=dataset_name(dataset))
        self._connection.call_without_timeout(self._datasets.DeleteDataset, request)

    # Jobs

    def estimate_training(self, dataset: str, **options: Unpack[TrainOptions]) -> EstimateTrainingResponse:
        """Estimate the time of a training, and of a frame of its model, without starting it.

        The answer has a reason in place of an estimate if no running worker has measured its speed.

        Args:
            dataset: name of the dataset.
            **options: options of ``train``. Masks, priority and limits are not considered.

        Raises:
            OSError: if the mask is a path, and the file cannot be read.
            ValueError: if the mask is neither a PNG nor JSON with polygons.
        """
        return self._connection.call(self._jobs.EstimateTraining, estimate_request(dataset, options))

    def train(self, dataset: str, **options: Unpack[TrainOptions]) -> Job:
        """Start a job that trains a model on the good training images of a dataset.

        Args:
            dataset: name of the dataset.
            **options: see ``TrainOptions``.

        Raises:
            OSError: if the mask is a path, and the file cannot be read.
            ValueError: if the mask is neither a PNG nor JSON with polygons.
        """
        return self._create_job(train_request(dataset, options))

    def embed(self, model: str, dataset: str | None, **options: Unpack[JobOptions]) -> Job:
        """Start a job that scores images and adds them to the index of a model version.

        Args:
            model: model or version.
            dataset: name of the dataset, or None for the frames that were kept of the model.
            **options: see ``JobOptions``.
        """
        return self._create_job(embed_request(model, dataset, options))

    def evaluate(self, model: str, dataset: str, **options: Unpack[JobOptions]) -> Job:
        """Start a job that measures a model version on the test images of a dataset."""
        return self._create_job(evaluate_request(model, dataset, options))

    def _create_job(self, request: CreateJobRequest) -> Job:
        return self._connection.call_with_retries(self._jobs.CreateJob, request).job

    def job(self, name: str) -> Job:
        request = job_pb2.GetJobRequest(name=job_name(name))
        return self._connection.call(self._jobs.GetJob, request).job

    def jobs(self, *, states: Iterable[JobState | job_pb2.JobState.ValueType] = ()) -> Iterator[Job]:
        """Yield jobs, the newest first. With ``states``, only jobs in one of them."""
        return self._connection.pages(self._jobs.ListJobs, jobs_request(states), lambda page: page.jobs)

    def watch(self, job: Job | str) -> Iterator[Job]:
        """Yield the job as it is, then after every change, until it has ended.

        After a lost connection the watch resumes, for as long as the retry policy allows.
        """
        return watching.watch(self._connection, name_of(job))

    def wait(self, job: Job | str) -> Job:
        """Return the job once it has ended. Its ``state`` and ``error`` show the outcome."""
        *_, last = self.watch(job)
        return last

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job. A job that has ended is returned unchanged."""
        request = job_pb2.CancelJobRequest(name=name_of(job))
        return self._connection.call(self._jobs.CancelJob, request).job

    def log(self, job: Job | str, *, after: str = "") -> Iterator[LogLine]:
        """Yield the log lines of a job, past and future, until it has ended.

        Args:
            job: job or its name.
            after: id of a line. Only later lines are yielded.
        """
        return watching.log(self._connection, name_of(job), after)

    def workers(self) -> list[Worker]:
        """Return the running workers by name."""
        return list(self._connection.call(self._jobs.ListWorkers, job_pb2.ListWorkersRequest()).workers)

    # Models

    def pin(self, version: str, pinned: bool = True) -> ModelVersion:
        """Pin a version so that workers do not remove it as an old one, or unpin it."""
        request = model_pb2.PinModelRequest(name=model_name(version), pinned=pinned)
        return self._connection.call(self._models.PinModel, request).version

    def model(self, name: str) -> ModelVersion:
        """Return the card of one version."""
        request = model_pb2.GetModelRequest(name=model_name(name))
        return self._connection.call(self._models.GetModel, request).version

    def models(self) -> Iterator[Model]:
        """Yield all models by name, each with its versions, the newest first."""
        return self._connection.pages(
            self._models.ListModels, model_pb2.ListModelsRequest(), lambda page: page.models
        )

    def compare(self, first: str, second: str, *, dataset: str = "") -> CompareModelsResponse:
        """Compare two versions on the test images that both have scored in an evaluation.

        Args:
            first: model or version.
            second: model or version.
            dataset: name of the dataset, by default the one on which both were trained.
        """
        request = compare_request(first, second, dataset)
        return self._connection.call(self._models.CompareModels, request)

    def suspects(self, dataset: str, *, model: str = "", limit: int = 10) -> ListSuspectsResponse:
        """Return the good training images with the highest scores, of which one may be defective.

        Args:
            dataset: name of the dataset.
            model: model or version whose scores to take, by default the newest one trained on the dataset.
            limit: number of held-out and of learned images.
        """
        request = suspects_request(dataset, model, limit)
        return self._connection.call(self._models.ListSuspects, request)

    def scores(self, model: str) -> ModelScores:
        """Return the scores of a version's held-out good images, and of the test images of its training.

        Args:
            model: model or version.
        """
        found = ModelScores()
        request = model_pb2.ListScoresRequest(name=model_name(model))
        for message in self._connection.stream(self._models.ListScores, request):
            found.add(message)
        return found

    def promote(self, version: str, *, keep_target: bool | None = None, author: str = "") -> ModelVersion:
        """Promote a version to production. Promoting an older version rolls back.

        The ``calibration`` of the returned card is the one by which the version judges from now on.

        Args:
            version: name with the version number.
            keep_target: True to carry over the target false-reject rate and the regions of the version in
                production, False for the version's own calibration. None for its own too, but the call
                fails with ``FailedPrecondition`` and the reason ``errors.CONFIRMATION_NEEDED`` if a
                calibration that a person has set would be lost.
            author: name of the person, for the calibration that keeps a target.
        """
        request = promote_request(version, keep_target, author)
        return self._connection.call(self._models.PromoteModel, request).version

    def shadow(self, version: str, shadow: bool = True) -> ModelVersion:
        """Start or stop a shadow deployment.

        A shadow scores live images next to the version in production without affecting any answer. Its card
        shows how the verdicts compare.
        """
        request = model_pb2.ShadowModelRequest(name=model_name(version), shadow=shadow)
        return self._connection.call(self._models.ShadowModel, request).version

    def export_model(
        self, model: str, file: Path | str, *, on_bytes: Callable[[int, int], None] | None = None
    ) -> None:
        """Write a version to a file for ``import_model`` of another server.

        Args:
            model: model or version.
            file: file to write. It is replaced only by a complete export.
            on_bytes: called with the bytes received and the total.

        Raises:
            OSError: if the file cannot be written.
        """
        request = model_pb2.ExportModelRequest(name=model_name(model))
        answers = self._connection.stream(self._models.ExportModel, request, without_timeout=True)
        size = 0
        with staged(Path(file)) as out:
            for answer in answers:
                size = size or answer.size_bytes
                out.write(answer.chunk)
                if on_bytes is not None:
                    on_bytes(out.tell(), size)

    def import_model(
        self,
        file: Path | str,
        *,
        model_id: str = "",
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> ModelVersion:
        """Import an exported version as the next version of a model. It is not promoted.

        Args:
            file: file that ``export_model`` wrote.
            model_id: id of the model. Empty for the id under which it was exported.
            on_bytes: called with the bytes sent and the total, in another thread.

        Raises:
            OSError: if the file cannot be read.
        """
        messages = import_messages(Path(file), model_id, on_bytes)
        return self._connection.send(self._models.ImportModel, messages).version

    def export_stream(self, model: str) -> Iterator[ExportModelResponse]:
        """Yield an exported version as it comes: its size first, then its bytes in chunks.

        Args:
            model: model or version.
        """
        request = model_pb2.ExportModelRequest(name=model_name(model))
        yield from self._connection.stream(self._models.ExportModel, request, without_timeout=True)

    def import_stream(
        self, chunks: Iterable[bytes], size_bytes: int, *, model_id: str = ""
    ) -> ModelVersion:
        """Import an exported version from its bytes, as ``import_model`` does from a file.

        Args:
            chunks: bytes of the file, taken as fast as the server receives them, in another thread.
            size_bytes: number of bytes.
            model_id: id of the model. Empty for the id under which it was exported.

        Raises:
            Exception: any exception that ``chunks`` raises.
        """
        messages = import_stream_messages(chunks, size_bytes, model_id)
        return self._connection.send(self._models.ImportModel, messages).version

    def delete_model(self, model: str, *, force: bool = False) -> None:
        """Delete a version, or a model with all its versions and kept frames.

        Args:
            model: version or model.
            force: delete a model even if one of its versions is in production.
        """
        request = model_pb2.DeleteModelRequest(name=model_name(model), force=force)
        self._connection.call_without_timeout(self._models.DeleteModel, request)

    def report(self, model: str, *, evaluation: Job | str = "") -> bytes:
        """Return the HTML report of a version's training, or of an evaluation job."""
        request = report_request(model, evaluation)
        answers = self._connection.stream(self._models.GetReport, request)
        return b"".join(answer.chunk for answer in answers)

    def update_calibration(
        self,
        version: str,
        *,
        author: str,
        comment: str = "",
        expected_revision: int = 0,
        acknowledge_extreme: bool = False,
        **change: Unpack[CalibrationOptions],
    ) -> ModelVersion:
        """Change the threshold or the regions of a version, effective from the next frame.

        Args:
            version: name with the version number.
            author: name of the person who changes it.
            comment: reason for the change.
            expected_revision: revision that the change requires to be current. 0 for any.
            acknowledge_extreme: confirm a threshold that rejects all or nothing. Without it, such a change
                fails with ``FailedPrecondition`` and the reason ``errors.CONFIRMATION_NEEDED``.
            **change: see ``CalibrationOptions``.

        Raises:
            ValueError: if more than one of the four thresholds is given, or nothing is changed.
        """
        request = update_request(
            version,
            change,
            author=author,
            comment=comment,
            expected_revision=expected_revision,
            acknowledge_extreme=acknowledge_extreme,
        )
        return self._connection.call(self._models.UpdateCalibration, request).version

    def preview_calibration(
        self,
        version: str,
        *,
        period: timedelta | None = None,
        max_frames: int = 0,
        **change: Unpack[CalibrationOptions],
    ) -> PreviewCalibrationResponse:
        """Return what ``update_calibration`` would change, and change nothing.

        Args:
            version: name with the version number.
            period: period until now from which kept frames are compared. None for 7 days.
            max_frames: largest number of kept frames to return, at most 1000. 0 for 20.
            **change: see ``CalibrationOptions``.

        Raises:
            ValueError: if more than one of the four thresholds is given, or nothing is changed.
        """
        request = preview_request(version, change, period=period, max_frames=max_frames)
        return self._connection.call(self._models.PreviewCalibration, request)
