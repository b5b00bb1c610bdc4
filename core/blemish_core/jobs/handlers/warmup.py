# SPDX-License-Identifier: Apache-2.0
"""The warm-up of a child process that waits for its first job."""

import time

import structlog

from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.imaging.geometry import ANY_SIZE
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers.export import faster_runtime
from blemish_core.platform.gc_tuning import gc_paused

log = structlog.get_logger(__name__)


def warm_up(context: JobContext) -> None:
    """Import the libraries that every job needs, and convert the network that most trainings use.

    A failure is logged only: the job that needs the network repeats the step and reports the error.
    """
    began = time.monotonic()
    try:
        with gc_paused():
            detector = TrainablePatchCore(PatchCoreSettings())
            detector.load_pretrained(context.weights)
            faster_runtime(context.device, context.runtime, detector.network, ANY_SIZE)
    except Exception as error:
        log.warning("warm-up failed", error=repr(error))
    else:
        log.debug("warm-up finished", seconds=round(time.monotonic() - began, 3))
