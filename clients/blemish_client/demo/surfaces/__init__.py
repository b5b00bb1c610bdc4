# SPDX-License-Identifier: Apache-2.0
"""Synthetic images of flat surfaces, good and defective, to try blemish where no camera is."""

from blemish_client.demo.surfaces.folder import generate
from blemish_client.demo.surfaces.specimen import CATEGORIES, CLASSES

__all__ = ["CATEGORIES", "CLASSES", "generate"]
