# SPDX-License-Identifier: Apache-2.0
"""A fuzz target: one entry point of hostile input, and the errors that it may raise."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from blemish_core.platform.errors import BlemishError

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
_MEMORY = Path("/dev/shm")

Errors = tuple[type[Exception], ...]


@dataclass(frozen=True)
class Target:
    """An entry point, called with arbitrary bytes."""

    run: Callable[[bytes], object]
    seeds: Callable[[], Mapping[str, bytes]]
    """Valid inputs by name, from which mutations start."""
    expected: Errors = (BlemishError,)
    """Errors with which the entry point rejects an input."""
    words: Sequence[str] = ()
    """Words that mutations insert."""
    max_bytes: int = 4096
    """Longest input."""
    max_seconds: float = 2.0
    """CPU time of one input above which it counts as a hang."""
    max_growth_bytes: int = 64 << 20
    """Growth of the process's peak memory by one input above which it is a finding."""


def names() -> list[str]:
    """Return the names of all targets, which are modules of the package ``targets``."""
    return sorted(file.stem for file in (HERE / "targets").glob("[!_]*.py"))


def load(name: str) -> Target:
    """Import a target by its name."""
    target = import_module(f"tests.fuzz.targets.{name}").TARGET
    assert isinstance(target, Target)
    return target


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder, in memory where the system has such folders."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
