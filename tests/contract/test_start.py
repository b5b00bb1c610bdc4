# SPDX-License-Identifier: Apache-2.0
"""Servers and workers import slow packages only when a model needs them."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.imports import SLOW_WITH_ANOMALIB, imported_by

SLOW = SLOW_WITH_ANOMALIB | {"openvino", "sklearn"}


@pytest.mark.parametrize(
    ("script", "with_torch"),
    [
        ("import blemish_server.wiring", False),
        ("import blemish_core.jobs.handlers.train", True),
        # The server does this for each training request.
        (
            "from blemish_core.detectors.patchcore.settings import PatchCoreSettings; PatchCoreSettings()",
            False,
        ),
    ],
)
def test_slow_packages_are_imported_only_where_used(script: str, with_torch: bool) -> None:
    imported = imported_by(script)
    assert "numpy" in imported
    assert ("torch" in imported) == with_torch
    assert SLOW & imported == set()


_PROBE = """
import atexit, importlib, os, pkgutil, socket, sys, threading

def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("an import opened a socket or registered a function to run at exit")

registered = []
register = atexit.register
ours = (
    "blemish_core", "blemish_server", "blemish_local", "blemish_workers", "blemish_client",
    "blemish_console",
)

def recording(function, *arguments, **keywords):
    if (function.__module__ or "").startswith(ours):
        registered.append(function.__module__)
    return register(function, *arguments, **keywords)

atexit.register = recording
environment = os.environ.get
read = []

def get(name, default=None):
    if isinstance(name, str) and name.startswith("BLEMISH_"):
        read.append(name)
    return environment(name, default)

os.environ.get = get
socket.socket.connect = socket.socket.bind = forbidden
for root in ours:
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, f"{root}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
targets = [getattr(thread, "_target", None) or thread for thread in threading.enumerate()]
started = [target.__module__ for target in targets if target.__module__.startswith(ours)]
print(registered, read, started)
"""


def test_imports_have_no_side_effects(tmp_path: Path) -> None:
    """Modules read no settings, open no sockets, start no threads and register nothing at exit."""
    imported = subprocess.run(
        [sys.executable, "-c", _PROBE], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert imported.returncode == 0, imported.stderr[-2000:]
    assert imported.stdout.strip().splitlines()[-1] == "[] [] []"
