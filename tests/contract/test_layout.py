# SPDX-License-Identifier: Apache-2.0
"""The tree shows the architecture: few loose modules, the same files in each detector."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMPORT_ROOTS = (
    "core/blemish_core",
    "core/blemish_layouts",
    "server/blemish_server",
    "server/blemish_local",
    "workers/blemish_workers",
    "clients/blemish_client",
    "clients/blemish_console",
)
MOST_LOOSE_MODULES = 8
DETECTOR_FILES = {"settings.py", "network.py", "detector.py", "training/train.py"}


@pytest.mark.parametrize("root", IMPORT_ROOTS)
def test_import_root_has_few_loose_modules(root: str) -> None:
    loose = {path.name for path in (ROOT / root).glob("*.py")} - {"__init__.py"}
    assert 0 < len(loose) <= MOST_LOOSE_MODULES, sorted(loose)


def test_detectors_have_the_same_files_for_the_same_roles() -> None:
    detectors = ROOT / "core/blemish_core/detectors"
    packages = {path.parent for path in detectors.glob("*/detector.py")}
    assert {path.name for path in packages} == {"patchcore", "efficientad"}
    for package in packages:
        missing = {name for name in DETECTOR_FILES if not (package / name).is_file()}
        assert not missing, package


@pytest.mark.parametrize("root", IMPORT_ROOTS)
def test_every_package_explains_itself(root: str) -> None:
    below = [path for path in (ROOT / root).rglob("*") if path.is_dir() and list(path.glob("*.py"))]
    packages = [ROOT / root, *below]
    assert packages
    silent = [path for path in packages if '"""' not in (path / "__init__.py").read_text()]
    assert not silent
