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

from blemish_local.stack import Given, Stack
from blemish_local.supervision import supervisor as supervisor_module
from blemish_local.supervision.probes import NotYet, file_exists
from blemish_local.supervision.service import Part, PartFailed, Service
from blemish_local.supervision.supervisor import Policy, Supervisor

QUICK = Policy(first_delay_s=0.01, longest_delay_s=0.02, grace_s=0.5)
# What it starts ignores SIGTERM, as a pool in the middle of a task does.
WITH_GRANDCHILD = "(trap '' TERM; exec sleep 600) & "
OBEDIENT = "trap 'exit 0' TERM; touch ready; while :; do sleep 0.05; done"
DYING = "touch ready; until [ -e ../die ]; do sleep 0.02; done; echo as always; exit 5"
STUBBORN = "trap '' TERM; touch ready; while :; do sleep 0.05; done"


def alive(session: int) -> list[str]:
    """The processes in ``session`` that are more than zombies."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "sess=,stat=,args="], check=True, capture_output=True, text=True
    )
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return [row[2] for row in rows if row[0] == str(session) and not row[1].startswith("Z")]


def has_lines(said: list[str], count: int) -> bool:
    return len(said) == count


async def until(true: Callable[[], object], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.02)


@dataclass
class Workshop:
    """Makes parts out of shell scripts, and collects what the supervisor says."""

    folder: Path
    held: int
    services: list[Service] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    def part(self, name: str, script: str) -> Part:
        directory = self.folder / name
        return Part(
            name=name,
            what="a stand-in",
            command=("sh", "-c", script),
            environment=dict(os.environ),
            directory=directory,
            log=self.folder / "logs" / f"{name}.log",
            probe=partial(file_exists, directory / "ready"),
            cure="mend the script",
            ready_file=directory / "ready",
        )

    def service(self, name: str, script: str) -> Service:
        self.services.append(Service(self.part(name, script), self.held))
        return self.services[-1]

    def supervisor(self, *stages: tuple[Part, ...], policy: Policy = QUICK) -> Supervisor:
        stack = Stack(given=(), stages=stages, variables={})
        return Supervisor(stack, self.held, self.said.append, self.warned.append, policy)


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    with (tmp_path / "lock").open("w") as lock:
        workshop = Workshop(tmp_path, lock.fileno())
        yield workshop
        for service in workshop.services:
            await service.stop(grace_s=0)


def leash_of(service: Service) -> int:
    assert service._leash is not None
    return service._leash.pid


# One service


async def test_a_service_stops_when_asked_and_takes_its_descendants_along(
    workshop: Workshop,
) -> None:
    service = workshop.service("worker", WITH_GRANDCHILD + OBEDIENT)

    await service.start()
    assert len(alive(leash_of(service))) >= 3
    obeyed = await service.stop(grace_s=5)

    assert obeyed
    assert service.how_it_ended() == "it ended with exit code 0"
    await until(lambda: not alive(leash_of(service)))


async def test_the_request_to_stop_reaches_the_process_and_not_its_children(
    workshop: Workshop,
) -> None:
    child = "(trap 'touch child-was-asked' TERM; while :; do sleep 0.02; done) & "
    service = workshop.service(
        "worker", child + "trap 'sleep 0.3; exit 0' TERM; touch ready; while :; do sleep 0.02; done"
    )

    await service.start()

    assert await service.stop(grace_s=5)
    assert not (workshop.folder / "worker" / "child-was-asked").exists()


async def test_who_does_not_stop_is_killed_with_its_descendants(workshop: Workshop) -> None:
    service = workshop.service("worker", WITH_GRANDCHILD + STUBBORN)

    await service.start()
    obeyed = await service.stop(grace_s=0.2)

    assert not obeyed
    await until(lambda: not alive(leash_of(service)))


async def test_a_service_that_ends_while_starting_is_reported_in_full(workshop: Workshop) -> None:
    service = workshop.service("worker", "echo not this run; touch ready")
    with contextlib.suppress(PartFailed):
        await service.start()
    script = "echo the reason; echo another line >&2; exit 7"
    service.part = replace(service.part, command=("sh", "-c", script))

    with pytest.raises(PartFailed) as failure:
        await service.start()

    message = str(failure.value)
    assert message.startswith("worker did not start: it ended with exit code 7.")
    assert "the reason" in message and "another line" in message
    assert "not this run" not in message
    assert str(service.part.log) in message
    assert "mend the script" in message


async def test_a_command_that_does_not_exist_is_reported(workshop: Workshop) -> None:
    service = workshop.service("worker", "")
    service.part = replace(service.part, command=("no-such-command-at-all",))

    with pytest.raises(PartFailed, match="cannot run no-such-command-at-all: No such file"):
        await service.start()


async def test_a_log_that_cannot_be_written_is_reported(workshop: Workshop) -> None:
    service = workshop.service("worker", OBEDIENT)
    (workshop.folder / "logs").write_text("a file in the folder's place")

    with pytest.raises(PartFailed, match="worker could not be started"):
        await service.start()


async def test_a_service_that_never_gets_ready_is_killed_and_reported(workshop: Workshop) -> None:
    service = workshop.service("worker", WITH_GRANDCHILD + "sleep 600")
    service.part = replace(service.part, ready_within_s=0.3)

    with pytest.raises(PartFailed, match="was not ready within 0 s: it has not written"):
        await service.start()

    await until(lambda: not alive(leash_of(service)))


async def test_the_sign_of_an_earlier_run_does_not_count(workshop: Workshop) -> None:
    service = workshop.service("worker", "exit 3")
    service.part.directory.mkdir()
    assert service.part.ready_file is not None
    service.part.ready_file.touch()

    with pytest.raises(PartFailed, match="exit code 3"):
        await service.start()


async def test_an_answer_from_someone_else_does_not_count(workshop: Workshop) -> None:
    async def someone_answers() -> None:
        await service.ended()

    service = workshop.service("server", "echo the port is taken; exit 1")
    service.part = replace(service.part, probe=someone_answers)

    with pytest.raises(PartFailed, match="the port is taken"):
        await service.start()


async def test_when_the_leash_itself_is_killed_nothing_stays(workshop: Workshop) -> None:
    service = workshop.service("worker", WITH_GRANDCHILD + OBEDIENT)
    await service.start()

    os.kill(leash_of(service), signal.SIGKILL)
    await service.ended()

    assert service.how_it_ended() == "it was killed by SIGKILL"
    await until(lambda: not alive(leash_of(service)))


async def test_the_data_folder_stays_claimed_as_long_as_a_leash_lives(workshop: Workshop) -> None:
    with (workshop.folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        service = Service(workshop.part("redis", OBEDIENT), lock.fileno())
        workshop.services.append(service)
        await service.start()
    # Closed, as the kernel does it for a supervisor that is killed.

    with (workshop.folder / "lock").open() as successor:
        with pytest.raises(BlockingIOError):
            fcntl.flock(successor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        await service.stop(grace_s=5)
        fcntl.flock(successor, fcntl.LOCK_EX | fcntl.LOCK_NB)


SIGNALLED_AT_ONCE = """
import os, pathlib, signal, subprocess, time
from blemish_local import leash

class Signalled(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        while not pathlib.Path("ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Signalled
leash.main(["sh", "-c", "trap 'exit 7' TERM; touch ready; while :; do sleep 0.02; done"])
"""


def test_a_request_that_comes_while_the_command_starts_is_handed_on(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", SIGNALLED_AT_ONCE]
        leash = subprocess.Popen(command, stdin=theirs.fileno(), cwd=tmp_path, start_new_session=True)
        theirs.close()
        ours.settimeout(20)
        try:
            report = ours.recv(32)
            # A leash that ended otherwise has left its command behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leash.pid, signal.SIGKILL)
        finally:
            code = leash.wait()

    assert report == b"7"
    assert code == -signal.SIGKILL


# The stack


async def test_parts_start_in_order_and_stop_in_reverse(workshop: Workshop) -> None:
    def part(name: str) -> Part:
        return workshop.part(
            name,
            f"echo start {name} >> ../order; trap 'echo stop {name} >> ../order; exit 0' TERM; "
            "touch ready; while :; do sleep 0.02; done",
        )

    supervisor = workshop.supervisor((part("redis"),), (part("qdrant"),), (part("server"),))

    assert await supervisor.run(on_ready=supervisor.ask_to_stop)

    order = (workshop.folder / "order").read_text().splitlines()
    starts = ["start redis", "start qdrant", "start server"]
    assert order == [*starts, "stop server", "stop qdrant", "stop redis"]
    assert [line.split()[:2] for line in workshop.said[:3]] == [
        ["redis", "ready"],
        ["qdrant", "ready"],
        ["server", "ready"],
    ]
    assert workshop.warned == []


async def test_a_part_that_dies_is_started_again(workshop: Workshop) -> None:
    supervisor = workshop.supervisor((workshop.part("worker", f"echo $$ > pid; {OBEDIENT}"),))
    ready = asyncio.Event()
    running = asyncio.create_task(supervisor.run(ready.set))
    await ready.wait()

    for death in range(1, 3):
        os.kill(int((workshop.folder / "worker" / "pid").read_text()), signal.SIGKILL)
        await until(partial(has_lines, workshop.warned, 2 * death))
    supervisor.ask_to_stop()

    assert await running
    assert workshop.warned[0] == "worker   died: it was killed by SIGKILL; restart in 0.0 s"
    assert workshop.warned[1].startswith("worker   ready again in ")


async def test_a_part_that_keeps_dying_ends_the_whole_stack(workshop: Workshop) -> None:
    dying = workshop.part("worker", DYING)
    steady = workshop.part("redis", OBEDIENT + "; touch stopped")
    supervisor = workshop.supervisor((steady,), (dying,))

    assert not await supervisor.run(on_ready=(workshop.folder / "die").touch)

    assert "worker died 5 times" in workshop.warned[-1]
    assert "as always" in workshop.warned[-1]
    assert "exit code 5" in workshop.warned[-1]
    assert sum("died: it ended with exit code 5" in line for line in workshop.warned) == 4
    assert workshop.said[-1] == "stopped"


async def test_health_makes_earlier_deaths_forgotten(workshop: Workshop) -> None:
    policy = replace(QUICK, healthy_after_s=0.0, deaths_allowed=2)
    supervisor = workshop.supervisor((workshop.part("worker", DYING),), policy=policy)
    running = asyncio.create_task(supervisor.run((workshop.folder / "die").touch))

    await until(lambda: len(workshop.warned) >= 6)
    supervisor.ask_to_stop()

    assert await running


async def test_a_part_that_fails_to_start_stops_those_before_it(workshop: Workshop) -> None:
    supervisor = workshop.supervisor(
        (workshop.part("redis", f"trap 'touch stopped' EXIT; {OBEDIENT}"),),
        (workshop.part("worker", "exit 9"), workshop.part("server", OBEDIENT)),
    )

    assert not await supervisor.run(on_ready=lambda: pytest.fail("it is not ready"))

    assert (workshop.folder / "redis" / "stopped").exists()
    assert len(workshop.warned) == 1
    assert workshop.warned[0].startswith("worker did not start: it ended with exit code 9")


async def test_a_stop_in_the_middle_of_a_start_is_obeyed(workshop: Workshop) -> None:
    supervisor = workshop.supervisor((workshop.part("worker", f"touch begun; {'sleep 600'}"),))
    running = asyncio.create_task(supervisor.run(lambda: pytest.fail("it is not ready")))
    await until((workshop.folder / "worker" / "begun").exists)

    supervisor.ask_to_stop()

    assert await running
    assert workshop.warned == []


async def test_a_part_that_asks_for_more_time_to_end_has_it(workshop: Workshop) -> None:
    slow = "trap 'sleep 1.5; touch ended; exit' TERM; touch ready; while :; do sleep 0.1; done"
    supervisor = workshop.supervisor((replace(workshop.part("server", slow), grace_s=30),))
    ready = asyncio.Event()
    running = asyncio.create_task(supervisor.run(ready.set))
    await ready.wait()

    supervisor.ask_to_stop()

    assert await running
    assert workshop.warned == []
    assert (workshop.folder / "server" / "ended").exists()


async def test_asked_again_the_supervisor_kills_at_once(workshop: Workshop) -> None:
    patient = replace(QUICK, grace_s=60)
    stages = [(workshop.part(name, STUBBORN),) for name in ("redis", "worker")]
    supervisor = workshop.supervisor(*stages, policy=patient)
    ready = asyncio.Event()
    running = asyncio.create_task(supervisor.run(ready.set))
    await ready.wait()

    supervisor.ask_to_stop()
    await asyncio.sleep(0.2)
    assert not running.done()
    supervisor.ask_to_stop()

    async with asyncio.timeout(20):
        assert await running


async def test_a_given_part_that_does_not_answer_is_named_with_its_cure(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent() -> None:
        raise NotYet("connection refused")

    monkeypatch.setattr(supervisor_module, "_GIVEN_ANSWERS_WITHIN_S", 0.3)
    given = Given("redis", "REDIS_URL, broker:6379", silent, "start the Redis at broker:6379")
    stack = Stack(given=(given,), stages=((workshop.part("worker", OBEDIENT),),), variables={})
    supervisor = Supervisor(stack, workshop.held, workshop.said.append, workshop.warned.append)

    assert not await supervisor.run(on_ready=lambda: pytest.fail("it is not ready"))

    assert workshop.warned == [
        "redis does not answer (REDIS_URL, broker:6379): connection refused.\n"
        "  cure: start the Redis at broker:6379"
    ]


async def test_a_bug_in_the_supervisor_still_stops_the_parts(workshop: Workshop) -> None:
    def broken() -> None:
        raise KeyError("a bug")

    supervisor = workshop.supervisor((workshop.part("redis", f"trap 'touch stopped' EXIT; {OBEDIENT}"),))

    with pytest.raises(KeyError, match="a bug"):
        await supervisor.run(on_ready=broken)

    assert (workshop.folder / "redis" / "stopped").exists()
