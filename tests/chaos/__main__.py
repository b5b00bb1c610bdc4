# SPDX-License-Identifier: Apache-2.0
"""Strike a stack while it works, round after round, and look whether every promise about jobs holds.

    python -m tests.chaos [--rounds 24] [--minutes 60] [--seed N] [--only FAULT] [--keep FOLDER]

A round is one job, a training or a bulk embedding, and one fault at one of its phases; all come in turn, in
an order that the seed decides. It ends with code 1 if anything was lost, doubled or left behind.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
from tests.chaos import faults
from tests.chaos.checks import Verdict, judge, wait_for_end
from tests.chaos.faults import CANCELLED, DEAF, DISK_FULL, FAULTS, OLDER_BUILD, TOO_LATE, Fault
from tests.chaos.house import House, Part

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
        "alterations",
        "coreset",
        "calibration",
        "evaluation",
        "openvino",
        "report",
    ),
    "embed": ("accepted", "embedding"),
}
PREPARED = {DEAF: SUBMITTED, DISK_FULL: "accepted", OLDER_BUILD: "features"}
"""Faults that are there before the job is, and the phase that they show at."""
_SLOW = frozenset({DEAF.name, OLDER_BUILD.name})
_PHASE_WITHIN_S = 120.0
_OLDER = "f3bf665"
"""The oldest commit whose workers run with the present dependencies: those before need faiss."""


@dataclass(frozen=True)
class Round:
    fault: Fault
    kind: str
    phase: str


@dataclass(frozen=True)
class Result:
    round: Round
    verdict: Verdict
    recovery_s: float | None
    """Until somebody worked on it again, or it was cancelled; None where nobody had to do anything."""
    took_s: float
    too_late: bool
    """Whether the job had its result before it was struck; it must then succeed."""

    @property
    def late(self) -> bool:
        """Whether that took longer than it should: told and counted, but a busy machine is no fault."""
        limit_s = self.round.fault.within_s
        return self.recovery_s is not None and 0 < limit_s < self.recovery_s


def rounds(rng: random.Random, only: str) -> Iterator[Round]:
    """Every fault in turn, each time at another phase: in the order of the seed, for ever."""
    chosen = [fault for fault in FAULTS if only in fault.name]
    queues: dict[str, list[Round]] = {}
    for fault in chosen:
        if fault in PREPARED:
            queues[fault.name] = [Round(fault, "train", PREPARED[fault])]
        else:
            queues[fault.name] = [Round(fault, kind, phase) for kind in fault.of for phase in PHASES[kind]]
        rng.shuffle(queues[fault.name])
    for turn in range(10_000):
        # Those that take a minute by their nature come every third time.
        names = [name for name in queues if turn % 3 == 2 or name not in _SLOW]
        order = [queues[name][turn % len(queues[name])] for name in names]
        rng.shuffle(order)
        yield from order


class Suite:
    """Runs rounds on a house that it starts."""

    def __init__(self, house: House, client: Client) -> None:
        self._house = house
        self._client = client
        self._number = 0
        store = DatasetStore(house.store_folder / "datasets", ImageLimits())
        self._contents = {image.sha256 for image in store.images("many", "test")}
        self._embedder = ""

    def prepare(self) -> None:
        """Make the version that embeddings are made with."""
        done = self._client.wait(
            self._client.train("tile", model_id="embedder", detector=PatchCore(input_size=128))
        )
        if done.error:
            raise RuntimeError(done.error)
        self._embedder = done.result.model_version

    def run(self, drawn: Round) -> Result:
        house, fault = self._house, drawn.fault
        self._number += 1
        began = time.monotonic()
        model = f"round-{self._number}"
        with ExitStack() as mended:
            if fault is DISK_FULL:
                mended.enter_context(faults.full_disk(house.store_folder / "models" / model))
            older = mended.enter_context(_older_worker(house)) if fault is OLDER_BUILD else None
            if fault is DEAF:
                faults.deafen(house)
            id = self._submit(drawn, model)
            self._wait_for(id, drawn.phase)
            struck, struck_at = time.monotonic(), now()
            if older:
                older.kill()
            too_late = fault.strike(house, id) is TOO_LATE
            recovery_s = None
            if older or (fault.within_s and fault is not CANCELLED):
                for worker in house.workers if older else ():
                    worker.start()
                recovery_s = self._recovery(id, struck, struck_at)
            ended = wait_for_end(house, id)
            if fault is CANCELLED and ended and not too_late:
                recovery_s = time.monotonic() - struck
            house.start()
            house.set_clock(0)
            expected = JobState.SUCCEEDED if too_late else fault.expected
            verdict = judge(house, id, expected, self._contents if drawn.kind == "embed" else set())
        return Result(drawn, verdict, recovery_s, time.monotonic() - began, too_late)

    def _submit(self, drawn: Round, model: str) -> str:
        """Accept a job; the same request twice, as a client does whose first answer was lost."""
        if drawn.kind == "embed":
            self._house.index.drop(ModelRef.parse(self._embedder))
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
        give_up = time.monotonic() + _PHASE_WITHIN_S
        while True:
            job = self._house.job(id)
            if job.state.ended or phase == SUBMITTED or (phase == "accepted" and job.attempt):
                return
            if any(each.name == phase for each in job.phases):
                return
            if time.monotonic() > give_up:
                raise RuntimeError(f"jobs/{id} did not come to {phase}: {job}")
            time.sleep(0.01)

    def _recovery(self, id: str, struck: float, struck_at: datetime) -> float | None:
        """Seconds until a child began to work on it, by what it wrote itself; None if none had to."""
        give_up = time.monotonic() + _PHASE_WITHIN_S
        while time.monotonic() < give_up:
            began = [each for each in self._beginnings(id) if each > struck_at]
            if began:
                return (began[0] - struck_at).total_seconds()
            if self._house.job(id).state.ended:
                return None
            time.sleep(0.05)
        return time.monotonic() - struck

    def _beginnings(self, id: str) -> list[datetime]:
        """When children began a step of the job."""
        began = []
        with suppress(Unavailable):
            for line in self._house.jobs.read_log(id):
                with suppress(ValueError):  # not all are JSON, and a long one is cut
                    match json.loads(line.text):
                        case {"event": "begins", "timestamp": str(at)}:
                            began.append(datetime.fromisoformat(at))
        return began


@contextmanager
def _older_worker(house: House) -> Iterator[Part]:
    """A worker of an older build, alone."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", _OLDER, "protos", "core", "workers"],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=False,
        )
        if archive.returncode:
            raise PermissionError(f"commit {_OLDER} is not here")
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        older = house.older_worker(Path(folder))
        for worker in house.workers:
            worker.end()
        older.start()
        older.wait()
        try:
            yield older
        finally:
            older.kill()


def report(results: Sequence[Result], skipped: dict[str, str]) -> str:
    """The table of what came out."""
    lines = [
        "| fault | job | phases | rounds | struck too late | lost | doubled | other "
        "| working again, s: p50 | p95 | promised | late |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    grouped: defaultdict[tuple[str, str], list[Result]] = defaultdict(list)
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=60, help="begin no round after so many")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    parser.add_argument("--keep", type=Path, help="folder for stores and logs; kept")
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    give_up = time.monotonic() + 60 * asked.minutes
    results: list[Result] = []
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() if asked.keep is None else nullcontext(asked.keep) as folder:
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
        house = House(home)
        try:
            house.start()
            with Client(house.address) as client:
                for dataset in ("tile", "many"):
                    client.import_dataset(dataset, str(home / "surfaces" / dataset))
                suite = Suite(house, client)
                suite.prepare()
                for drawn in rounds(random.Random(asked.seed), asked.only):
                    if len(results) >= asked.rounds or time.monotonic() > give_up:
                        break
                    if drawn.fault.name in skipped:
                        continue
                    try:
                        result = suite.run(drawn)
                    except PermissionError as why:
                        skipped[drawn.fault.name] = str(why)
                        house.start()
                        continue
                    results.append(result)
                    _tell(len(results), result)
        finally:
            house.end()
    print(report(results, skipped))
    return int(not all(result.verdict.sound for result in results))


def _tell(number: int, result: Result) -> None:
    drawn, verdict = result.round, result.verdict
    again = "" if result.recovery_s is None else f", working again after {result.recovery_s:.1f} s"
    wrong = [*verdict.lost, *verdict.doubled, *verdict.other]
    again += ", LATE" * result.late + ", struck too late" * result.too_late
    outcome = "sound" if verdict.sound else f"WRONG: {'; '.join(wrong)}"
    print(
        f"{number:3} {drawn.fault.name} at {drawn.phase} ({drawn.kind}): {outcome}{again}; "
        f"{result.took_s:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
