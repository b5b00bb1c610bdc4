# SPDX-License-Identifier: Apache-2.0
"""Archives of model versions: any bytes, and members of any name, type and content with valid checksums."""

import io
import json
import tarfile
from collections.abc import Sequence
from hashlib import sha256

from tests.fuzz.source import Source
from tests.fuzz.target import Target, scratch
from tests.support.manifests import make_manifest

from blemish_core.models import archive, bundle

_NAMES = (bundle.MANIFEST, bundle.WEIGHTS, bundle.MASK, "openvino/model.xml", "calibration/2.json")
_TYPES = (b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"L", b"K", b"S", b"x", b"g")

Member = tuple[str, bytes, bytes]
"""Name, type and content."""


def run(data: bytes) -> None:
    source = Source(data)
    content = source.rest() if source.integer() % 2 else _packed(source)
    with scratch() as root:
        file, folder = root / "archive.tar", root / "bundle"
        file.write_bytes(content)
        folder.mkdir()
        try:
            archive.unpack(file, folder)
        finally:
            assert set(root.iterdir()) == {file, folder}, "it wrote outside of its folder"
            for each in folder.rglob("*"):
                assert not each.is_symlink()
                assert each.is_file() or each.is_dir()


def packed(members: Sequence[Member], listed: Sequence[str] | None = None) -> bytes:
    """Return a tar of members, preceded by a header that lists their hashes or those of ``listed``."""
    hashes = {name: sha256(content).hexdigest() for name, _, content in members}
    if listed is not None:
        hashes = {name: hashes.get(name, "0" * 64) for name in listed}
    head = json.dumps({"format": 1, "sha256": hashes}).encode()
    out = io.BytesIO()
    for name, kind, content in ((archive.HEAD, b"0", head), *members):
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(content)
        out.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        out.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
    return out.getvalue() + bytes(2 * tarfile.BLOCKSIZE)


def _packed(source: Source) -> bytes:
    members: list[Member] = []
    while source and len(members) < 8:
        number = source.integer()
        name = _NAMES[number] if number < len(_NAMES) else source.text()
        kind = _TYPES[source.integer() % len(_TYPES)]
        size = source.integer(3) if source.integer() % 2 else 65_536
        members.append((name, kind, source.take(max(0, size))))
    return packed(members)


def seeds() -> dict[str, bytes]:
    weights = b"weights"
    card = make_manifest("tile", 1, "a").model_copy(
        update={"sha256": {bundle.WEIGHTS: sha256(weights).hexdigest()}}
    )
    manifest = card.model_dump_json().encode()
    whole = packed([(bundle.MANIFEST, b"0", manifest), (bundle.WEIGHTS, b"0", weights)])

    def member(number: int, content: bytes) -> bytes:
        return bytes([number, 0, 1]) + len(content).to_bytes(3, "little") + content

    return {
        "tar": b"\1" + whole,
        "members": b"\0" + member(1, weights) + member(0, manifest),
        "link": b"\0" + bytes([200, 6]) + b"../out" + bytes([3, 1, 0, 0, 0]),
    }


_WORDS = (
    "ustar  ",
    "manifest.json",
    "weights.safetensors",
    "../",
    "/etc/",
    "openvino/",
    "report/",
    "calibration/",
)

TARGET = Target(run, seeds, words=_WORDS, max_bytes=16_384)
