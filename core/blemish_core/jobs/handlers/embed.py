# SPDX-License-Identifier: Apache-2.0
"""The embedding of a shard of images into the search index of a model version."""

from functools import partial

import numpy as np

from blemish_core.calibration import Calibration
from blemish_core.datasets.reading import ImageReader
from blemish_core.evaluation.scoring import ScoredImage, score_images
from blemish_core.imaging.frame_mask import FrameMask, visible
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.embed_source import images_to_embed
from blemish_core.jobs.handlers.detector_cache import DetectorCache
from blemish_core.jobs.messages import Embed
from blemish_core.jobs.reporter import JobReporter, waiting_for_qdrant
from blemish_core.jobs.retry import retry_until_available
from blemish_core.jobs.shards import EMBEDDING, Shard
from blemish_core.localization.defect_region import DefectRegion
from blemish_core.localization.find_regions import find_regions
from blemish_core.platform.names import ModelRef
from blemish_core.search.item import CAMERA, DATASET, Item, item_id


def embed(context: JobContext, detectors: DetectorCache, step: Embed, reporter: JobReporter) -> int:
    """Score the images of a shard and write their embeddings to the index.

    Returns:
        The number of points written, one for each readable content.

    Raises:
        Corrupt: if too many images cannot be read.
        Unavailable: if Qdrant does not answer for a minute.
    """
    manifest, detector = detectors.load(step.spec.model)
    version = ModelRef(manifest.model, manifest.version)
    # One calibration for the whole shard, even if it is updated meanwhile.
    calibration = context.models.calibrations(manifest, detector.runtime.name).newest().calibration
    source, all_images = images_to_embed(step.spec, context.datasets, context.frames)
    shard = Shard(step.shard, step.shards)
    images = [image for image in all_images if shard.contains(image)]
    reader = ImageReader(source, context.limits, images, manifest.white_level)
    on_retry = waiting_for_qdrant(reporter)
    written = 0
    for batch in score_images(reader, detector, images, partial(reporter.progress, EMBEDDING)):
        vectors = np.stack([scored.prediction.embedding for scored in batch])
        if not written:
            retry_until_available(
                partial(context.index.prepare, version, vectors.shape[1]), on_retry=on_retry
            )
        items = [_item(version, calibration, scored, reader, detector.mask) for scored in batch]
        retry_until_available(
            partial(context.index.put, version, items, vectors, step.job), on_retry=on_retry
        )
        written += len(batch)
    if (warning := reader.warning()) is not None:
        reporter.warn(warning)
    return written


def _item(
    version: ModelRef,
    calibration: Calibration,
    scored: ScoredImage,
    reader: ImageReader,
    mask: FrameMask | None,
) -> Item:
    image, score = scored.image, scored.prediction.score
    regions: tuple[DefectRegion, ...] = ()
    # Few images are anomalous: to decode these again takes less memory than to keep all pixels of a batch.
    if calibration.is_anomalous(score) and (pixels := reader.read(image)) is not None:
        anomaly_map, threshold = scored.prediction.anomaly_map, calibration.pixel_threshold
        regions = find_regions(anomaly_map, visible(pixels, mask), threshold, calibration.regions)
    return Item(
        item_id(version, image.sha256),
        source=DATASET if image.dataset else CAMERA,
        dataset=image.dataset,
        category=image.category,
        path=image.path if image.dataset else "",
        original_path=image.original,
        class_name=image.class_name,
        sha256=image.sha256,
        score=score,
        p_value=calibration.p_value(score),
        anomalous=calibration.is_anomalous(score),
        regions=regions,
    )
