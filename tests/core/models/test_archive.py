# SPDX-License-Identifier: Apache-2.0
"""Export and import of model versions, and rejection of other files."""

import io
import json
import os
import random
import tarfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from tests.support.manifests import make_manifest

from blemish_core.models import archive, bundle
from blemish_core.models.archive import ExportArchive, import_version
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import CalibrationChange, ThresholdRule
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest, NotFound
from blemish_core.platform.names import ModelRef
from blemish_core.runtimes.card import RuntimeCard

REF = ModelRef("tile", 1)
WEIGHTS = "weights.safetensors"
FILES = {
    WEIGHTS: bytes(range(256)) * 700,
    "openvino/model.xml": b"<net/>",
    "openvino/model.bin": bytes(512),
    "report/report.html": b"<p>well</p>",
}
Members = dict[str, bytes]
Special = tuple[tarfile.TarInfo, bytes]


@pytest.fixture(autouse=True)
def runtime_check_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the check of runtimes, because these bundles have no network."""
    monkeypatch.setattr(archive, "check_runs", lambda folder: None)


@pytest.fixture
def exporter(tmp_path: Path) -> ModelStore:
    """Return a store with one version and one later calibration."""
    store = ModelStore(tmp_path / "exporter")

    def write(folder: Path, number: int) -> None:
        for name, content in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        card = make_manifest("tile", number, "a").model_copy(
            update={
                "sha256": {name: bundle.sha256(folder / name) for name in FILES},
                "runtimes": {"openvino": RuntimeCard(file="openvino/model.xml")},
            }
        )
        bundle.write_manifest(card, folder)

    store.publish("tile", "a", write)
    store.calibrations(store.manifest(REF)).append(
        CalibrationChange(ThresholdRule.FIXED, "maria", 1.5, "stricter")
    )
    return store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the importing store."""
    return tmp_path / "importer"


@pytest.fixture
def importer(root: Path) -> ModelStore:
    return ModelStore(root)


def exported(store: ModelStore) -> bytes:
    export = ExportArchive(store, REF)
    content = b"".join(export.chunks())
    assert len(content) == export.size_bytes
    return content


def imported(store: ModelStore, content: bytes, model_id: str = "") -> Manifest:
    with store.import_workspace() as workspace:
        file = workspace / "archive.tar"
        file.write_bytes(content)
        return import_version(store, file, workspace, model_id)


def members(content: bytes) -> Members:
    """Return the files of an export in their order, by name."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
    return found


def packed(files: Members, *more: Special) -> bytes:
    """Return an archive of ``files`` with a valid header, followed by ``more`` members."""
    hashes = {name: sha256(content).hexdigest() for name, content in files.items()}
    head = json.dumps({"format": 1, "sha256": hashes}).encode()
    plain = [(tarfile.TarInfo(name), content) for name, content in {archive.HEAD: head, **files}.items()]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in (*plain, *more):
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def special(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Special:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def files_below(root: Path) -> list[Path]:
    """Return all files below a folder."""
    return [path for path in root.rglob("*") if path.is_file()]


def test_imported_version_is_complete_with_its_calibrations(
    exporter: ModelStore, importer: ModelStore
) -> None:
    card, before = imported(importer, exported(exporter)), exporter.manifest(REF)
    assert card.training[archive.ORIGIN] == "models/tile/versions/1"
    assert card == before.model_copy(update={"training": card.training})
    for name, content in FILES.items():
        assert (importer.folder("tile", 1) / name).read_bytes() == content
    assert importer.calibrations(card).history(9) == exporter.calibrations(before).history(9)
    assert importer.calibrations(card).newest().author == "maria"
    assert importer.production("tile") is None


def test_archive_is_a_plain_tar(exporter: ModelStore) -> None:
    found = members(exported(exporter))
    assert list(found) == [archive.HEAD, "manifest.json", "calibration/2.json", *FILES]
    assert json.loads(found[archive.HEAD])["sha256"].keys() == found.keys() - {archive.HEAD}


def test_second_import_returns_the_same_version(exporter: ModelStore, importer: ModelStore) -> None:
    content = exported(exporter)
    assert imported(importer, content).version == imported(importer, content).version == 1
    assert imported(exporter, content) == exporter.manifest(REF), "the exporting store has this version"

    def write(folder: Path, number: int) -> None:
        bundle.write_manifest(make_manifest("mine", number, "b"), folder)

    importer.publish("mine", "b", write)
    assert imported(importer, content, "mine").name == "models/mine/versions/2"
    assert [model.id for model in importer.page()] == ["mine", "tile"]


def test_version_that_cannot_run_here_leaves_nothing(
    exporter: ModelStore, importer: ModelStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        assert (folder / WEIGHTS).exists()
        raise FailedPrecondition("no")

    monkeypatch.setattr(archive, "check_runs", refuse)
    with pytest.raises(FailedPrecondition):
        imported(importer, exported(exporter))
    assert files_below(root) == []


def test_import_abandoned_during_the_check_leaves_nothing(
    exporter: ModelStore, importer: ModelStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that leaves removes the workspace while another thread still imports from it."""
    monkeypatch.setattr(archive, "check_runs", lambda folder: (folder / WEIGHTS).unlink())
    with pytest.raises(FailedPrecondition, match=r"weights\.safetensors was deleted"):
        imported(importer, exported(exporter))
    assert (importer.page(), files_below(root)) == ([], [])


def test_export_of_a_removed_version_fails(exporter: ModelStore) -> None:
    chunks = ExportArchive(exporter, REF).chunks()
    next(chunks)
    exporter.delete(REF)
    with pytest.raises(NotFound, match="was deleted"):
        list(chunks)


def test_export_of_an_incomplete_version_fails(exporter: ModelStore) -> None:
    (exporter.folder("tile", 1) / "openvino/model.bin").unlink()
    with pytest.raises(NotFound, match=r"or lacks model\.bin"):
        ExportArchive(exporter, REF)


def test_leftovers_of_killed_imports_are_discarded(importer: ModelStore, root: Path) -> None:
    importer.discard_stale_imports()  # does not raise without a store
    killed = root / ".arriving-killed"
    (killed / "bundle").mkdir(parents=True)
    (killed / "lock").touch()
    with importer.import_workspace() as workspace:
        importer.discard_stale_imports()
        assert killed.exists(), "its process may not have locked it yet"
        an_hour_ago = time.time() - 3600
        for folder in (killed, workspace):
            os.utime(folder, (an_hour_ago, an_hour_ago))
        importer.discard_stale_imports()
        assert (killed.exists(), workspace.exists()) == (False, True)
    assert list(root.iterdir()) == []


def test_truncated_archive_is_rejected(exporter: ModelStore, importer: ModelStore, root: Path) -> None:
    content = exported(exporter)
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    pick = random.Random(seed)
    whole = len(content) - 1024  # the rest marks the end
    for size in (0, 1, 511, 512, whole - 1, whole, *(pick.randrange(whole) for _ in range(30))):
        with pytest.raises(InvalidRequest, match="not an export of blemish"):
            imported(importer, content[:size])
    assert files_below(root) == []


def test_changed_byte_is_detected_or_harmless(exporter: ModelStore, tmp_path: Path) -> None:
    content = exported(exporter)
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    pick = random.Random(seed)
    rejected = 0
    for number in range(60):
        at = pick.randrange(4096 if number % 2 else len(content))
        changed = content[:at] + bytes([content[at] ^ 1 << pick.randrange(8)]) + content[at + 1 :]
        root = tmp_path / str(number)
        store = ModelStore(root)
        try:
            card = imported(store, changed)
        except InvalidRequest:
            rejected += 1
            assert files_below(root) == []
        else:
            assert card == exporter.manifest(REF).model_copy(update={"training": card.training})
            assert (store.folder("tile", 1) / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert rejected > 20


def edited(**fields: object) -> Callable[[Members], bytes]:
    """Return a function that packs the archive with other fields in the manifest."""

    def edit(files: Members) -> bytes:
        card = json.loads(files["manifest.json"]) | fields
        return packed(files | {"manifest.json": json.dumps(card).encode()})

    return edit


def without(name: str) -> Callable[[Members], bytes]:
    return lambda files: packed({each: content for each, content in files.items() if each != name})


def with_file(name: str, content: bytes = b"x") -> Callable[[Members], bytes]:
    return lambda files: packed(files | {name: content})


def followed_by(*more: Special) -> Callable[[Members], bytes]:
    return lambda files: packed(files, *more)


def with_network_outside(files: Members) -> bytes:
    """Return an archive whose manifest names a file outside of the store, with its correct hash."""
    outside = Path(__file__).resolve()
    name = "../" * 30 + str(outside).lstrip("/")
    card = json.loads(files["manifest.json"])
    card["sha256"][name] = sha256(outside.read_bytes()).hexdigest()
    card["runtimes"]["openvino"]["file"] = name
    inside = files | {"manifest.json": json.dumps(card).encode()}
    hashes = {each: sha256(content).hexdigest() for each, content in inside.items()}
    head = json.dumps({"format": 1, "sha256": hashes | {name: card["sha256"][name]}}).encode()
    content = packed(inside)
    after_head = 512 + -(-len(members(content)[archive.HEAD]) // 512) * 512
    info = tarfile.TarInfo(archive.HEAD)
    info.size = len(head)
    return info.tobuf(tarfile.GNU_FORMAT) + head + bytes(-len(head) % 512) + content[after_head:]


def with_bytes_in_a_name(name: bytes) -> Callable[[Members], bytes]:
    """Return a function that packs an archive with another member of this name."""

    def change(files: Members) -> bytes:
        info = tarfile.TarInfo(name.decode("latin-1"))
        block = info.tobuf(tarfile.GNU_FORMAT, "latin-1")
        return packed(files)[: -tarfile.RECORDSIZE] + block + bytes(1024)

    return change


def with_a_size_below_zero(files: Members) -> bytes:
    info = tarfile.TarInfo(archive.HEAD)
    info.size = -512
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_network_outside, "is not allowed"),
        (with_a_size_below_zero, "not a regular file"),
        (lambda files: b"garbage" * 500, "HeaderError"),
        (lambda files: bytes(10240), "does not begin with"),
        (with_bytes_in_a_name(b"\xff\xfe"), "has a name that is not ASCII"),
        (with_bytes_in_a_name(b"..\\x"), "is not allowed"),
        (with_file("report/ü"), "is not allowed"),
        (with_file("report/a\nb"), "is not allowed"),
        (with_file("report/.a"), "is not allowed"),
        (with_file("report/"), "is not allowed"),
        (with_file("MANIFEST.JSON"), "is not allowed"),
        (with_file("manifest.json/x"), "is not allowed"),
        (followed_by(special("openvino/x", tarfile.FIFOTYPE)), "not a regular file"),
        (followed_by(special("openvino/x", tarfile.CHRTYPE)), "not a regular file"),
        (followed_by(special("openvino/x", tarfile.BLKTYPE)), "not a regular file"),
        (followed_by(special("openvino/x", tarfile.GNUTYPE_SPARSE)), "not a regular file"),
        (followed_by(special("openvino/x", tarfile.GNUTYPE_LONGNAME)), "not a regular file"),
        (followed_by(special("openvino/x", tarfile.XHDTYPE)), "not a regular file"),
        (edited(settings=["nested"] * 100_000), "is not a manifest that blemish reads"),
        (edited(seed=2**64), "is not a manifest that blemish reads"),
        (edited(size_bytes=-(2**70)), "is not a manifest that blemish reads"),
        (edited(version=2**40), "is not a manifest that blemish reads"),
        (edited(version=0), "is not a manifest that blemish reads"),
        (edited(input_size=2**31), "is not a manifest that blemish reads"),
        (
            edited(split={"learned": -1, "held_out": 1, "method": ""}),
            "is not a manifest that blemish reads",
        ),
        (edited(created="0001-01-01T00:00:00+14:00"), "is not a manifest that blemish reads"),
        (edited(settings={"x": "y" * (65 << 20)}), "more than the"),
        (with_file("../../evil"), "'../../evil' is not allowed"),
        (with_file("/tmp/evil"), "is not allowed"),
        (with_file("openvino/../x"), "is not allowed"),
        (with_file("aliases.json"), "is not allowed"),
        (followed_by(special("openvino/x", tarfile.SYMTYPE, "/etc/passwd")), "not a regular file"),
        (followed_by(special("openvino/x", tarfile.LNKTYPE, "manifest.json")), "not a regular file"),
        (followed_by(special("openvino", tarfile.DIRTYPE)), "not a regular file"),
        (followed_by(special("report/more.html")), "is not allowed"),
        (followed_by(special("manifest.json")), "occurs twice"),
        (without(WEIGHTS), "its manifest has another SHA-256 of weights.safetensors"),
        (without("manifest.json"), "manifest.json"),
        (edited(job="../../../x"), "has the job '../../../x'"),
        (edited(model="../x"), "has the model '../x'"),
        (edited(dataset="a/b"), "has the dataset 'a/b'"),
        (edited(format=4), "has format 4, but blemish reads up to 3"),
        (edited(version="new"), "is not a manifest that blemish reads"),
        (edited(sha256={}), "names the network 'openvino/model.xml', which is missing"),
        (edited(sha256={}, runtimes={}), "it has no weights"),
        (edited(runtimes={"openvino": {"file": "../../x.xml"}}), "names the network '../../x.xml'"),
        (with_file("calibration/2.json", b"{}"), "is not a calibration that blemish reads"),
    ],
)
def test_other_files_are_rejected(
    exporter: ModelStore, importer: ModelStore, root: Path, change: Callable[[Members], bytes], reason: str
) -> None:
    files = members(exported(exporter))
    del files[archive.HEAD]
    assert imported(ModelStore(root / "unchanged"), packed(files)).version == 1, "valid without the change"
    with pytest.raises(InvalidRequest, match="not an export of blemish") as rejected:
        imported(importer, change(files))
    assert reason in str(rejected.value)
    assert rejected.value.field == "chunk"
    assert importer.page() == []
    assert not list(root.glob(".arriving*"))


def with_mask(
    content: bytes, png: bytes, named: str | None, *, reference: bytes | None = None, aligned: bool = False
) -> bytes:
    """Return an export with a mask, whose manifest names the SHA-256 ``named``, and with a reference."""
    files = members(content)
    del files[archive.HEAD]
    manifest = json.loads(files[bundle.MANIFEST])
    manifest["sha256"][bundle.MASK] = sha256(png).hexdigest()
    if named is not None:
        manifest["mask"] = {"sha256": named, "width": 32, "height": 32, "ignored_share": 0.5}
        if aligned:
            manifest["mask"]["reference"] = "train/good/0.png"
    added = {bundle.MASK: png}
    if reference is not None:
        manifest["sha256"][bundle.REFERENCE] = sha256(reference).hexdigest()
        added[bundle.REFERENCE] = reference
    files[bundle.MANIFEST] = json.dumps(manifest).encode()
    return packed(files | added)


def test_mask_travels_with_the_version(exporter: ModelStore, importer: ModelStore) -> None:
    content = with_mask(exported(exporter), b"mask", sha256(b"mask").hexdigest())
    card = imported(importer, content)
    assert card.mask is not None
    assert (importer.folder("tile", 1) / bundle.MASK).read_bytes() == b"mask"
    assert bundle.MASK in members(exported(importer))


def test_reference_travels_with_the_version(exporter: ModelStore, importer: ModelStore) -> None:
    named = sha256(b"mask").hexdigest()
    imported(importer, with_mask(exported(exporter), b"mask", named, reference=b"grey", aligned=True))
    assert (importer.folder("tile", 1) / bundle.REFERENCE).read_bytes() == b"grey"
    assert bundle.REFERENCE in members(exported(importer))


@pytest.mark.parametrize(("reference", "aligned"), [(b"grey", False), (None, True)])
def test_reference_that_does_not_belong_to_the_manifest_is_rejected(
    exporter: ModelStore, importer: ModelStore, reference: bytes | None, aligned: bool
) -> None:
    named = sha256(b"mask").hexdigest()
    content = with_mask(exported(exporter), b"mask", named, reference=reference, aligned=aligned)
    with pytest.raises(InvalidRequest, match="its manifest and its reference do not belong together"):
        imported(importer, content)


@pytest.mark.parametrize("named", [None, sha256(b"other").hexdigest()])
def test_mask_that_the_manifest_does_not_name_is_rejected(
    exporter: ModelStore, importer: ModelStore, named: str | None
) -> None:
    with pytest.raises(InvalidRequest, match="its manifest and its mask do not belong together"):
        imported(importer, with_mask(exported(exporter), b"mask", named))
