# SPDX-License-Identifier: Apache-2.0
"""The images that models learn from and are measured on, in MVTec AD's layout."""

from blemish_core.datasets.folder_import import Import
from blemish_core.datasets.records import Dataset, DatasetImage, Entry
from blemish_core.datasets.store import DatasetStore

__all__ = ["Dataset", "DatasetImage", "DatasetStore", "Entry", "Import"]
