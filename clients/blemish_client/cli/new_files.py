# SPDX-License-Identifier: Apache-2.0
"""New files of commands: nothing that exists is ever overwritten."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

_MAX_COPIES = 10_000


def numbered_names(stem: str) -> Iterator[str]:
    """Yield a stem, and then the stem with the numbers 2, 3, ... appended to it.

    Raises:
        FileExistsError: if all 10,000 of them are taken.
    """
    yield stem
    for copy in range(2, _MAX_COPIES):
        yield f"{stem}_{copy}"
    raise FileExistsError(f"there are {_MAX_COPIES} files named {stem}")


def create_files(contents: Mapping[Path, bytes]) -> None:
    """Write new files in their order, or none of them, also if other processes write to the folder.

    Raises:
        FileExistsError: if one of them exists.
        OSError: if they cannot be written.
    """
    with ExitStack() as written:
        for file, content in contents.items():
            with file.open("xb") as opened:
                written.callback(file.unlink, missing_ok=True)
                opened.write(content)
        written.pop_all()


def create_numbered(file: Path, content: bytes) -> Path:
    """Write a new file, under a numbered name if it exists, and return its path.

    Raises:
        OSError: if it cannot be written.
    """
    for name in numbered_names(file.stem):
        created = file.with_name(name + file.suffix)
        with suppress(FileExistsError):
            create_files({created: content})
            return created
    raise AssertionError("numbered_names ends with an error")
