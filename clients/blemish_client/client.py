# SPDX-License-Identifier: Apache-2.0
"""The blocking client of all services of blemish.v1."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from blemish.v1 import dataset_pb2, job_pb2, model_pb2, search_pb2
from blemish.v1.audit_pb2 import AUDIT_STAGE_ENDED, AuditEntry, ListAuditEntriesRequest
from blemish.v1.audit_pb2_grpc import AuditServiceStub
from blemish.v1.dataset_pb2 import (
    AddedItem,
    Dataset,
    DatasetImage,
    DeleteImagesResponse,
    ImportDatasetResponse,
    UploadImagesResponse,
)
from blemish.v1.dataset_pb2_grpc import DatasetServiceStub
from blemish.v1.image_pb2 import RENDITION_MAP, RENDITION_ORIGINAL, RENDITION_THUMBNAIL, AnomalyMap
from blemish.v1.inspection_pb2 import Inspection, WatchInspectionsResponse
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish.v1.job_pb2 import (
    CreateJobRequest,
    EfficientAd,
    Job,
    LogLine,
    PatchCore,
    Worker,
)
from blemish.v1.job_pb2_grpc import JobServiceStub
from blemish.v1.model_pb2 import (
    CompareModelsResponse,
    ListSuspectsResponse,
    Model,
    ModelVersion,
    PreviewCalibrationResponse,
    RegionSettings,
)
from blemish.v1.model_pb2_grpc import ModelServiceStub
from blemish.v1.search_pb2 import Hit
from blemish.v1.search_pb2_grpc import SearchServiceStub
from blemish.v1.server_pb2 import GetServerInfoRequest, GetServerInfoResponse
from blemish.v1.server_pb2_grpc import ServerServiceStub
from blemish_client.images import ImageLike
from blemish_client.names import dataset_name, item_name, job_name, model_name
from blemish_client.search import SearchResults
from blemish_client.shared import SharedClient
from blemish_client.streaming.frame_stream import FrameStream
from blemish_client.streaming.ledger import FrameResult, Ledger, LostFrames
from blemish_client.transport import inspection_watch, watching
from blemish_client.transport.connection import Connection, pages
from blemish_client.transport.requests import (
    FrameStreamOptions,
    InspectionWatchOptions,
    JobOptions,
    ScoreOptions,
    SearchOptions,
    SearchQuery,
    TrainingMask,
    aligned_mask,
    calibration_choice,
    calibration_request,
    create_job_request,
    inspection_watch_request,
    score_request,
    search_request,
    stream_config,
    training_mask,
)
from blemish_client.transport.upload import (
    FolderOptions,
    ImageFile,
    folder_conversion,
    import_messages,
    scan_folder,
    upload_messages,
    with_skipped,
)
from blemish_client.types.enums import JobState, Label
from blemish_client.types.frame import FrameLike
from blemish_client.types.stored_image import StoredImage, receive_image, receive_map

_IMAGES_PER_PAGE = 1000
_ITEMS_PER_PAGE = 1000
_ITEMS_PER_ADDITION = 100
_ENTRIES_PER_PAGE = 500


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

    def audit_entries(
        self,
        *,
        caller: str = "",
        action: str = "",
        resource: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
        only_failed: bool = False,
    ) -> Iterator[AuditEntry]:
        """Yield the calls in the audit log, the last ended first, with one entry each.

        A call in progress, or one during which the server was killed, has an entry without an end time.

        Args:
            caller: name of the caller.
            action: name of the RPC, such as PromoteModel.
            resource: resource, or one that contains it.
            start: earliest begin of a call, with a time zone.
            end: time before which a call began, with a time zone.
            only_failed: yield only calls that ended with an error.
        """
        request = ListAuditEntriesRequest(
            page_size=_ENTRIES_PER_PAGE,
            caller=caller,
            action=action,
            resource=resource,
            only_failed=only_failed,
        )
        if start is not None:
            request.start_time.FromDatetime(start)
        if end is not None:
            request.end_time.FromDatetime(end)
        ended: set[str] = set()

        def page(token: str) -> tuple[Iterable[AuditEntry], str]:
            request.page_token = token
            answer = self._connection.call(self._audit.ListAuditEntries, request)
            return answer.entries, answer.next_page_token

        for entry in pages(page):
            if entry.stage == AUDIT_STAGE_ENDED:
                ended.add(entry.id)
                yield entry
            elif entry.id in ended:
                ended.remove(entry.id)
            else:
                yield entry

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
    ) -> Iterator[WatchInspectionsResponse]:
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

        def page(token: str) -> tuple[Iterable[Hit], str]:
            request = search_pb2.ListItemsRequest(
                model=model_name(model),
                where=where,
                order_by=order_by,
                page_size=_ITEMS_PER_PAGE,
                page_token=token,
            )
            answer = self._connection.call(self._search.ListItems, request)
            return answer.items, answer.next_page_token

        return pages(page)

    def count_items(self, model: str, *, where: str = "") -> int:
        """Return the number of indexed images that match a filter condition."""
        request = search_pb2.ListItemsRequest(model=model_name(model), where=where, page_size=1)
        return self._connection.call(self._search.ListItems, request).total_size

    def item_image(
        self,
        item: str,
        model: str,
        *,
        thumbnail: int = 0,
        read_offset: int = 0,
        read_limit: int = 0,
    ) -> StoredImage:
        """Return the image of an indexed item, as it was received or as a small JPEG.

        Args:
            item: name of the item, the first 4 or more digits of its id, or ``latest``.
            model: model or version with the item in its index.
            thumbnail: longer side of a JPEG in px, 16 to 2048; 0 for the original.
            read_offset: first byte of the original.
            read_limit: most bytes of the original; 0 for all.
        """
        request = search_pb2.GetItemImageRequest(
            model=model_name(model),
            item=item_name(item),
            rendition=RENDITION_THUMBNAIL if thumbnail else RENDITION_ORIGINAL,
            max_side=thumbnail,
            read_offset=read_offset,
            read_limit=read_limit,
        )
        return receive_image(self._connection.stream(self._search.GetItemImage, request))

    def item_map(self, item: str, model: str) -> AnomalyMap:
        """Return the anomaly map of an indexed item, computed with the version of the index."""
        request = search_pb2.GetItemImageRequest(
            model=model_name(model), item=item_name(item), rendition=RENDITION_MAP
        )
        return receive_map(self._connection.stream(self._search.GetItemImage, request))

    def label(
        self,
        item: str,
        model: str,
        label: Label | search_pb2.Label.ValueType,
        label_class: str = "",
        *,
        expected: Label | search_pb2.Label.ValueType = search_pb2.LABEL_UNSPECIFIED,
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
        request = search_pb2.LabelItemRequest(
            model=model_name(model),
            item=item_name(item),
            label=search_pb2.Label.ValueType(label),
            label_class=label_class,
            expected_label=search_pb2.Label.ValueType(expected),
            expected_label_class=expected_class,
        )
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
        conversion = folder_conversion(options, category)
        request = dataset_pb2.ImportDatasetRequest(
            dataset_id=dataset_id,
            category=category,
            path=path,
            replace=replace,
            good=sorted(conversion.good),
            only_defective=conversion.only_defective,
            layout=conversion.layout,
            bad=sorted(conversion.bad),
            masks=sorted(conversion.masks),
            white_level=white_level,
        )
        return self._connection.call_without_timeout(self._datasets.ImportDataset, request)

    def dataset(self, name: str) -> Dataset:
        request = dataset_pb2.GetDatasetRequest(name=dataset_name(name))
        return self._connection.call(self._datasets.GetDataset, request).dataset

    def datasets(self) -> Iterator[Dataset]:
        """Yield all datasets by name."""

        def page(token: str) -> tuple[Iterable[Dataset], str]:
            request = dataset_pb2.ListDatasetsRequest(page_token=token)
            answer = self._connection.call(self._datasets.ListDatasets, request)
            return answer.datasets, answer.next_page_token

        return pages(page)

    def images(self, dataset: str, *, under: str = "") -> Iterator[DatasetImage]:
        """Yield the images and masks of a dataset whose paths begin with ``under``, by path."""

        def page(token: str) -> tuple[Iterable[DatasetImage], str]:
            request = dataset_pb2.ListImagesRequest(
                dataset=dataset_name(dataset),
                page_size=_IMAGES_PER_PAGE,
                page_token=token,
                path_prefix=under,
            )
            answer = self._connection.call(self._datasets.ListImages, request)
            return answer.images, answer.next_page_token

        return pages(page)

    def dataset_image(
        self,
        dataset: str,
        path: str,
        *,
        thumbnail: int = 0,
        read_offset: int = 0,
        read_limit: int = 0,
    ) -> StoredImage:
        """Return an image or a mask of a dataset, by its path or original path. See ``item_image``."""
        request = dataset_pb2.GetImageRequest(
            dataset=dataset_name(dataset),
            path=path,
            rendition=RENDITION_THUMBNAIL if thumbnail else RENDITION_ORIGINAL,
            max_side=thumbnail,
            read_offset=read_offset,
            read_limit=read_limit,
        )
        return receive_image(self._connection.stream(self._datasets.GetImage, request))

    def add_items(
        self,
        dataset: str,
        model: str,
        items: Iterable[str],
        *,
        split: str = "test",
        default_class: str = "",
        unlabelled_class: str = "",
        author: str = "",
    ) -> list[AddedItem]:
        """Copy the images of indexed items into a dataset; return what became of each.

        Args:
            dataset: name of an existing dataset.
            model: model or version with the items in its index.
            items: names of the items.
            split: ``test`` or ``train``, which takes only good images.
            default_class: class of confirmed defects that have none, ``defect`` if empty.
            unlabelled_class: class of items without a label. Empty leaves them out.
            author: person who adds them; the caller if empty.
        """
        names, added = list(map(item_name, items)), list[AddedItem]()
        for start in range(0, len(names), _ITEMS_PER_ADDITION):
            request = dataset_pb2.AddItemsRequest(
                dataset=dataset_name(dataset),
                model=model_name(model),
                items=names[start : start + _ITEMS_PER_ADDITION],
                split=split,
                default_class=default_class,
                unlabelled_class=unlabelled_class,
                author=author,
            )
            added += self._connection.call_without_timeout(self._datasets.AddItems, request).items
        return added

    def delete_images(self, dataset: str, paths: Iterable[str]) -> DeleteImagesResponse:
        """Delete images, their masks and their index entries."""
        request = dataset_pb2.DeleteImagesRequest(dataset=dataset_name(dataset), paths=paths)
        return self._connection.call_without_timeout(self._datasets.DeleteImages, request)

    def delete_dataset(self, dataset: str) -> None:
        """Delete a dataset and its index entries. Models trained on it remain."""
        request = dataset_pb2.DeleteDatasetRequest(name=dataset_name(dataset))
        self._connection.call_without_timeout(self._datasets.DeleteDataset, request)

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
        keep_target: bool | None = None,
        false_alarms_of: str = "",
        mask: "TrainingMask | None" = None,
        align: bool = False,
        reference: str = "",
        **options: Unpack[JobOptions],
    ) -> Job:
        """Start a job that trains a model on the good training images of a dataset.

        Args:
            dataset: name of the dataset.
            model_id: id of the model. Empty for ``{dataset}-{detector}``.
            detector: settings of the detector. None for PatchCore with its defaults.
            seed: seed of the training. The same seed and images give the same model.
            target_false_reject_rate: share of good images that the threshold may reject, at most 0.5.
                0 for the server's default of 0.05.
            promote: promote the version to production.
            keep_target: with ``promote``, as in the method ``promote``. With None the version is not
                promoted if a calibration that a person has set would be lost; the job then has a warning.
            false_alarms_of: model from whose index images labelled as good are also learned.
            mask: pixels that the model looks at, None for all: a black-and-white picture, white where it
                looks, or polygons as JSON with width, height, and the lists include and ignore. Give a
                path, the content of a file, an array (height, width), or an image of Pillow.
            align: move the mask with the part, which may be shifted and slightly turned in a frame.
            reference: image of the dataset on which the mask was drawn, such as ``train/good/003.png``.
                Empty for the first training image; otherwise it implies ``align``.
            **options: see ``JobOptions``.

        Raises:
            OSError: if the mask is a path, and the file cannot be read.
            ValueError: if the mask is neither a PNG nor JSON with polygons.
        """
        frame_mask = training_mask(mask) if mask is not None else None
        if align or reference:
            frame_mask = aligned_mask(frame_mask, reference)
        work = job_pb2.Train(
            dataset=dataset_name(dataset),
            model_id=model_id,
            patchcore=None if isinstance(detector, EfficientAd) else detector or PatchCore(),
            efficientad=detector if isinstance(detector, EfficientAd) else None,
            seed=seed,
            target_false_reject_rate=target_false_reject_rate,
            promote=promote,
            promoted_calibration=calibration_choice(keep_target),
            false_alarms_of=model_name(false_alarms_of) if false_alarms_of else "",
            mask=frame_mask,
        )
        return self._create_job(create_job_request(options, train=work))

    def embed(self, model: str, dataset: str | None, **options: Unpack[JobOptions]) -> Job:
        """Start a job that scores images and adds them to the index of a model version.

        Args:
            model: model or version.
            dataset: name of the dataset, or None for the frames that were kept of the model.
            **options: see ``JobOptions``.
        """
        if dataset is None:
            work = job_pb2.Embed(model=model_name(model), kept_frames=True)
        else:
            work = job_pb2.Embed(model=model_name(model), dataset=dataset_name(dataset))
        return self._create_job(create_job_request(options, embed=work))

    def evaluate(self, model: str, dataset: str, **options: Unpack[JobOptions]) -> Job:
        """Start a job that measures a model version on the test images of a dataset."""
        work = job_pb2.Evaluate(model=model_name(model), dataset=dataset_name(dataset))
        return self._create_job(create_job_request(options, evaluate=work))

    def _create_job(self, request: CreateJobRequest) -> Job:
        return self._connection.call_with_retries(self._jobs.CreateJob, request).job

    def job(self, name: str) -> Job:
        request = job_pb2.GetJobRequest(name=job_name(name))
        return self._connection.call(self._jobs.GetJob, request).job

    def jobs(self, *, states: Iterable[JobState | job_pb2.JobState.ValueType] = ()) -> Iterator[Job]:
        """Yield jobs, the newest first. With ``states``, only jobs in one of them."""
        selected = tuple(job_pb2.JobState.ValueType(state) for state in states)

        def page(token: str) -> tuple[Iterable[Job], str]:
            request = job_pb2.ListJobsRequest(page_token=token, states=selected)
            answer = self._connection.call(self._jobs.ListJobs, request)
            return answer.jobs, answer.next_page_token

        return pages(page)

    def watch(self, job: Job | str) -> Iterator[Job]:
        """Yield the job as it is, then after every change, until it has ended.

        After a lost connection the watch resumes, for as long as the retry policy allows.
        """
        return watching.watch(self._connection, _name_of(job))

    def wait(self, job: Job | str) -> Job:
        """Return the job once it has ended. Its ``state`` and ``error`` show the outcome."""
        *_, last = self.watch(job)
        return last

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job. A job that has ended is returned unchanged."""
        request = job_pb2.CancelJobRequest(name=_name_of(job))
        return self._connection.call(self._jobs.CancelJob, request).job

    def log(self, job: Job | str, *, after: str = "") -> Iterator[LogLine]:
        """Yield the log lines of a job, past and future, until it has ended.

        Args:
            job: job or its name.
            after: id of a line. Only later lines are yielded.
        """
        return watching.log(self._connection, _name_of(job), after)

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

        def page(token: str) -> tuple[Iterable[Model], str]:
            request = model_pb2.ListModelsRequest(page_token=token)
            answer = self._connection.call(self._models.ListModels, request)
            return answer.models, answer.next_page_token

        return pages(page)

    def compare(self, first: str, second: str, *, dataset: str = "") -> CompareModelsResponse:
        """Compare two versions on the test images that both have scored in an evaluation.

        Args:
            first: model or version.
            second: model or version.
            dataset: name of the dataset, by default the one on which both were trained.
        """
        request = model_pb2.CompareModelsRequest(
            first=model_name(first),
            second=model_name(second),
            dataset=dataset_name(dataset) if dataset else "",
        )
        return self._connection.call(self._models.CompareModels, request)

    def suspects(self, dataset: str, *, model: str = "", limit: int = 10) -> ListSuspectsResponse:
        """Return the good training images with the highest scores, of which one may be defective.

        Args:
            dataset: name of the dataset.
            model: model or version whose scores to take, by default the newest one trained on the dataset.
            limit: number of held-out and of learned images.
        """
        request = model_pb2.ListSuspectsRequest(
            model=model_name(model) if model else "", dataset=dataset_name(dataset), limit=limit
        )
        return self._connection.call(self._models.ListSuspects, request)

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
        request = model_pb2.PromoteModelRequest(
            name=model_name(version), calibration=calibration_choice(keep_target), author=author
        )
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
        request = model_pb2.GetReportRequest(
            name=model_name(model), evaluation=_name_of(evaluation) if evaluation else ""
        )
        answers = self._connection.stream(self._models.GetReport, request)
        return b"".join(answer.chunk for answer in answers)

    def update_calibration(
        self,
        version: str,
        *,
        author: str,
        target_false_reject_rate: float | None = None,
        threshold: float | None = None,
        trained: bool = False,
        revision: int | None = None,
        regions: RegionSettings | None = None,
        comment: str = "",
        expected_revision: int = 0,
        acknowledge_extreme: bool = False,
    ) -> ModelVersion:
        """Change the threshold or the regions of a version, effective from the next frame.

        Args:
            version: name with the version number.
            author: name of the person who changes it.
            target_false_reject_rate: share of good images that the new threshold may reject, at most 0.5.
            threshold: new threshold, in units of the version's scores.
            trained: restore the threshold of the training.
            revision: restore the threshold and the regions of this earlier revision.
            regions: new settings of regions, which replace all present ones.
            comment: reason for the change.
            expected_revision: revision that the change requires to be current. 0 for any.
            acknowledge_extreme: confirm a threshold that rejects all or nothing. Without it, such a change
                fails with ``FailedPrecondition`` and the reason ``errors.CONFIRMATION_NEEDED``.

        Raises:
            ValueError: if more than one of the four thresholds is given, or nothing is changed.
        """
        request = calibration_request(
            version,
            target_false_reject_rate=target_false_reject_rate,
            threshold=threshold,
            trained=trained,
            revision=revision,
            regions=regions,
        )
        request.author, request.comment = author, comment
        request.expected_revision, request.acknowledge_extreme = expected_revision, acknowledge_extreme
        return self._connection.call(self._models.UpdateCalibration, request).version

    def preview_calibration(
        self,
        version: str,
        *,
        target_false_reject_rate: float | None = None,
        threshold: float | None = None,
        trained: bool = False,
        revision: int | None = None,
        regions: RegionSettings | None = None,
        period: timedelta | None = None,
        max_frames: int = 0,
    ) -> PreviewCalibrationResponse:
        """Return what ``update_calibration`` would change, and change nothing.

        Args:
            version: name with the version number.
            target_false_reject_rate: as in ``update_calibration``, like the next four.
            threshold: new threshold.
            trained: restore the threshold of the training.
            revision: restore this revision.
            regions: new settings of regions.
            period: period until now from which kept frames are compared. None for 7 days.
            max_frames: largest number of kept frames to return, at most 1000. 0 for 20.

        Raises:
            ValueError: if more than one of the four thresholds is given, or nothing is changed.
        """
        change = calibration_request(
            version,
            target_false_reject_rate=target_false_reject_rate,
            threshold=threshold,
            trained=trained,
            revision=revision,
            regions=regions,
        )
        request = model_pb2.PreviewCalibrationRequest(change=change, max_frames=max_frames)
        if period is not None:
            request.period.FromTimedelta(period)
        return self._connection.call(self._models.PreviewCalibration, request)


def _name_of(job: Job | str) -> str:
    return job_name(job) if isinstance(job, str) else job.name
