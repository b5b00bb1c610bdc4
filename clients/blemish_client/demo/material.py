# SPDX-License-Identifier: Apache-2.0
"""The images of a demo: synthetic surfaces, or folders that the user names."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from blemish_client.cli.failures import BAD_INPUT, INTERNAL, Failure
from blemish_client.transport.upload import SUFFIXES

SYNTHETIC = ("tile", "leather", "grid")
_PROCESSES = min(4, os.cpu_count() or 1)
_GENERATOR = (sys.executable, "-P", "-m", "blemish_client.demo.surfaces", "--processes", str(_PROCESSES))


@dataclass(frozen=True)
class Material:
    """One category's folder in MVTec AD's layout."""

    id: str
    """The dataset's id, made from the folder's name."""
    folder: Path

    def images(self, class_name: str) -> list[Path]:
        """Return the test images of a class, by path."""
        return _images(self.folder / "test" / class_name)

    def defects(self) -> list[str]:
        """Return the defect classes that have test images, by name."""
        folders = self.folder.glob("test/*")
        return sorted(f.name for f in folders if f.name != "good" and f.is_dir() and _images(f))

    @property
    def has_test_images(self) -> bool:
        return bool(self.images("good") or self.defects())

    def mask(self, image: Path) -> Path | None:
        """Return the ground truth of a test image, if there is one."""
        folder = self.folder / "ground_truth" / image.parent.name
        return next(iter(sorted(folder.glob(f"{_literal(image.stem)}_mask.*"))), None)


class Drawing:
    """Synthetic surfaces that a child process draws, one category after the other."""

    def __init__(
        self, folder: Path, categories: Sequence[str], seed: int, command: Sequence[str] | None = None
    ) -> None:
        """Start to draw into ``folder``; ``command`` replaces the generator."""
        self._folder = folder
        self._categories = categories
        arguments = [*(command or _GENERATOR), str(folder), "--seed", str(seed)]
        for category in categories:
            arguments += ["--category", category]
        self._generator = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    @property
    def pid(self) -> int:
        """The generator's process."""
        return self._generator.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._generator.terminate()
        with self._generator:  # closes its pipe and waits
            pass

    def materials(self, report: Callable[[str], None]) -> Iterator[Material]:
        """Yield each category when it is drawn.

        Args:
            report: receives the generator's line for each category.

        Raises:
            Failure: with the generator's last line.
        """
        assert self._generator.stdout is not None
        line = ""
        for line in self._generator.stdout:
            category = line.partition(": ")[0]
            if category not in self._categories:
                continue
            # The folder is temporary, so leave it out.
            report(line.partition(", in ")[0].strip())
            yield Material(category, self._folder / category)
        if code := self._generator.wait():
            raise Failure(
                f"cannot draw surfaces: {line.strip()}", BAD_INPUT if code == BAD_INPUT else INTERNAL
            )


def given(path: Path, categories: Sequence[str]) -> list[Material]:
    """Return the categories found at ``path``, which is one of them or holds them.

    Args:
        path: a folder.
        categories: take these alone; all if empty.

    Raises:
        Failure: if there is none.
    """
    path = path.resolve()
    if not path.is_dir():
        raise Failure(f"{path} is not a folder")
    folders = [path] if _is_category(path) else sorted(filter(_is_category, path.iterdir()))
    found = [Material(_id(folder.name), folder) for folder in folders]
    if not found:
        raise Failure(f"{path} has no images in train/good, nor a folder that has; see MVTec AD's layout")
    missing = set(categories) - {material.id for material in found}
    if missing:
        there = ", ".join(material.id for material in found)
        raise Failure(f"{path} has no category {', '.join(sorted(missing))}; it has {there}")
    return [material for material in found if material.id in categories] if categories else found


def _is_category(folder: Path) -> bool:
    return bool(_images(folder / "train" / "good"))


def _images(folder: Path) -> list[Path]:
    images = (file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)
    return sorted(image for image in images if not image.name.startswith("."))


def _id(name: str) -> str:
    fit = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")
    return fit[:48] or "category"


def _literal(stem: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", stem)
