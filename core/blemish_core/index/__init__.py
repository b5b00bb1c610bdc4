# SPDX-License-Identifier: Apache-2.0
"""The embeddings of a model version's images in Qdrant, and how they are searched."""

from blemish_core.index.finder import Finder
from blemish_core.index.item import CAMERA, DATASET, Item, Label, item_id
from blemish_core.index.query import Filter, Query, Similar, Vector
from blemish_core.index.search_index import DEEPEST, MOST_HITS, MOST_RANKED, SearchIndex

__all__ = [
    "CAMERA",
    "DATASET",
    "DEEPEST",
    "MOST_HITS",
    "MOST_RANKED",
    "Filter",
    "Finder",
    "Item",
    "Label",
    "Query",
    "SearchIndex",
    "Similar",
    "Vector",
    "item_id",
]
