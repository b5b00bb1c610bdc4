# SPDX-License-Identifier: Apache-2.0
"""The alignment of a training's images, measured before the detector is trained."""

from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.jobs.handlers.publish import TrainingSet
from blemish_core.jobs.reporter import JobReporter
from blemish_core.platform.errors import FailedPrecondition

_MAX_FAILED_SHARE = 0.5
"""Share of images that may fail to align; more indicate an unsuitable reference."""
_NAMED = 10


def describe_alignment(
    mask: FrameMask | None, images: TrainingSet, reference: str, reporter: JobReporter
) -> str:
    """Return how far the part moves in the training images, empty for a mask that does not move.

    Args:
        mask: mask of the training.
        images: images of the training.
        reference: layout path of the reference.
        reporter: receives a warning about images that cannot be aligned.

    Raises:
        FailedPrecondition: if most images cannot be aligned.
    """
    if mask is None or not mask.is_aligned:
        return ""
    failed: list[str] = []
    farthest_px = largest_angle = 0.0
    total = len(images.reads)
    for done, (read, name) in enumerate(zip(images.reads, images.names, strict=True)):
        reporter.progress("align", done, total, "images")
        image = read()
        alignment = mask.align(image)
        motion = alignment.motion if alignment is not None else None
        if motion is None:
            failed.append(name)
            continue
        farthest_px = max(farthest_px, motion.farthest_px((image.shape[0], image.shape[1])))
        largest_angle = max(largest_angle, abs(motion.angle_deg))
    reporter.progress("align", total, total, "images")
    if failed:
        more = len(failed) - _NAMED
        text = (
            f"{len(failed)} of {total} training images could not be aligned to {reference}: "
            f"{', '.join(failed[:_NAMED])}{f' and {more} more' if more > 0 else ''}"
        )
        if len(failed) > _MAX_FAILED_SHARE * total:
            raise FailedPrecondition(
                f"{text}; choose another reference, let the mask look at an edge or a mark of the part, or "
                "train without alignment"
            )
        reporter.warn(f"{text}; their masks were not moved")
    return (
        f"{total - len(failed)} of {total} training images, moved by up to {farthest_px:.1f} px and "
        f"{largest_angle:.1f} degrees"
    )
