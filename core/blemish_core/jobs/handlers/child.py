# SPDX-License-Identifier: Apache-2.0
"""The main loop of a worker's child process.

The child computes and can be killed at any moment. It receives steps through one pipe and sends messages
through another. Redis and the job's state are the worker's concern.
"""

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

import structlog

from blemish_core.jobs import messages
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers import warmup
from blemish_core.jobs.handlers.detector_cache import DetectorCache
from blemish_core.jobs.handlers.embed import embed
from blemish_core.jobs.handlers.errors import error_for_owner
from blemish_core.jobs.handlers.evaluate import evaluate
from blemish_core.jobs.handlers.train import train
from blemish_core.jobs.messages import FromChild, Step, ToChild
from blemish_core.jobs.reporter import StepReporter, StoryReporter, ThrottledReporter

IDLE_S = 10.0
"""Time without a step after which the child releases the loaded model and warms up."""

log = structlog.get_logger(__name__)


class Child:
    """The receiver of steps, which it runs one after the other.

    Args:
        context: stores and limits of the jobs.
        requests: pipe from the worker, lines of ``ToChild``.
        replies: pipe to the worker, lines of ``FromChild``.
        on_disconnect: called in a thread when the worker closes ``requests``, perhaps during a step. The
            process should end then, because the result of the step would be lost.
        detectors: cache of the loaded model version.
        warm_up: called once if the child is idle before its first step.
        measure: called when the child is first idle, also after a step; None measures nothing.
        idle_s: time after which the child counts as idle.
    """

    def __init__(
        self,
        context: JobContext,
        requests: BinaryIO,
        replies: BinaryIO,
        on_disconnect: Callable[[], None],
        detectors: DetectorCache | None = None,
        warm_up: Callable[[JobContext], None] = warmup.warm_up,
        measure: Callable[[JobContext], None] | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        self._context = context
        self._requests = requests
        self._on_disconnect = on_disconnect
        self._detectors = detectors or DetectorCache(context)
        self._warm_up = warm_up
        self._measure = measure
        self._idle_s = idle_s
        self._received: queue.SimpleQueue[ToChild | None] = queue.SimpleQueue()
        self._worker = _WorkerPipe(replies, self._received)

    def run(self) -> None:
        """Run steps until the worker disconnects."""
        threading.Thread(target=self._receive, name="requests", daemon=True).start()
        self._worker.send(messages.Ready(device=self._context.device))
        warm = False
        while True:
            try:
                message = self._received.get(timeout=self._idle_s)
            except queue.Empty:
                self._detectors.clear()
                if not warm:
                    self._warm_up(self._context)
                warm = True
                if self._measure is not None:
                    self._measure(self._context)
                    self._measure = None
                continue
            if message is None:
                return
            warm = True
            if not isinstance(message, messages.CommitGranted):
                with structlog.contextvars.bound_contextvars(job=message.job):
                    self._run_step(message)

    def _receive(self) -> None:
        for line in self._requests:
            self._received.put(messages.TO_CHILD.validate_json(line))
        self._on_disconnect()
        self._received.put(None)

    def _run_step(self, step: Step) -> None:
        began = time.monotonic()
        log.info("step started", step=step.type)
        story = StoryReporter(ThrottledReporter(self._worker), _write_line)
        try:
            outcome = self._outcome(step, story)
        except Exception as error:
            cause = error_for_owner(error)
            story.end_phase(" until the failure")
            story.note(f"failed: {cause or f'internal error, {type(error).__name__}: {error}'}")
            internal = f"internal error; check `blemish jobs logs {step.job}`"
            outcome = messages.Failed(error=cause or internal)
            traceback.print_exc()  # last, because the cause is what people need
        else:
            story.end_phase()
            log.info("step finished", step=step.type, seconds=round(time.monotonic() - began, 3))
        if not isinstance(step, messages.Embed):
            self._detectors.clear()
        print(messages.END_OF_STEP, file=sys.stderr, flush=True)
        self._worker.send(outcome)

    def _outcome(self, step: Step, reporter: StepReporter) -> FromChild:
        match step:
            case messages.Train():
                return messages.Done(result=train(self._context, step.spec, step.job, reporter))
            case messages.Evaluate():
                result = evaluate(self._context, self._detectors, step.spec, step.job, reporter)
                return messages.Done(result=result)
            case messages.Embed():
                return messages.Done(points=embed(self._context, self._detectors, step, reporter))


def _write_line(text: str) -> None:
    """Write a line to standard error, which is the job's log."""
    print(text, file=sys.stderr, flush=True)


class _WorkerPipe:
    """The ``JobReporter`` that sends messages to the worker."""

    def __init__(self, replies: BinaryIO, received: "queue.SimpleQueue[ToChild | None]") -> None:
        self._replies = replies
        self._received = received

    def progress(self, phase: str, done: int, total: int, unit: str) -> None:
        self.send(messages.Progressed(phase=phase, done=done, total=total, unit=unit))

    def warn(self, text: str) -> None:
        self.send(messages.Warned(text=text))

    def announce(self, plan: str) -> None:
        self.send(messages.Announced(plan=plan))

    def commit(self) -> None:
        self.send(messages.CommitRequest())
        self._received.get()  # CommitGranted; a worker that does not grant it kills this process

    def send(self, message: FromChild) -> None:
        with suppress(BrokenPipeError):  # the thread that receives ends the process
            self._replies.write(message.model_dump_json().encode() + b"\n")
            self._replies.flush()
