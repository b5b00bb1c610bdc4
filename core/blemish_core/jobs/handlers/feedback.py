# SPDX-License-Identifier: Apache-2.0
"""The images that people labelled good in a search index, as training images."""

from collections.abc import Iterator
from functools import partial

from blemish_core.detectors.base import Image, ReadImage
from blemish_core.imaging.decode import decode
from blemish_core.imaging.frame_mask import size_mismatch
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.record import TrainSpec
from blemish_core.jobs.reporter import JobReporter, waiting_for_qdrant
from blemish_core.jobs.retry import retry_until_available
from blemish_core.models.good_images import GoodImage
from blemish_core.platform.errors import BlemishError
from blemish_core.platform.names import ModelRef
from blemish_core.search.conditions import one_of
from blemish_core.search.item import Item, Label
from blemish_core.search.item_images import ItemImages

_PAGE = 500
_GOOD = one_of("label", [Label.FALSE_ALARM, Label.GOOD])


def load_good_images(
    context: JobContext, spec: TrainSpec, level: WhiteLevel, reporter: JobReporter
) -> list[tuple[GoodImage, ReadImage]]:
    """Return the images labelled as false alarms or good with their readers, each content once.

    Images of the dataset are left out: they are trained on already, or measured on later.

    Raises:
        NotFound: if there is no such model, or it has no index.
        Unavailable: if Qdrant does not answer for a minute.
    """
    ref = ModelRef.parse(spec.false_alarms_of, "train.false_alarms_of")
    resolved = context.models.resolve(ref)
    version = retry_until_available(
        lambda: context.index.resolve(ref, resolved), on_retry=waiting_for_qdrant(reporter)
    )
    known = {image.sha256 for image in context.datasets.images(spec.dataset)}
    found: dict[str, Item] = {}
    unreadable = in_dataset = misfits = 0
    for item in _labelled_good(context, version, reporter):
        if item.sha256 in known:
            in_dataset += 1
            continue
        try:
            height, width, _ = _read(context, version, level, item).shape
        except BlemishError:
            unreadable += 1
            continue
        mask = spec.mask
        if mask is not None and size_mismatch((height, width), (mask.height, mask.width)):
            misfits += 1
            continue
        found[item.sha256] = item
    summary = f"trained on {len(found)} more images that were labelled as false alarms or good"
    if in_dataset:
        summary += f"; left out {in_dataset} that belong to the dataset"
    if misfits:
        summary += f"; left out {misfits} of another aspect ratio than the mask"
    if unreadable:
        summary += f"; skipped {unreadable} that cannot be read any more"
    reporter.warn(summary)
    return [
        (
            GoodImage(path=f"items/{item.id}", original=item.original_path, sha256=item.sha256),
            partial(_read, context, version, level, item),
        )
        for item in found.values()
    ]


def _labelled_good(context: JobContext, version: ModelRef, reporter: JobReporter) -> Iterator[Item]:
    after = None
    while True:
        items, after = retry_until_available(
            partial(context.index.items, version, _GOOD, _PAGE, after),
            on_retry=waiting_for_qdrant(reporter),
        )
        yield from items
        if after is None:
            return


def _read(context: JobContext, version: ModelRef, level: WhiteLevel, item: Item) -> Image:
    return decode(ItemImages(context.datasets, context.frames).read(version, item), context.limits, level)
