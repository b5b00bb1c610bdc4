# SPDX-License-Identifier: Apache-2.0
"""Clean environments of bench_edge: blemish by one extra, and the peer server. They are kept in a cache."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

_READY = ".ready"
_OWN_TOOLS = ("pip", "setuptools", "wheel")
"""Packages that venv itself puts into an environment."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def sizes(self) -> tuple[int, int]:
        """Return the bytes of all packages but pip, and those of compiled bytecode among them."""
        (packages,) = self.folder.glob("lib/python*/site-packages")
        whole = bytecode = 0
        for file in packages.rglob("*"):
            part = file.relative_to(packages).parts[0].partition("-")[0]
            if part in _OWN_TOOLS or file.is_symlink() or not file.is_file():
                continue
            size = file.stat().st_size
            whole += size
            bytecode += size * (file.suffix == ".pyc")
        return whole, bytecode


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "blemish/bench-edge"


def with_extra(cache: Path, tree: Path, extra: str) -> Environment:
    """Return an environment with an extra of a tree at the versions of the tree's constraints."""
    packages = ["--constraint", str(tree / "constraints.txt"), f"{tree}[{extra}]"]
    return _made(cache, f"blemish-{extra}", _requirements(tree), packages)


def with_requirements(cache: Path, file: Path) -> Environment:
    """Return an environment with the requirements of a file."""
    return _made(cache, file.stem, file.read_bytes(), ["--requirement", str(file)])


def cached(cache: Path, tree: Path, extra: str) -> bool:
    """Return whether an earlier run has made the environment of ``with_extra``."""
    return (_place(cache, f"blemish-{extra}", _requirements(tree)) / _READY).exists()


def _requirements(tree: Path) -> bytes:
    """Return all that decides which packages of others an extra of a tree installs."""
    project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    wanted = json.dumps([project["dependencies"], project["optional-dependencies"]])
    return wanted.encode() + (tree / "constraints.txt").read_bytes()


def _place(cache: Path, name: str, given: bytes) -> Path:
    return cache / f"{name}-{hashlib.sha256(given + sys.version.encode()).hexdigest()[:12]}"


def _made(cache: Path, name: str, given: bytes, packages: list[str]) -> Environment:
    """Return the environment for some packages, made unless the cache has it."""
    folder = _place(cache, name, given)
    if not (folder / _READY).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, *packages], check=False).returncode:
            raise SystemExit(f"{name} cannot be installed; see the messages of pip above")
        (folder / _READY).touch()
    return Environment(folder)
