# SPDX-License-Identifier: Apache-2.0
"""Datasets of training and test images in MVTec AD's layout."""

from blemish_core.datasets.folder_import import ImportResult
from blemish_core.datasets.incoming import BeforeReplacing, IncomingFile
from blemish_core.datasets.moving import MovePlan
from blemish_core.datasets.records import (
    Dataset,
    DatasetImage,
    IndexEntry,
    Outcome,
    Provenance,
    SkippedFile,
    UnpairedFiles,
)
from blemish_core.datasets.store import DatasetStore

__all__ = [
    "BeforeReplacing",
    "Dataset",
    "DatasetImage",
    "DatasetStore",
    "ImportResult",
    "IncomingFile",
    "IndexEntry",
    "MovePlan",
    "Outcome",
    "Provenance",
    "SkippedFile",
    "UnpairedFiles",
]
