# SPDX-License-Identifier: Apache-2.0
"""Authentication, roles and TLS of a running server."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.support.processes import wait_for_file
from tritonclient.utils import InferenceServerException

from blemish.v1.access_pb2 import ROLE_CAMERA
from blemish.v1.inspection_pb2 import (
    PRIORITY_AUDIT,
    PRIORITY_BACKFILL,
    PRIORITY_LINE_STOP,
    PRIORITY_UNSPECIFIED,
    STREAM_POLICY_BLOCK,
)
from blemish_client import Client
from blemish_client.aio import AsyncClient
from blemish_client.errors import PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable
from blemish_client.streaming.ledger import FrameResult
from blemish_client.transport.credentials import Credentials
from blemish_local.address import Address
from blemish_local.launching.announcement import reachable_by_tls
from blemish_server.auth import access
from blemish_server.auth.access import Role
from blemish_server.auth.authenticator import required_roles
from blemish_server.auth.limits import CallerLimits
from blemish_server.scoring.batcher import Priority

if TYPE_CHECKING:
    from tests.integration.conftest import RunningStack

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@dataclass(frozen=True)
class Guarded:
    """A second server, with an access file and a certificate."""

    address: str
    folder: Path
    """Folder of callers.json, chain.pem, key.pem, and roots.pem for clients."""
    data: Path
    """Folder of the stack's data, the store among them."""

    @property
    def callers(self) -> Path:
        return self.folder / "callers.json"

    @property
    def roots(self) -> Path:
        return self.folder / "roots.pem"

    def client(self, token: str) -> Client:
        return Client(self.address, credentials=Credentials(token, roots=self.roots))

    def renew(self) -> None:
        """Replace the certificate by one of another authority."""
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(self.folder / "key.pem")
        (self.folder / "chain.pem").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        authority.cert_pem.write_to_path(self.roots)


@pytest.fixture(scope="module")
def guarded(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    access.grant(folder / "callers.json", "nobody-yet", Role.CAMERA)
    ready, log = folder / "ready", folder / "server.log"
    server = Guarded("", folder, stack.data)
    server.renew()
    script = (stack.data / "run/environment.sh").read_text()
    parts = dict(word.partition("=")[::2] for word in shlex.split(script) if "=" in word)
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "blemish_server"],
            env=os.environ
            | parts
            | {
                "BLEMISH_LISTEN": "localhost:0",
                "BLEMISH_PRELOAD": "false",
                "BLEMISH_READY_FILE": str(ready),
                "BLEMISH_ACCESS_FILE": str(server.callers),
                "BLEMISH_TLS_CERTIFICATE": str(folder / "chain.pem"),
                "BLEMISH_TLS_KEY": str(folder / "key.pem"),
            },
            stdout=said,
            stderr=said,
        )
    try:
        wait_for_file(ready, process)
        port = log.read_text().partition('"address": "localhost:')[2].partition('"')[0]
        yield Guarded(f"localhost:{port}", folder, stack.data)
    finally:
        process.kill()
        process.wait(30)


def blemish_at(address: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line without a token."""
    command = [sys.executable, "-m", "blemish_client.cli", "--server", address, *words]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)


@pytest.fixture
def tokens(guarded: Guarded) -> Iterator[dict[Role, str]]:
    """Grant one caller of each role during a test."""
    yield {role: access.grant(guarded.callers, f"a-{role.word}", role) for role in Role}
    for role in Role:
        access.revoke(guarded.callers, f"a-{role.word}")


def until_known(guarded: Guarded, token: str) -> None:
    """Wait until the server has read the access file."""
    give_up = time.monotonic() + 5
    with guarded.client(token) as client:
        while True:
            try:
                client.server_info()
                return
            except Unauthenticated:
                assert time.monotonic() < give_up
                time.sleep(0.1)


def code(channel: grpc.Channel, method: str, token: str) -> grpc.StatusCode:
    """Return the status code of a call with an empty request."""
    call: Any = channel.stream_stream(method)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    answers = call(iter([b""]), timeout=20, metadata=metadata)
    try:
        for _ in answers:
            pass
    except grpc.RpcError:
        pass
    ended: grpc.StatusCode = answers.code()
    return ended


def test_each_role_may_call_the_rpcs_that_the_contract_grants(
    guarded: Guarded, tokens: dict[Role, str]
) -> None:
    until_known(guarded, tokens[Role.OPERATOR])
    secured = grpc.ssl_channel_credentials(guarded.roots.read_bytes())
    with grpc.secure_channel(guarded.address, secured) as channel:
        for method, least in required_roles().items():
            assert code(channel, method, "") is UNAUTHENTICATED, method
            assert code(channel, method, "blemish_guessed") is UNAUTHENTICATED, method
            for role, token in tokens.items():
                if role < least:
                    assert code(channel, method, token) is DENIED, (method, role)
                else:
                    assert code(channel, method, token) not in (UNAUTHENTICATED, DENIED), (method, role)


def test_priority_is_limited_by_the_callers_role(
    guarded: Guarded, tile_model: str, stack: RunningStack
) -> None:
    token = access.grant(guarded.callers, "an-audit", Role.CAMERA, Priority.AUDIT)
    until_known(guarded, token)
    image = (stack.surfaces / "tile/test/good/000.png").read_bytes()
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([image], dtype=np.object_))
    with (
        guarded.client(token) as client,
        triton.InferenceServerClient(
            guarded.address, ssl=True, root_certificates=str(guarded.roots)
        ) as other,
    ):
        assert client.server_info().most_urgent == PRIORITY_AUDIT
        for priority in (PRIORITY_UNSPECIFIED, PRIORITY_AUDIT, PRIORITY_BACKFILL):
            assert client.score(image, tile_model, priority=priority).score > 0
        with pytest.raises(PermissionDenied, match="requested priority line-stop, but is limited to audit"):
            client.score(image, tile_model, priority=PRIORITY_LINE_STOP)
        with pytest.raises(PermissionDenied, match="is limited to audit"):
            list(client.stream([image], tile_model, priority=PRIORITY_LINE_STOP))
        shown = {"authorization": f"Bearer {token}"}
        model = tile_model.removeprefix("models/").partition("/")[0]
        assert other.infer(model, [tensor], headers=shown, priority=2).as_numpy("score")[0] > 0
        with pytest.raises(InferenceServerException, match="is limited to audit"):
            other.infer(model, [tensor], headers=shown, priority=1)
    access.revoke(guarded.callers, "an-audit")


def test_health_and_reflection_need_no_token(guarded: Guarded) -> None:
    secured = grpc.ssl_channel_credentials(guarded.roots.read_bytes())
    with grpc.secure_channel(guarded.address, secured) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert "blemish.v1.JobService" in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_refusal_names_cause_and_remedy(guarded: Guarded, tokens: dict[Role, str]) -> None:
    until_known(guarded, tokens[Role.CAMERA])
    with guarded.client("") as client, pytest.raises(Unauthenticated, match="has no token; send") as why:
        client.server_info()
    assert why.value.reason == "UNAUTHENTICATED"
    with guarded.client(tokens[Role.CAMERA]) as client:
        info = client.server_info()
        assert (info.caller, info.role) == ("a-camera", ROLE_CAMERA)
        with pytest.raises(
            PermissionDenied, match="a-camera has the role camera, but CreateJob needs operator"
        ) as no:
            client.train("tile")
    assert no.value.reason == "DENIED"


def test_requests_of_an_unauthenticated_caller_are_not_read(guarded: Guarded) -> None:
    secured = grpc.ssl_channel_credentials(guarded.roots.read_bytes())
    unbounded = [("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(guarded.address, secured, unbounded) as channel:
        call: Any = channel.unary_unary("/blemish.v1.InspectionService/Score")
        with pytest.raises(grpc.RpcError) as refused:
            call(bytes(80 << 20), timeout=20)  # twice what would be refused for its size
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is UNAUTHENTICATED


def test_image_health_check_works_over_tls(guarded: Guarded) -> None:
    check = [sys.executable, str(Path(__file__).parents[2] / "docker/serving.py")]
    by_tls = os.environ | {"BLEMISH_TLS_CERTIFICATE": "chain.pem"}
    assert subprocess.run([*check, guarded.address], env=by_tls).returncode == 0
    assert subprocess.run([*check, "localhost:1"], env=by_tls, capture_output=True).returncode == 1


def test_stream_ends_when_its_token_is_revoked(
    guarded: Guarded, tile_model: str, stack: RunningStack
) -> None:
    token = access.grant(guarded.callers, "press-7", Role.CAMERA)
    until_known(guarded, token)
    frame = (stack.surfaces / "tile/train/good/000.png").read_bytes()

    def frames() -> Iterator[bytes]:
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            yield frame

    seen = 0
    with guarded.client(token) as client, pytest.raises(Unauthenticated, match="revoked"):
        for one in client.stream(frames(), tile_model, policy=STREAM_POLICY_BLOCK):
            assert isinstance(one, FrameResult)
            seen += 1
            if seen == 3:
                access.revoke(guarded.callers, "press-7")
    assert seen >= 3


def test_watch_without_any_event_ends_when_its_token_is_revoked(guarded: Guarded) -> None:
    token = access.grant(guarded.callers, "display", Role.SERVICE, limits=CallerLimits(streams=1))
    until_known(guarded, token)
    with guarded.client(token) as client:
        watch = client.watch_inspections(cameras=["none"], state_interval_s=1)
        assert next(watch).HasField("states")
        with pytest.raises(ResourceExhausted, match="limit streams = 1"):
            client.server_info()
        access.revoke(guarded.callers, "display")
        with pytest.raises(Unauthenticated, match="revoked"):
            for response in watch:
                assert response.HasField("states")


def test_camera_may_not_watch_the_frames_of_others(guarded: Guarded, tokens: dict[Role, str]) -> None:
    until_known(guarded, tokens[Role.CAMERA])
    with guarded.client(tokens[Role.CAMERA]) as client, pytest.raises(PermissionDenied, match="service"):
        next(client.watch_inspections())


def test_upload_ends_when_its_token_is_revoked(
    guarded: Guarded, stack: RunningStack, tokens: dict[Role, str]
) -> None:
    token = access.grant(guarded.callers, "office", Role.OPERATOR)
    until_known(guarded, token)
    sent = 0

    def one_more(image: object) -> None:
        nonlocal sent
        sent += 1
        if sent == 3:
            access.revoke(guarded.callers, "office")
        time.sleep(0.2)

    with guarded.client(token) as client:
        client.create_dataset("cut-short")
        with pytest.raises(Unauthenticated, match="revoked"):
            client.upload("cut-short", stack.surfaces / "tile", on_image=one_more)
    with guarded.client(tokens[Role.SERVICE]) as client:
        assert 0 < client.dataset("cut-short").train_images < 24


def test_job_names_its_caller(guarded: Guarded, tile_model: str, tokens: dict[Role, str]) -> None:
    until_known(guarded, tokens[Role.OPERATOR])
    with guarded.client(tokens[Role.OPERATOR]) as client:
        job = client.wait(client.embed(tile_model, "tile"))
    assert job.error == ""
    assert job.history[0].reason == "requested by a-operator"


def test_calls_above_the_limits_of_a_caller_are_refused(
    guarded: Guarded, tile_model: str, stack: RunningStack
) -> None:
    frame = (stack.surfaces / "tile/train/good/000.png").read_bytes()
    limits = CallerLimits(streams=2, requests_per_second=10)
    token = access.grant(guarded.callers, "press-9", Role.CAMERA, limits=limits)
    until_known(guarded, token)
    with guarded.client(token) as client:
        with pytest.raises(ResourceExhausted, match="limit requests_per_second = 10") as refused:
            for _ in range(60):
                client.server_info()
        assert refused.value.reason == "LIMIT_EXCEEDED"
        assert refused.value.retry_after_s is not None
        time.sleep(1.2)
        start_s = time.monotonic()
        results = list(client.stream([frame] * 25, tile_model, policy=STREAM_POLICY_BLOCK))
        assert len(results) == 25 and all(isinstance(each, FrameResult) for each in results)
        assert time.monotonic() - start_s > 1.2
        access.set_limits(guarded.callers, "press-9", CallerLimits(streams=1))
        time.sleep(1.2)
        release = threading.Event()

        def waiting() -> Iterator[bytes]:
            yield frame
            release.wait(30)

        stream = client.stream(waiting(), tile_model)
        next(stream)
        with pytest.raises(ResourceExhausted, match="limit streams = 1"):
            client.server_info()
        release.set()
        assert list(stream) == []
        client.server_info()
    access.revoke(guarded.callers, "press-9")


def test_queued_jobs_of_a_caller_are_limited(guarded: Guarded, tile_model: str) -> None:
    limits = CallerLimits(queued_jobs=2)
    token = access.grant(guarded.callers, "planner", Role.OPERATOR, limits=limits)
    until_known(guarded, token)
    jobs: dict[str, str] = {}
    with guarded.client(token) as client:
        with pytest.raises(ResourceExhausted, match="limit queued_jobs = 2") as refused:
            for request in map("planned-{}".format, range(12)):
                jobs[request] = client.evaluate(tile_model, "tile", request_id=request).name
        assert refused.value.reason == "LIMIT_EXCEEDED"
        request, name = jobs.popitem()
        assert client.evaluate(tile_model, "tile", request_id=request).name == name
        for job in (name, *jobs.values()):
            client.cancel(job)
        for job in (name, *jobs.values()):
            client.wait(job)
    access.revoke(guarded.callers, "planner")


def test_audit_log_names_the_callers_of_changes(
    guarded: Guarded, tile_model: str, tokens: dict[Role, str]
) -> None:
    until_known(guarded, tokens[Role.OPERATOR])
    with guarded.client(tokens[Role.CAMERA]) as client:
        for call in (lambda: client.promote(tile_model), lambda: list(client.audit_entries())):
            with pytest.raises(PermissionDenied):
                call()
    with guarded.client(tokens[Role.OPERATOR]) as client:
        client.promote(tile_model)
        client.create_dataset("audited")
        client.delete_dataset("audited")
        recent = datetime.now(UTC) - timedelta(minutes=1)
        entries = client.audit_entries(caller="a-operator", start=recent)
        changes = [(entry.action, *entry.resources, entry.code) for entry in entries]
        assert changes[:3] == [
            ("DeleteDataset", "datasets/audited", 0),
            ("CreateDataset", "datasets/audited", 0),
            ("PromoteModel", tile_model, 0),
        ]
        denied = client.audit_entries(caller="a-camera", action="PromoteModel", only_failed=True)
        entry = next(denied)
        assert (entry.code, entry.role) == (DENIED.value[0], ROLE_CAMERA)
        assert entry.peer.startswith("ipv")
    secrets = [token.encode() for token in tokens.values()]
    for file in (guarded.data / "store/audit").glob("*.jsonl"):
        assert not any(secret in file.read_bytes() for secret in secrets)


def test_servers_of_a_store_share_an_audit_log(
    guarded: Guarded, tokens: dict[Role, str], stack: RunningStack
) -> None:
    until_known(guarded, tokens[Role.OPERATOR])
    with guarded.client(tokens[Role.OPERATOR]) as client, Client(stack.address) as other:
        client.create_dataset("shared-log")
        other.delete_dataset("shared-log")
        ended, made = list(client.audit_entries(resource="datasets/shared-log"))
    assert (made.caller, ended.caller) == ("a-operator", "127.0.0.1")
    assert made.server != ended.server


async def test_asyncio_client_sends_its_token(
    guarded: Guarded, tile_model: str, stack: RunningStack, tokens: dict[Role, str]
) -> None:
    until_known(guarded, tokens[Role.CAMERA])
    frame = (stack.surfaces / "tile/train/good/000.png").read_bytes()
    shown = Credentials(tokens[Role.CAMERA], roots=guarded.roots)
    async with AsyncClient(guarded.address, credentials=shown) as client:
        assert (await client.server_info()).caller == "a-camera"
        assert (await client.score(frame, tile_model)).model_version == tile_model
        seen = [one async for one in client.stream([frame] * 3, tile_model, policy=STREAM_POLICY_BLOCK)]
        assert len(seen) == 3
        with pytest.raises(PermissionDenied):
            async for _ in client.search(frame, tile_model):
                pass


def test_triton_client_sends_its_token(guarded: Guarded, tokens: dict[Role, str]) -> None:
    until_known(guarded, tokens[Role.CAMERA])
    client = triton.InferenceServerClient(guarded.address, ssl=True, root_certificates=str(guarded.roots))
    with pytest.raises(InferenceServerException, match="has no token"):
        client.is_server_ready()
    assert client.is_server_ready(headers={"authorization": f"Bearer {tokens[Role.CAMERA]}"})
    client.close()


def test_command_line_sends_its_token(guarded: Guarded, tokens: dict[Role, str]) -> None:
    until_known(guarded, tokens[Role.SERVICE])

    def blemish(*words: str, token: str) -> subprocess.CompletedProcess[str]:
        told = {
            "BLEMISH_SERVER": guarded.address,
            "BLEMISH_ROOTS": str(guarded.roots),
            "BLEMISH_TOKEN": token,
        }
        command = [sys.executable, "-m", "blemish_client.cli", *words]
        return subprocess.run(command, env=os.environ | told, capture_output=True, text=True)

    info = blemish("info", token=tokens[Role.SERVICE])
    assert info.returncode == 0
    assert "a-service, service" in info.stdout
    refused = blemish("train", "tile", token=tokens[Role.SERVICE])
    assert (refused.returncode, refused.stdout) == (6, "")
    assert "a-service has the role service" in refused.stderr


def test_client_rejects_a_certificate_of_an_unknown_authority(
    guarded: Guarded, tokens: dict[Role, str], tmp_path: Path
) -> None:
    another = tmp_path / "another.pem"
    trustme.CA().cert_pem.write_to_path(another)
    token = tokens[Role.CAMERA]
    for shown in (Credentials(token, tls=True), Credentials(token, roots=another)):
        with (
            Client(guarded.address, credentials=shown) as client,
            pytest.raises(Unavailable, match=r"TLS handshake failed with .*certificate"),
        ):
            client.server_info()
    with (
        Client(guarded.address) as client,
        pytest.raises(Unavailable, match="it closed the connection, as a server with TLS does"),
    ):
        client.server_info()


def test_mismatch_of_tls_is_reported_with_its_remedy(guarded: Guarded, stack: RunningStack) -> None:
    plain = blemish_at(guarded.address, "info")
    assert plain.returncode == 4
    (line,) = plain.stderr.splitlines()
    assert line.startswith(f"blemish: the server at {guarded.address} requires TLS; connect with --roots")

    encrypted = blemish_at(stack.address, "--roots", str(guarded.roots), "info")
    assert encrypted.returncode == 4
    (line,) = encrypted.stderr.splitlines()
    assert "the server does not use TLS; connect without TLS (leave out --tls and --roots" in line

    port = int(guarded.address.rpartition(":")[2])
    unknown = blemish_at(guarded.address, "--tls", "info")
    (line,) = unknown.stderr.splitlines()
    assert "pass the server's root certificate with --roots FILE" in line

    other_name = f"127.0.0.1:{port}"
    unnamed = blemish_at(other_name, "--roots", str(guarded.roots), "info")
    (line,) = unnamed.stderr.splitlines()
    assert "set --server to a name that is in the server's certificate" in line

    # `blemish up` prints the name that works, and the certificate that verifies itself.
    chain = guarded.roots.with_name("chain.pem")
    assert reachable_by_tls(Address("127.0.0.1", port), chain) == guarded.address
    assert "the call has no token" in blemish_at(guarded.address, "--roots", str(chain), "info").stderr


def test_renewed_certificate_needs_no_restart(
    guarded: Guarded, tokens: dict[Role, str], tmp_path: Path
) -> None:
    old = tmp_path / "old.pem"
    old.write_bytes(guarded.roots.read_bytes())
    guarded.renew()
    until_known(guarded, tokens[Role.CAMERA])
    shown = Credentials(tokens[Role.CAMERA], roots=old)
    with (
        Client(guarded.address, credentials=shown) as client,
        pytest.raises(
            Unavailable, match=r"TLS handshake failed with localhost:[0-9]+: certificate verify failed"
        ),
    ):
        client.server_info()
