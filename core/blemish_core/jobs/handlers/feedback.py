# SPDX-License-Identifier: Apache-2.0
"""What people said of images, as something to learn from."""

from collections.abc import Callable, Iterator
from functools import partial

from blemish_core.detectors.base import Image, Progress, ReadImage
from blemish_core.imaging.decode import decode
from blemish_core.jobs.context import JobContext, patiently
from blemish_core.jobs.record import TrainSpec
from blemish_core.platform.errors import BlemishError
from blemish_core.platform.names import ModelRef
from blemish_core.search.conditions import one_of
from blemish_core.search.item import Item, Label
from blemish_core.search.item_images import ItemImages

_PAGE = 500
_GOOD = one_of("label", [Label.FALSE_ALARM, Label.GOOD])


def good_images(
    place: JobContext, spec: TrainSpec, progress: Progress, note: Callable[[str], None]
) -> list[ReadImage]:
    """Return readers of the images that people called false alarms or good, each content once.

    Raises:
        NotFound: if there is no such model, or it has no index.
    """
    ref = ModelRef.parse(spec.false_alarms_of, "train.false_alarms_of")
    version = patiently(progress, lambda: place.index.resolve(ref, place.models.resolve(ref)))
    known = {image.sha256 for image in place.datasets.images(spec.dataset)}
    found: dict[str, Item] = {}
    unreadable = of_the_dataset = 0
    for item in _labelled(place, version, progress):
        if item.sha256 in known:
            of_the_dataset += 1  # learned from already, or to be measured on
            continue
        try:
            _read(place, version, item)
        except BlemishError:
            unreadable += 1
            continue
        found[item.sha256] = item
    told = f"{len(found)} images that people labelled as false alarms or good are learned from too"
    if of_the_dataset:
        told += f"; {of_the_dataset} are of the dataset itself and left out"
    if unreadable:
        told += f"; {unreadable} cannot be read any more and were skipped"
    note(told)
    return [partial(_read, place, version, item) for item in found.values()]


def _labelled(place: JobContext, version: ModelRef, progress: Progress) -> Iterator[Item]:
    after = None
    while True:
        items, after = patiently(progress, partial(place.index.items, version, _GOOD, _PAGE, after))
        yield from items
        if after is None:
            return


def _read(place: JobContext, version: ModelRef, item: Item) -> Image:
    return decode(ItemImages(place.datasets, place.frames).read(version, item), place.limits)
