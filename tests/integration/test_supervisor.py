# SPDX-License-Identifier: Apache-2.0
import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from blemish_local.stack import ExternalService, Stack
from blemish_local.supervision.probes import NotReady, file_exists
from blemish_local.supervision.service import ServiceFailed, ServiceProcess, ServiceSpec
from blemish_local.supervision.supervisor import RestartPolicy, Supervisor

QUICK = RestartPolicy(first_delay_s=0.01, longest_delay_s=0.02, grace_s=0.5)
# The grandchild ignores SIGTERM, like a pool during a task.
WITH_GRANDCHILD = "(trap '' TERM; exec sleep 600) & "
OBEDIENT = "trap 'exit 0' TERM; touch ready; while :; do sleep 0.05; done"
DYING = "touch ready; until [ -e ../die ]; do sleep 0.02; done; echo as always; exit 5"
STUBBORN = "trap '' TERM; touch ready; while :; do sleep 0.05; done"


def alive(session: int) -> list[str]:
    """Return the commands of the processes in a session, except zombies."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "sess=,stat=,args="], check=True, capture_output=True, text=True
    )
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return [row[2] for row in rows if row[0] == str(session) and not row[1].startswith("Z")]


def has_lines(lines: list[str], count: int) -> bool:
    return len(lines) == count


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


@dataclass
class ScriptedServices:
    """Services made of shell scripts, and the messages of their supervisor."""

    folder: Path
    held: int
    services: list[ServiceProcess] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    def spec(self, name: str, script: str) -> ServiceSpec:
        directory = self.folder / name
        return ServiceSpec(
            name=name,
            description="a shell script",
            command=("sh", "-c", script),
            environment=dict(os.environ),
            directory=directory,
            log=self.folder / "logs" / f"{name}.log",
            probe=partial(file_exists, directory / "ready"),
            remedy="repair the script",
            ready_file=directory / "ready",
        )

    def service(self, name: str, script: str) -> ServiceProcess:
        self.services.append(ServiceProcess(self.spec(name, script), self.held))
        return self.services[-1]

    def supervisor(self, *stages: tuple[ServiceSpec, ...], policy: RestartPolicy = QUICK) -> Supervisor:
        stack = Stack(external=(), stages=stages, variables={})
        return Supervisor(stack, self.held, self.reported.append, self.warned.append, policy)


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[ScriptedServices]:
    with (tmp_path / "lock").open("w") as lock:
        scripted = ScriptedServices(tmp_path, lock.fileno())
        yield scripted
        for service in scripted.services:
            await service.stop(grace_s=0)


# One service


async def test_stop_ends_the_service_and_its_descendants(
    scripted: ScriptedServices,
) -> None:
    service = scripted.service("worker", WITH_GRANDCHILD + OBEDIENT)

    await service.start()
    assert len(alive(service.session_id)) >= 3
    stopped = await service.stop(grace_s=5)

    assert stopped
    assert service.exit_status() == "it ended with exit code 0"
    await until(lambda: not alive(service.session_id))


async def test_stop_signal_reaches_only_the_process_itself(
    scripted: ScriptedServices,
) -> None:
    child = "(trap 'touch child-was-asked' TERM; while :; do sleep 0.02; done) & "
    service = scripted.service(
        "worker", child + "trap 'sleep 0.3; exit 0' TERM; touch ready; while :; do sleep 0.02; done"
    )

    await service.start()

    assert await service.stop(grace_s=5)
    assert not (scripted.folder / "worker" / "child-was-asked").exists()


async def test_service_that_ignores_the_signal_is_killed_with_its_descendants(
    scripted: ScriptedServices,
) -> None:
    service = scripted.service("worker", WITH_GRANDCHILD + STUBBORN)

    await service.start()
    stopped = await service.stop(grace_s=0.2)

    assert not stopped
    await until(lambda: not alive(service.session_id))


async def test_service_that_exits_while_starting_is_reported_with_its_log(
    scripted: ScriptedServices,
) -> None:
    service = scripted.service("worker", "echo not this run; touch ready")
    with contextlib.suppress(ServiceFailed):
        await service.start()
    script = "echo the reason; echo another line >&2; exit 7"
    service.spec = replace(service.spec, command=("sh", "-c", script))

    with pytest.raises(ServiceFailed) as failure:
        await service.start()

    message = str(failure.value)
    assert message.startswith("worker did not start: it ended with exit code 7.")
    assert "the reason" in message and "another line" in message
    assert "not this run" not in message
    assert str(service.spec.log) in message
    assert "repair the script" in message


async def test_missing_command_is_reported(scripted: ScriptedServices) -> None:
    service = scripted.service("worker", "")
    service.spec = replace(service.spec, command=("no-such-command-at-all",))

    with pytest.raises(ServiceFailed, match="cannot run no-such-command-at-all: No such file"):
        await service.start()


async def test_log_that_cannot_be_written_is_reported(scripted: ScriptedServices) -> None:
    service = scripted.service("worker", OBEDIENT)
    (scripted.folder / "logs").write_text("a file in the folder's place")

    with pytest.raises(ServiceFailed, match="worker could not be started"):
        await service.start()


async def test_service_that_is_never_ready_is_killed_and_reported(scripted: ScriptedServices) -> None:
    service = scripted.service("worker", WITH_GRANDCHILD + "sleep 600")
    service.spec = replace(service.spec, ready_within_s=0.3)

    with pytest.raises(ServiceFailed, match="was not ready within 0 s: it has not written"):
        await service.start()

    await until(lambda: not alive(service.session_id))


async def test_ready_file_of_an_earlier_run_is_ignored(scripted: ScriptedServices) -> None:
    service = scripted.service("worker", "exit 3")
    service.spec.directory.mkdir()
    assert service.spec.ready_file is not None
    service.spec.ready_file.touch()

    with pytest.raises(ServiceFailed, match="exit code 3"):
        await service.start()


async def test_answer_of_another_process_is_ignored(scripted: ScriptedServices) -> None:
    async def other_process_answers() -> None:
        await service.ended()

    service = scripted.service("server", "echo the port is taken; exit 1")
    service.spec = replace(service.spec, probe=other_process_answers)

    with pytest.raises(ServiceFailed, match="the port is taken"):
        await service.start()


async def test_killed_leash_leaves_no_process(scripted: ScriptedServices) -> None:
    service = scripted.service("worker", WITH_GRANDCHILD + OBEDIENT)
    await service.start()

    os.kill(service.session_id, signal.SIGKILL)
    await service.ended()

    assert service.exit_status() == "it was killed by SIGKILL"
    await until(lambda: not alive(service.session_id))


async def test_data_folder_stays_claimed_while_a_leash_runs(scripted: ScriptedServices) -> None:
    with (scripted.folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        service = ServiceProcess(scripted.spec("redis", OBEDIENT), lock.fileno())
        scripted.services.append(service)
        await service.start()
    # The descriptor is closed here, as by the kernel for a killed supervisor.

    with (scripted.folder / "lock").open() as successor:
        with pytest.raises(BlockingIOError):
            fcntl.flock(successor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        await service.stop(grace_s=5)
        fcntl.flock(successor, fcntl.LOCK_EX | fcntl.LOCK_NB)


EARLY_SIGNAL = """
import os, pathlib, signal, subprocess, time
from blemish_local.supervision import leash

class Signalled(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        while not pathlib.Path("ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Signalled
leash.main(["sh", "-c", "trap 'exit 7' TERM; touch ready; while :; do sleep 0.02; done"])
"""


def test_signal_during_the_start_of_the_command_is_forwarded(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", EARLY_SIGNAL]
        leash = subprocess.Popen(command, stdin=theirs.fileno(), cwd=tmp_path, start_new_session=True)
        theirs.close()
        ours.settimeout(20)
        try:
            report = ours.recv(32)
            # A leash that ended in another way has left its command running.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leash.pid, signal.SIGKILL)
        finally:
            code = leash.wait()

    assert report == b"7"
    assert code == -signal.SIGKILL


# The stack


async def test_services_start_in_order_and_stop_in_reverse(scripted: ScriptedServices) -> None:
    def ordered(name: str) -> ServiceSpec:
        return scripted.spec(
            name,
            f"echo start {name} >> ../order; trap 'echo stop {name} >> ../order; exit 0' TERM; "
            "touch ready; while :; do sleep 0.02; done",
        )

    supervisor = scripted.supervisor((ordered("redis"),), (ordered("qdrant"),), (ordered("server"),))

    assert await supervisor.run(on_ready=supervisor.request_stop)

    order = (scripted.folder / "order").read_text().splitlines()
    starts = ["start redis", "start qdrant", "start server"]
    assert order == [*starts, "stop server", "stop qdrant", "stop redis"]
    assert [line.split()[:2] for line in scripted.reported[:3]] == [
        ["redis", "ready"],
        ["qdrant", "ready"],
        ["server", "ready"],
    ]
    assert scripted.warned == []


async def test_service_that_dies_is_restarted(scripted: ScriptedServices) -> None:
    supervisor = scripted.supervisor((scripted.spec("worker", f"echo $$ > pid; {OBEDIENT}"),))
    ready = asyncio.Event()
    running = asyncio.create_task(supervisor.run(ready.set))
    await ready.wait()

    for death in range(1, 3):
        os.kill(int((scripted.folder / "worker" / "pid").read_text()), signal.SIGKILL)
        await until(partial(has_lines, scripted.warned, 2 * death))
    supervisor.request_stop()

    assert await running
    assert scripted.warned[0] == "worker   died: it was killed by SIGKILL; restart in 0.0 s"
    assert scripted.warned[1].startswith("worker   ready again in ")


async def test_service_that_keeps_dying_stops_the_stack(scripted: ScriptedServices) -> None:
    dying = scripted.spec("worker", DYING)
    steady = scripted.spec("redis", OBEDIENT + "; touch stopped")
    supervisor = scripted.supervisor((steady,), (dying,))

    assert not await supervisor.run(on_ready=(scripted.folder / "die").touch)

    assert "worker died 5 times" in scripted.warned[-1]
    assert "as always" in scripted.warned[-1]
    assert "exit code 5" in scripted.warned[-1]
    assert sum("died: it ended with exit code 5" in line for line in scripted.warned) == 4
    assert scripted.reported[-1] == "stopped"


async def test_healthy_time_resets_the_count_of_deaths(scripted: ScriptedServices) -> None:
    policy = replace(QUICK, healthy_after_s=0.0, deaths_allowed=2)
    supervisor = scripted.supervisor((scripted.spec("worker", DYING),), policy=policy)
    running = asyncio.create_task(supervisor.run((scripted.folder / "die").touch))

    await until(lambda: len(scripted.warned) >= 6)
    supervisor.request_stop()

    assert await running


async def test_failed_start_stops_the_earlier_services(scripted: ScriptedServices) -> None:
    supervisor = scripted.supervisor(
        (scripted.spec("redis", f"trap 'touch stopped' EXIT; {OBEDIENT}"),),
        (scripted.spec("worker", "exit 9"), scripted.spec("server", OBEDIENT)),
    )

    assert not await supervisor.run(on_ready=lambda: pytest.fail("the stack is not ready"))

    assert (scripted.folder / "redis" / "stopped").exists()
    assert len(scripted.warned) == 1
    assert scripted.warned[0].startswith("worker did not start: it ended with exit code 9")


async def test_stop_during_a_start_takes_effect(scripted: ScriptedServices) -> None:
    supervisor = scripted.supervisor((scripted.spec("worker", f"touch begun; {'sleep 600'}"),))
    running = asyncio.create_task(supervisor.run(lambda: pytest.fail("the stack is not ready")))
    await until((scripted.folder / "worker" / "begun").exists)

    supervisor.request_stop()

    assert await running
    assert scripted.warned == []


async def test_longer_grace_period_of_a_service_is_respected(scripted: ScriptedServices) -> None:
    slow = "trap 'sleep 1.5; touch ended; exit' TERM; touch ready; while :; do sleep 0.1; done"
    supervisor = scripted.supervisor((replace(scripted.spec("server", slow), grace_s=30),))
    ready = asyncio.Event()
    running = asyncio.create_task(supervisor.run(ready.set))
    await ready.wait()

    supervisor.request_stop()

    assert await running
    assert scripted.warned == []
    assert (scripted.folder / "server" / "ended").exists()


async def test_second_request_to_stop_kills(scripted: ScriptedServices) -> None:
    long_grace = replace(QUICK, grace_s=60)
    stages = [(scripted.spec(name, STUBBORN),) for name in ("redis", "worker")]
    supervisor = scripted.supervisor(*stages, policy=long_grace)
    ready = asyncio.Event()
    running = asyncio.create_task(supervisor.run(ready.set))
    await ready.wait()

    supervisor.request_stop()
    await asyncio.sleep(0.2)
    assert not running.done()
    supervisor.request_stop()

    async with asyncio.timeout(20):
        assert await running


async def test_external_service_without_answer_is_reported_with_a_remedy(
    scripted: ScriptedServices,
) -> None:
    async def silent() -> None:
        raise NotReady("connection refused")

    external = ExternalService("redis", "REDIS_URL, broker:6379", silent, "start the Redis at broker:6379")
    stack = Stack(external=(external,), stages=((scripted.spec("worker", OBEDIENT),),), variables={})
    policy = replace(QUICK, external_within_s=0.3)
    supervisor = Supervisor(stack, scripted.held, scripted.reported.append, scripted.warned.append, policy)

    assert not await supervisor.run(on_ready=lambda: pytest.fail("the stack is not ready"))

    assert scripted.warned == [
        "redis does not answer (REDIS_URL, broker:6379): connection refused.\n"
        "  remedy: start the Redis at broker:6379"
    ]


async def test_bug_in_the_supervisor_still_stops_the_services(scripted: ScriptedServices) -> None:
    def broken() -> None:
        raise KeyError("a bug")

    supervisor = scripted.supervisor((scripted.spec("redis", f"trap 'touch stopped' EXIT; {OBEDIENT}"),))

    with pytest.raises(KeyError, match="a bug"):
        await supervisor.run(on_ready=broken)

    assert (scripted.folder / "redis" / "stopped").exists()
