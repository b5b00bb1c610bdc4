# SPDX-License-Identifier: Apache-2.0
"""Folders of images as people have them, arranged as the dataset that they become.

Server and client share this package: the server imports folders, and the client uploads them. It decides
from names only and depends on the standard library alone.
"""

from blemish_layouts.names import EXTENSIONS, GOOD, is_good, readable
from blemish_layouts.placement import MisplacedFile, Placement, place

__all__ = ["EXTENSIONS", "GOOD", "MisplacedFile", "Placement", "is_good", "place", "readable"]
