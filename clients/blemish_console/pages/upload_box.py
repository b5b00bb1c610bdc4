# SPDX-License-Identifier: Apache-2.0
"""The part of a page that takes files of a browser. It works there, see ``upload_box.js``."""

from collections.abc import Awaitable, Callable

from nicegui.element import Element

from blemish_console import texts
from blemish_console.data import uploads
from blemish_console.shell import View


class UploadBox(Element, component="upload_box.js"):
    """Takes dropped files and folders, and shows the progress and what was left out."""

    def __init__(
        self,
        view: View,
        dataset: str,
        folders: list[tuple[str, str]],
        here: str,
        on_stored: Callable[[], Awaitable[None]],
    ) -> None:
        """Draw the box.

        Args:
            view: context of the page.
            dataset: name of the dataset.
            folders: folders of the classes with their names for people.
            here: folder whose images the page shows.
            on_stored: called after an upload that stored something.
        """
        super().__init__()
        self.props["dataset"] = dataset
        self.props["base"] = view.root_path
        self.props["words"] = texts.UPLOAD
        self.props["limits"] = {
            "files": uploads.MAX_FILES,
            "batchFiles": uploads.MAX_BATCH_FILES,
            "batchBytes": uploads.MAX_BATCH_BYTES,
            "listed": uploads.MAX_LISTED,
        }
        self.set_folders(folders, here)
        self.on("stored", on_stored)

    def set_folders(self, folders: list[tuple[str, str]], here: str) -> None:
        """Set the classes that are offered."""
        self.props["folders"] = [{"value": value, "label": label} for value, label in folders]
        self.props["here"] = here
