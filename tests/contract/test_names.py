# SPDX-License-Identifier: Apache-2.0
"""One class name means one thing in all packages."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "server", "workers", "clients")
VAGUE = ("Manager", "Helper", "Utils", "Base")

# The client raises errors of its own, named as those of the core that cause them.
MIRRORED = {
    "AlreadyExists",
    "BlemishError",
    "DeadlineExceeded",
    "FailedPrecondition",
    "NotFound",
    "PermissionDenied",
    "Unauthenticated",
    "Unavailable",
}
# The client ships without the core, and has enums of its own with the same names and meaning.
MIRRORED_ENUMS = {"Consensus", "JobPriority", "JobState", "Label", "Priority", "StreamPolicy"}
CLIENT_ENUMS = Path("clients/blemish_client/types/enums.py")


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (path for path in (ROOT / package).rglob("*.py") if "_pb2" not in path.name)


def classes() -> dict[str, set[Path]]:
    """Return the modules that define each class name, leading underscores removed."""
    found: dict[str, set[Path]] = defaultdict(set)
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].add(path.relative_to(ROOT))
    return found


def test_class_name_has_one_meaning() -> None:
    shared = {name: paths for name, paths in classes().items() if len(paths) > 1}
    known = MIRRORED | MIRRORED_ENUMS
    assert set(shared) == known, {name: shared[name] for name in set(shared) - known}
    for name in MIRRORED:
        assert shared[name] == {
            Path("clients/blemish_client/errors.py"),
            Path("core/blemish_core/platform/errors.py"),
        }
    for name in MIRRORED_ENUMS:
        assert len(shared[name]) == 2
        assert CLIENT_ENUMS in shared[name]


def test_class_name_is_not_vague() -> None:
    vague = [name for name in classes() if name.endswith(VAGUE[:3]) or name.startswith(VAGUE[3])]
    assert not vague


def test_module_name_is_not_vague() -> None:
    vague = [path for path in modules() if path.stem in ("utils", "helpers", "misc", "common")]
    assert not vague
