# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: where an image is anomalous, and which past images are like it."""

from blemish_client.rendering.heatmap import heatmap, outline
from blemish_client.rendering.images import decoded, large, values
from blemish_client.rendering.montage import Query, montage
from blemish_client.rendering.sheet import Inspected, sheet

__all__ = ["Inspected", "Query", "decoded", "heatmap", "large", "montage", "outline", "sheet", "values"]
