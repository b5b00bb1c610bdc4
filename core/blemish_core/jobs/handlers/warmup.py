# SPDX-License-Identifier: Apache-2.0
"""What the process of a worker's jobs does ahead of the first, while it has nothing else to do."""

import time

import structlog

from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers import export
from blemish_core.platform.gc_tuning import gc_paused

log = structlog.get_logger(__name__)


def load(place: JobContext) -> None:
    """Import what every job needs, and convert the network that most trainings have: 12 s on two cores.

    Nothing depends on it: what cannot be done here is done again by the job that needs it, which says why.
    """
    began = time.monotonic()
    try:
        with gc_paused():
            detector = TrainablePatchCore(PatchCoreSettings())
            detector.load_pretrained(place.weights)
            export.fast(place.device, place.runtime, detector.network, detector.input_size)
    except Exception as error:
        log.warning("not loaded ahead of the first job", error=repr(error))
    else:
        log.debug("loaded ahead of the first job", seconds=round(time.monotonic() - began, 3))
