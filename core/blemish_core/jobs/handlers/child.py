# SPDX-License-Identifier: Apache-2.0
"""The process that does the work of jobs, step by step, and can be killed at any moment.

It is told its steps on standard input and says what happens on a descriptor of its own. It knows neither
Redis nor the job's state: the worker that holds the other ends sees to those.
"""

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

import structlog

from blemish_core.jobs import messages
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers import train as work
from blemish_core.jobs.handlers import warmup
from blemish_core.jobs.handlers.train import Ear
from blemish_core.jobs.messages import CommitGranted, Said, Step
from blemish_core.jobs.record import Phase

_IDLE_S = 10.0

log = structlog.get_logger(__name__)


class Child:
    """Takes steps from ``told`` and does them at ``place``, one after the other."""

    def __init__(self, place: JobContext, told: BinaryIO, say: BinaryIO) -> None:
        self._place = place
        self._told = told
        self._say = say
        self._messages: queue.SimpleQueue[Step | CommitGranted] = queue.SimpleQueue()

    def run(self) -> None:
        """Work until the worker is gone; does not return."""
        # Ctrl-C in a terminal reaches the whole group; what becomes of the job is the worker's to say.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=self._listen, name="told", daemon=True).start()
        self._tell(messages.Ready(device=self._place.device))
        loaded = False
        while True:
            try:
                step = self._messages.get(timeout=_IDLE_S)
            except queue.Empty:
                work.forget_model()  # of an embedding, kept for its next part
                if not loaded:
                    warmup.load(self._place)
                loaded = True
                continue
            loaded = True  # by the step, as far as it needs it
            if not isinstance(step, CommitGranted):
                with structlog.contextvars.bound_contextvars(job=step.job):
                    self._take(step)

    def _listen(self) -> None:
        for line in self._told:
            self._messages.put(messages.TO_CHILD.validate_json(line))
        # The worker died or let go: nobody would hear of what is done from here on.
        os._exit(0)

    def _take(self, step: Step) -> None:
        began = time.monotonic()
        log.info("begins", step=step.step)
        try:
            said = self._do(step)
        except Exception as error:
            log.exception("failed", step=step.step)
            told = work.reason(error) or f"internal error; `blemish jobs logs {step.job}` shows where"
            said = messages.Failed(error=told)
        else:
            log.info("done", step=step.step, seconds=round(time.monotonic() - began, 3))
        if not isinstance(step, messages.Embed):
            work.forget_model()
        print(messages.END_OF_STEP, file=sys.stderr, flush=True)
        self._tell(said)

    def _do(self, step: Step) -> Said:
        ear = Ear(Pace(self._tell), self._warn, self._commit)
        match step:
            case messages.Train():
                return messages.Done(result=work.train(self._place, step.spec, step.job, ear))
            case messages.Evaluate():
                return messages.Done(result=work.evaluate(self._place, step.spec, step.job, ear))
            case messages.Embed():
                return messages.Done(points=work.embed(self._place, step, ear))

    def _warn(self, text: str) -> None:
        self._tell(messages.Warned(text=text))

    def _commit(self) -> None:
        self._tell(messages.CommitRequest())
        self._messages.get()  # CommitGranted; where it must not, this process is killed

    def _tell(self, said: Said) -> None:
        with suppress(BrokenPipeError):  # the listener ends this process
            self._say.write(said.model_dump_json().encode() + b"\n")
            self._say.flush()


class Pace:
    """A ``Progress`` that tells each phase at most every 0.2 s, and less often the longer it lasts.

    A thousandth of its duration so far is fine enough for an eye, and what is told is kept.
    """

    def __init__(self, tell: Callable[[Said], None]) -> None:
        self._tell = tell
        self._phase = ""
        self._began_s, self._before = 0.0, 0
        self._told_s = float("-inf")

    def __call__(self, phase: str, done: int, total: int, unit: str) -> None:
        now_s = time.monotonic()
        if phase != self._phase:
            self._phase, self._began_s, self._before = phase, now_s, done
            self._told_s = float("-inf")
        every_s = min(5.0, max(0.2, (now_s - self._began_s) / 1000))
        if done != total and now_s - self._told_s < every_s:
            return
        self._told_s = now_s
        advanced = done - self._before
        pace_s = (now_s - self._began_s) / advanced if advanced > 0 else None
        remaining_s = None if pace_s is None or not total else pace_s * (total - done)
        reached = Phase(
            name=phase,
            done=done,
            total=total,
            unit=unit,
            remaining_s=remaining_s,
            seconds=now_s - self._began_s,
        )
        self._tell(messages.Reached(phase=reached))
