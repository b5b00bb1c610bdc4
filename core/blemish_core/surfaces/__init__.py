# SPDX-License-Identifier: Apache-2.0
"""Synthetic images of flat surfaces, good and defective, to try blemish where no camera is."""

from blemish_core.surfaces.folder import generate
from blemish_core.surfaces.specimen import CATEGORIES, CLASSES

__all__ = ["CATEGORIES", "CLASSES", "generate"]
