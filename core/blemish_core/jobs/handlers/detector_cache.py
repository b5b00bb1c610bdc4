# SPDX-License-Identifier: Apache-2.0
"""The model version that a child process keeps loaded between steps."""

from blemish_core.detectors.base import Detector
from blemish_core.jobs.context import JobContext
from blemish_core.models.bundle import Manifest
from blemish_core.models.loading import load_detector
from blemish_core.platform.names import ModelRef


class DetectorCache:
    """A cache of the last loaded model version, which the next shard of a bulk embedding needs again."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._name = ""
        self._loaded: tuple[Manifest, Detector] | None = None

    def load(self, name: str) -> tuple[Manifest, Detector]:
        """Return the manifest and detector of a model version.

        Raises:
            NotFound: if there is no such version.
            Corrupt: if its bundle is damaged.
            FailedPrecondition: if it lacks the configured runtime.
        """
        if self._loaded is None or name != self._name:
            self.clear()
            context = self._context
            ref = context.models.resolve(ModelRef.parse(name))
            folder = context.models.folder(ref.model, ref.version or 0)
            self._loaded = load_detector(folder, context.device, context.runtime)
            self._name = name
        return self._loaded

    def clear(self) -> None:
        """Release the memory of the loaded version."""
        self._loaded = None
