# SPDX-License-Identifier: Apache-2.0
"""Pictures of results: heatmaps over images, and search hits next to their query."""

from blemish_client.rendering.contact import ContactEntry, contact_sheet
from blemish_client.rendering.heatmap import heatmap, outline
from blemish_client.rendering.images import Picture, decode, enlarge, is_read_alike, picture, pixel_scores
from blemish_client.rendering.montage import MontageQuery, montage
from blemish_client.rendering.outlines import drawable_regions, region_mask, shifted_regions
from blemish_client.rendering.sheet import SheetColumn, sheet

__all__ = [
    "ContactEntry",
    "MontageQuery",
    "Picture",
    "SheetColumn",
    "contact_sheet",
    "decode",
    "drawable_regions",
    "enlarge",
    "heatmap",
    "is_read_alike",
    "montage",
    "outline",
    "picture",
    "pixel_scores",
    "region_mask",
    "sheet",
    "shifted_regions",
]
