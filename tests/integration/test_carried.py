# SPDX-License-Identifier: Apache-2.0
"""Export of a version and its import as another model."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import grpc
import pytest
from safetensors.numpy import load, save
from tests.core.models.test_archive import members, packed
from tests.integration.conftest import RunningStack

from blemish.v1.model_pb2 import ImportModelRequest, ModelHeader
from blemish.v1.model_pb2_grpc import ModelServiceStub
from blemish_client import Client
from blemish_client.errors import FailedPrecondition, InvalidArgument
from blemish_core.models.archive import HEAD

MiB = 1 << 20


@pytest.fixture(scope="module")
def export(stack: RunningStack, tile_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a version whose threshold a person has set."""
    file = tmp_path_factory.mktemp("export") / "tile.blemish"
    told: list[tuple[int, int]] = []
    with Client(stack.address) as client:
        trained = client.model(tile_model).calibration
        client.update_calibration(tile_model, author="maria", threshold=trained.threshold + 1)
        client.export_model("tile", file, on_bytes=lambda *bytes_: told.append(bytes_))
        client.update_calibration(tile_model, author="maria", trained=True)
    assert told[-1] == (file.stat().st_size,) * 2
    return file


def test_imported_model_scores_as_the_exported_one(
    client: Client, stack: RunningStack, tile_model: str, export: Path
) -> None:
    told: list[tuple[int, int]] = []
    carried = client.import_model(export, model_id="carried", on_bytes=lambda *bytes_: told.append(bytes_))
    assert told[-1] == (export.stat().st_size,) * 2
    assert (carried.name, carried.production) == ("models/carried/versions/1", False)
    assert carried.training["imported from"] == tile_model
    here = client.model(tile_model)
    assert carried.calibration.author == "maria"
    assert carried.calibration.threshold == here.calibration.threshold + 1
    assert carried.metrics.threshold == carried.calibration.threshold
    assert b"Now judged by threshold" in client.report("carried")
    carried = client.update_calibration(carried.name, author="maria", trained=True)
    assert (carried.metrics, carried.runtimes) == (here.metrics, here.runtimes)
    assert client.report("carried") == client.report(tile_model)
    for frame in sorted((stack.surfaces / "tile/test/crack").iterdir()):
        ours, theirs = (client.score(frame.read_bytes(), model) for model in (tile_model, "carried"))
        assert (ours.score, ours.p_value) == (theirs.score, theirs.p_value)
    assert client.import_model(export, model_id="carried").name == carried.name, "once is enough"
    client.delete_model("carried")


def test_weights_that_do_not_fit_are_refused(client: Client, export: Path, tmp_path: Path) -> None:
    """The import loads the weights in a separate process and compares them with the card."""
    files = members(export.read_bytes())
    del files[HEAD]
    tensors = load(files["weights.safetensors"])
    tensors["memory_bank"] = tensors["memory_bank"][:, :-1].copy()
    weights = save(tensors)
    card = json.loads(files["manifest.json"])
    card["sha256"]["weights.safetensors"] = hashlib.sha256(weights).hexdigest()
    forged = tmp_path / "forged.blemish"
    forged.write_bytes(
        packed(files | {"weights.safetensors": weights, "manifest.json": json.dumps(card).encode()})
    )
    with pytest.raises(FailedPrecondition, match="cannot be run here: "):
        client.import_model(forged, model_id="forged")
    assert "models/forged" not in {model.name for model in client.models()}


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        ([], "INVALID_ARGUMENT", "the stream is empty"),
        ([ImportModelRequest()], "INVALID_ARGUMENT", "unexpected empty part"),
        ([ImportModelRequest(chunk=b"x")], "INVALID_ARGUMENT", "unexpected chunk"),
        ([ModelHeader(size_bytes=9)] * 2, "INVALID_ARGUMENT", "unexpected header"),
        ([ModelHeader(size_bytes=9, model_id="../x")], "INVALID_ARGUMENT", "'../x' is not a valid id"),
        ([ModelHeader(size_bytes=0)], "INVALID_ARGUMENT", "size_bytes is 0"),
        ([ModelHeader(size_bytes=1 << 40)], "RESOURCE_EXHAUSTED", "BLEMISH_MAX_LOADED_BYTES"),
        ([ModelHeader(size_bytes=9), b"x" * 8], "INVALID_ARGUMENT", "after 8 of 9 bytes"),
        ([ModelHeader(size_bytes=9), b"x" * 8, b"xx"], "INVALID_ARGUMENT", "more than the 9 bytes"),
        ([ModelHeader(size_bytes=MiB), b"x" * MiB], "INVALID_ARGUMENT", "not an export of blemish"),
    ],
)
def test_bytes_that_are_not_an_archive_are_refused(
    stack: RunningStack, sent: Iterable[ModelHeader | ImportModelRequest | bytes], code: str, words: str
) -> None:
    def message(part: ModelHeader | ImportModelRequest | bytes) -> ImportModelRequest:
        if isinstance(part, ModelHeader):
            return ImportModelRequest(header=part)
        return ImportModelRequest(chunk=part) if isinstance(part, bytes) else part

    with grpc.insecure_channel(stack.address) as channel:
        stub = ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ImportModel(map(message, sent), timeout=30)
    assert refused.value.code().name == code
    assert words in str(refused.value.details())
    assert not list((stack.data / "store/models").glob(".arriving*"))


def test_damaged_export_is_refused(client: Client, export: Path, tmp_path: Path) -> None:
    content = bytearray(export.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "damaged.blemish"
    damaged.write_bytes(content)
    with pytest.raises(InvalidArgument, match="it was damaged in transit"):
        client.import_model(damaged, model_id="damaged")
    with pytest.raises(FileNotFoundError):
        client.import_model(tmp_path / "nothing")
