# SPDX-License-Identifier: Apache-2.0
"""The longest and most nested inputs of the parsers of texts, by fuzz target and length."""

from collections.abc import Callable, Mapping
from hashlib import sha256

from tests.fuzz.targets.model_archive import packed
from tests.support.manifests import make_manifest

from blemish_core.models import bundle

Build = Callable[[int], bytes]
"""Returns an input of about this many bytes."""


def _manifest(size: int) -> bytes:
    settings = {"x": ["y" * 20] * (size // 24)}
    return (
        make_manifest("tile", 1, "a").model_copy(update={"settings": settings}).model_dump_json().encode()
    )


def _index(size: int) -> bytes:
    record = b'{"id": "tile", "category": "tile", "create_time": "2026-01-01T00:00:00Z"}\0'
    lines = (
        b'{"path":"train/good/%d.png","sha256":"%s","size_bytes":3,"width":8,"height":8}\n'
        % (each, b"0" * 64)
        for each in range(size // 140)
    )
    return record + b'{"index":"' + b"0" * 32 + b'"}\n' + b"".join(lines)


def _callers(size: int) -> bytes:
    caller = '{"role":"camera","token_sha256":"%064x","granted":"2026-01-01T00:00:00Z"}'
    return b'{"callers":{%s}}' % ",".join(f'"c{n}":{caller % n}' for n in range(size // 150)).encode()


def _polygons(size: int) -> bytes:
    points = ",".join(["[1,2]"] * (size // 6))
    return f'{{"width":64,"height":64,"ignore":[[{points}]]}}'.encode()


def _archive(size: int) -> bytes:
    weights = bytes(size)
    manifest = make_manifest("tile", 1, "a").model_copy(
        update={"sha256": {bundle.WEIGHTS: sha256(weights).hexdigest()}}
    )
    card = manifest.model_dump_json().encode()
    return b"\1" + packed([(bundle.MANIFEST, b"0", card), (bundle.WEIGHTS, b"0", weights)])


def _archive_of_names(size: int) -> bytes:
    names = [f"report/{number}" for number in range(min(size, 900_000) // 90)]
    return b"\1" + packed([(name, b"0", b"") for name in names])


WORST_TEXTS: Mapping[str, Mapping[str, Build]] = {
    "where_filter": {
        "comparisons": lambda size: b"score>1 " * (size // 8),
        "one name": lambda size: b"a" * size,
        "parentheses": lambda size: b"(" * size,
        "quotes": lambda size: b'camera="' + b"\\\\" * (size // 2) + b'"',
    },
    "mask_polygons": {"points": _polygons, "brackets": lambda size: b"[" * size},
    "model_manifest": {
        "settings": _manifest,
        "brackets": lambda size: b'{"settings":' + b"[" * size,
    },
    "dataset_index": {"lines": _index},
    "access_file": {"callers": _callers, "brackets": lambda size: b'{"callers":' * (size // 11)},
    "model_archive": {"weights": _archive, "empty files": _archive_of_names},
    "names": {
        "path": lambda size: b"\0train/good/" + b"a" * size,
        "token": lambda size: b"\4" + b"aXRlbXM6" * (size // 8),
    },
}
