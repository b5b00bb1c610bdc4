# SPDX-License-Identifier: Apache-2.0
"""Files of exported items: the image, and the item's fields as JSON."""

import json
from contextlib import suppress
from datetime import UTC
from pathlib import Path
from typing import Any

from blemish.v1.search_pb2 import Hit
from blemish_client.cli.failures import Failure
from blemish_client.cli.file_names import file_name_part, file_time
from blemish_client.cli.new_files import create_files, numbered_names
from blemish_client.cli.output import plain, verdict
from blemish_client.names import short
from blemish_client.types.stored_image import StoredImage

_OF_SEARCHES = ("similarity", "thumbnail", "group", "match")


class ItemFolder:
    """A folder in which no file is ever overwritten."""

    def __init__(self, folder: Path) -> None:
        """Create the folder.

        Raises:
            Failure: if it cannot be created.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Failure(f"cannot write {folder}: {error.strerror}; choose another folder") from error

    def write(self, item: Hit, image: StoredImage) -> tuple[Path, bool]:
        """Write two files unless the folder has them; return the image's path, and True if it is new.

        The JSON file is written last, so an image with one is complete. If other content has the name, a
        number is appended to it.

        Raises:
            Failure: if the files cannot be written.
        """
        try:
            for name in numbered_names(file_stem(item)):
                picture, fields = self._folder / f"{name}{image.extension}", self._folder / f"{name}.json"
                text = json.dumps({"file": picture.name, **item_fields(item, image)}, indent=1) + "\n"
                if _has(fields, text.encode()) and _has(picture, image.content):
                    return picture, False
                with suppress(FileExistsError):
                    create_files({picture: image.content, fields: text.encode()})
                    return picture, True
        except OSError as error:
            reason = error.strerror or error
            raise Failure(f"cannot write {picture}: {reason}; run the command again later") from error
        raise AssertionError("numbered_names ends with an error")


def item_fields(item: Hit, image: StoredImage) -> dict[str, Any]:
    """Return the fields of an item and of its image for JSON."""
    fields = plain(item)
    for name in _OF_SEARCHES:
        fields.pop(name, None)
    return fields | {"width": image.width, "height": image.height, "sha256": image.sha256}


def file_stem(item: Hit) -> str:
    """Return camera or path in the dataset, time in UTC, verdict and id of an item."""
    if item.dataset:
        stored = f"{short(item.dataset)}-{item.class_name}-{Path(item.path).stem}"
        source = file_name_part(stored, "dataset")
    else:
        source = file_name_part(item.camera, "camera")
    time = [file_time(item.time.ToDatetime(UTC))] if item.HasField("time") else []
    return "_".join([source, *time, verdict(item.verdict), item.item.removeprefix("items/")])


def _has(file: Path, content: bytes) -> bool:
    """Return whether a file exists with this content."""
    return file.is_file() and file.stat().st_size == len(content) and file.read_bytes() == content
