# SPDX-License-Identifier: Apache-2.0
"""Inject faults into a working stack, round after round, and check every promise about jobs.

    python -m tests.chaos [--rounds 24] [--minutes 60] [--seed N] [--only FAULT] [--keep FOLDER]

A round is one job, a training or a bulk embedding, and one fault in one of its phases. The seed decides the
order. The exit code is 1 if anything was lost, doubled or left behind.
"""

import json
import random
import subprocess
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from tests.benchmarks.report import section
from tests.chaos import faults
from tests.chaos.checks import Verdict, judge, wait_for_end
from tests.chaos.faults import CANCELLED, DEAF, DISK_FULL, FAULTS, OLDER_BUILD, TOO_LATE, Fault
from tests.chaos.stack import ChaosStack, StackProcess

from blemish.v1.job_pb2 import PatchCore
from blemish_client import Client
from blemish_client.demo.surfaces import generate
from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.record import JobState, now
from blemish_core.platform.errors import Unavailable
from blemish_core.platform.names import ModelRef

SUBMITTED = "submitted"
PHASES = {
    "train": (
        "accepted",
        "check",
        "features",
        "coreset",
        "calibration",
        "evaluation",
        "openvino",
        "report",
    ),
    "embed": ("accepted", "embedding"),
}
INJECTED_BEFORE = {DEAF: SUBMITTED, DISK_FULL: "accepted", OLDER_BUILD: "features"}
"""Faults that are injected before the job is submitted, and the phase in which they show."""
_SLOW = frozenset({DEAF.name, OLDER_BUILD.name})
_PHASE_WITHIN_S = 120.0
_OLDER_COMMIT = "f3bf665"
"""Oldest commit whose workers run with the current dependencies; earlier ones need faiss."""


@dataclass(frozen=True)
class Round:
    """One fault in one phase of one kind of job."""

    fault: Fault
    kind: str
    phase: str


@dataclass(frozen=True)
class RoundResult:
    """The outcome of a round."""

    round: Round
    verdict: Verdict
    recovery_s: float | None
    """Time until another attempt ran or the job was cancelled; None if neither was necessary."""
    took_s: float
    too_late: bool
    """Flag for a job that had its result before the fault; it must then succeed."""

    @property
    def late(self) -> bool:
        """Return True if recovery took too long; this is reported, but a busy machine is not a failure."""
        limit_s = self.round.fault.within_s
        return self.recovery_s is not None and 0 < limit_s < self.recovery_s


def rounds(rng: random.Random, only: str) -> Iterator[Round]:
    """Yield every fault in turn, each time in another phase, in the order of the seed."""
    chosen = [fault for fault in FAULTS if only in fault.name]
    queues: dict[str, list[Round]] = {}
    for fault in chosen:
        if fault in INJECTED_BEFORE:
            queues[fault.name] = [Round(fault, "train", INJECTED_BEFORE[fault])]
        else:
            queues[fault.name] = [
                Round(fault, kind, phase) for kind in fault.kinds for phase in PHASES[kind]
            ]
        rng.shuffle(queues[fault.name])
    for turn in range(10_000):
        # The slow faults take a minute each and come every third time.
        names = [name for name in queues if turn % 3 == 2 or name not in _SLOW]
        order = [queues[name][turn % len(queues[name])] for name in names]
        rng.shuffle(order)
        yield from order


class ChaosSuite:
    """The rounds on one stack."""

    def __init__(self, stack: ChaosStack, client: Client) -> None:
        self._stack = stack
        self._client = client
        self._number = 0
        store = DatasetStore(stack.store_folder / "datasets", ImageLimits())
        self._contents = {image.sha256 for image in store.images("many", "test")}
        self._embedder = ""

    def prepare(self) -> None:
        """Train the model version that computes embeddings."""
        done = self._client.wait(
            self._client.train("tile", model_id="embedder", detector=PatchCore(input_size=128))
        )
        if done.error:
            raise RuntimeError(done.error)
        self._embedder = done.result.model_version

    def run(self, drawn: Round) -> RoundResult:
        stack, fault = self._stack, drawn.fault
        self._number += 1
        began = time.monotonic()
        model = f"round-{self._number}"
        with ExitStack() as repairs:
            if fault is DISK_FULL:
                repairs.enter_context(faults.full_disk(stack.store_folder / "models" / model))
            older = repairs.enter_context(_older_worker(stack)) if fault is OLDER_BUILD else None
            if fault is DEAF:
                faults.deafen(stack)
            id = self._submit(drawn, model)
            self._wait_for(id, drawn.phase)
            injected, injected_at = time.monotonic(), now()
            if older:
                older.kill()
            too_late = fault.inject(stack, id) is TOO_LATE
            recovery_s = None
            if older or (fault.within_s and fault is not CANCELLED):
                for worker in stack.workers if older else ():
                    worker.start()
                recovery_s = self._recovery(id, injected, injected_at)
            ended = wait_for_end(stack, id)
            if fault is CANCELLED and ended and not too_late:
                recovery_s = time.monotonic() - injected
            stack.start()
            stack.set_clock_offset(0)
            expected = JobState.SUCCEEDED if too_late else fault.expected
            verdict = judge(stack, id, expected, self._contents if drawn.kind == "embed" else set())
        return RoundResult(drawn, verdict, recovery_s, time.monotonic() - began, too_late)

    def _submit(self, drawn: Round, model: str) -> str:
        """Submit a job twice with one request id, like a client that lost the first response."""
        if drawn.kind == "embed":
            self._stack.index.drop(ModelRef.parse(self._embedder))
            made = [self._client.embed(self._embedder, "many", request_id=model) for _ in range(2)]
        else:
            settings = PatchCore(input_size=128, coreset_ratio=0.5)
            made = [
                self._client.train("tile", model_id=model, detector=settings, request_id=model)
                for _ in range(2)
            ]
        if made[0].name != made[1].name:
            raise RuntimeError(f"one request made {made[0].name} and {made[1].name}")
        return made[0].name.partition("/")[2]

    def _wait_for(self, id: str, phase: str) -> None:
        deadline = time.monotonic() + _PHASE_WITHIN_S
        while True:
            job = self._stack.job(id)
            if job.state.ended or phase == SUBMITTED or (phase == "accepted" and job.attempt):
                return
            if any(each.name == phase for each in job.phases):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"jobs/{id} did not reach {phase}: {job}")
            time.sleep(0.01)

    def _recovery(self, id: str, injected: float, injected_at: datetime) -> float | None:
        """Return the seconds until a child began, according to its log; None if the job ended without."""
        deadline = time.monotonic() + _PHASE_WITHIN_S
        while time.monotonic() < deadline:
            began = [each for each in self._step_starts(id) if each > injected_at]
            if began:
                return (began[0] - injected_at).total_seconds()
            if self._stack.job(id).state.ended:
                return None
            time.sleep(0.05)
        return time.monotonic() - injected

    def _step_starts(self, id: str) -> list[datetime]:
        """Return the times at which children began a step of the job."""
        began = []
        with suppress(Unavailable):
            for line in self._stack.jobs.read_log(id):
                with suppress(ValueError):  # some lines are not JSON, and long ones are truncated
                    match json.loads(line.text):
                        case {"event": "step started" | "begins", "timestamp": str(at)}:
                            began.append(datetime.fromisoformat(at))
        return began


@contextmanager
def _older_worker(stack: ChaosStack) -> Iterator[StackProcess]:
    """Run a worker of an older build in place of the others.

    Raises:
        PermissionError: if the commit of that build is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", _OLDER_COMMIT, "protos", "core", "workers"],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=False,
        )
        if archive.returncode:
            raise PermissionError(f"commit {_OLDER_COMMIT} is missing; fetch the whole history")
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        older = stack.older_worker(Path(folder))
        for worker in stack.workers:
            worker.terminate()
        older.start()
        older.wait()
        try:
            yield older
        finally:
            older.kill()


def report(results: Sequence[RoundResult], skipped: dict[str, str]) -> str:
    """Return the table of results."""
    lines = [
        "| fault | job | phases | rounds | too late | lost | doubled | other "
        "| working again, s: p50 | p95 | promised | late |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    grouped: defaultdict[tuple[str, str], list[RoundResult]] = defaultdict(list)
    for result in results:
        grouped[result.round.fault.name, result.round.kind].append(result)
    for fault, kind in product((fault.name for fault in FAULTS), PHASES):
        group = grouped.get((fault, kind))
        if not group:
            continue
        phases = [
            phase
            for phase in (SUBMITTED, *PHASES[kind])
            if any(each.round.phase == phase for each in group)
        ]
        counts = [sum(each.round.phase == phase for each in group) for phase in phases]
        named = ", ".join(
            phase if count == 1 else f"{phase} x{count}"
            for phase, count in zip(phases, counts, strict=True)
        )
        times = [each.recovery_s for each in group if each.recovery_s is not None]
        p50 = f"{median(times):.1f}" if times else ""
        p95 = f"{np.quantile(times, 0.95):.1f}" if times else ""
        wrong = [
            sum(bool(getattr(each.verdict, name)) for each in group)
            for name in ("lost", "doubled", "other")
        ]
        promised = group[0].round.fault.within_s
        late, too_late = sum(each.late for each in group), sum(each.too_late for each in group)
        lines.append(
            f"| {fault} | {kind} | {named} | {len(group)} | {too_late} "
            f"| {wrong[0]} | {wrong[1]} | {wrong[2]} "
            f"| {p50} | {p95} | {f'{promised:.0f}' if promised else ''} | {late if promised else ''} |"
        )
    lines += [
        f"| {fault} | | not run: {why.strip()} | 0 | | | | | | | | |" for fault, why in skipped.items()
    ]
    return "\n".join(lines)


def main(
    count: Annotated[int, typer.Option("--rounds", help="Number of rounds.")] = 24,
    minutes: Annotated[float, typer.Option(help="Time after which no round starts.")] = 60,
    seed: Annotated[int | None, typer.Option(help="Seed of the order.", show_default="random")] = None,
    only: Annotated[str, typer.Option(metavar="FAULT", help="Part of the names of faults to run.")] = "",
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to keep stores and logs in.")
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="Keep the table in docs/benchmarks.md.")] = False,
) -> None:
    """Inject faults into a working stack and check every promise about jobs.

    Example: python -m tests.chaos --rounds 100 --only Redis
    """
    seed = random.randrange(2**32) if seed is None else seed
    print(f"seed {seed}", flush=True)
    deadline = time.monotonic() + 60 * minutes
    results: list[RoundResult] = []
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() if keep is None else nullcontext(keep) as folder:
        home = Path(folder).resolve()
        for part, sizes in {"tile": (24, 4, 4), "many": (2, 300, 300)}.items():
            train, good, defective = sizes
            generate(
                home / "surfaces" / part,
                "tile",
                seed=len(part),
                train=train,
                good=good,
                defective=defective,
                size=96,
            )
        stack = ChaosStack(home)
        try:
            stack.start()
            with Client(stack.address) as client:
                for dataset in ("tile", "many"):
                    client.import_dataset(dataset, str(home / "surfaces" / dataset))
                suite = ChaosSuite(stack, client)
                suite.prepare()
                for drawn in rounds(random.Random(seed), only):
                    if len(results) >= count or time.monotonic() > deadline:
                        break
                    if drawn.fault.name in skipped:
                        continue
                    try:
                        result = suite.run(drawn)
                    except PermissionError as why:
                        skipped[drawn.fault.name] = str(why)
                        stack.start()
                        continue
                    results.append(result)
                    _print_result(len(results), result)
        finally:
            stack.stop()
    with section("chaos", "Fault injection", Namespace(no_page=not page)) as kept:
        kept.write(f"Seed {seed}, {len(results)} rounds.\n")
        kept.write(report(results, skipped))
    if not all(result.verdict.sound for result in results):
        raise typer.Exit(1)


def _print_result(number: int, result: RoundResult) -> None:
    drawn, verdict = result.round, result.verdict
    again = "" if result.recovery_s is None else f", working again after {result.recovery_s:.1f} s"
    wrong = [*verdict.lost, *verdict.doubled, *verdict.other]
    again += ", LATE" * result.late + ", too late" * result.too_late
    outcome = "sound" if verdict.sound else f"WRONG: {'; '.join(wrong)}"
    print(
        f"{number:3} {drawn.fault.name} at {drawn.phase} ({drawn.kind}): {outcome}{again}; "
        f"{result.took_s:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    typer.run(main)
