# SPDX-License-Identifier: Apache-2.0
"""``blemish stream``: a camera's frames and their verdicts, live."""

import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from statistics import quantiles
from threading import BoundedSemaphore
from types import TracebackType
from typing import Annotated, Self

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish_client.cli.commands.score import draw
from blemish_client.cli.failures import UNSUCCESSFUL, Failure
from blemish_client.cli.options import Json, Model
from blemish_client.cli.output import emit, number, plain, table
from blemish_client.cli.session import Session
from blemish_client.streaming.ledger import FrameResult, LostFrames
from blemish_client.streaming.sources import SourceError, opened, paced

_RECENT_S = 5.0
_SHOWN = 8
_DRAWN_AHEAD = 64
"""Anomalous frames that wait to be drawn."""


class Policy(StrEnum):
    """What becomes of a frame that comes while others are worked on."""

    LATEST = "latest"
    BLOCK = "block"
    REJECT = "reject"


_POLICIES = {
    Policy.LATEST: pb.STREAM_POLICY_LATEST,
    Policy.BLOCK: pb.STREAM_POLICY_BLOCK,
    Policy.REJECT: pb.STREAM_POLICY_REJECT,
}


class Priority(StrEnum):
    """Whose turn it is first where frames wait for the same model."""

    LINE_STOP = "line-stop"
    AUDIT = "audit"
    BACKFILL = "backfill"


_PRIORITIES = {
    Priority.LINE_STOP: pb.PRIORITY_LINE_STOP,
    Priority.AUDIT: pb.PRIORITY_AUDIT,
    Priority.BACKFILL: pb.PRIORITY_BACKFILL,
}


class Stored(StrEnum):
    """Which frames are kept for search."""

    NONE = "none"
    ANOMALOUS = "anomalous"
    ALL = "all"


_STORES = {
    Stored.NONE: pb.STORE_NONE,
    Stored.ANOMALOUS: pb.STORE_ANOMALOUS,
    Stored.ALL: pb.STORE_ALL,
}


def stream(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of images, a video file, rtsp://..., /dev/video0, synthetic.",
        ),
    ],
    model: Model,
    policy: Annotated[
        Policy | None,
        typer.Option(
            help="latest drops what it cannot keep up with, block holds the source back, reject refuses; "
            "latest for live sources and block for files unless given."
        ),
    ] = None,
    camera: Annotated[str, typer.Option(metavar="NAME", help="Told with every answer.")] = "",
    rate: Annotated[float, typer.Option(min=0, metavar="FPS", help="Frames a second at most.")] = 0.0,
    repeat: Annotated[bool, typer.Option("--repeat", help="Begin files anew at their end.")] = False,
    max_latency_ms: Annotated[
        float, typer.Option(min=0, help="Refuse frames that would take longer; 0 sets no limit.")
    ] = 0.0,
    priority: Annotated[Priority, typer.Option(help="Whose turn it is first.")] = Priority.AUDIT,
    target_false_reject_rate: Annotated[
        float | None, typer.Option(help="Judge this stream by it, to 0.5; as the model is set otherwise.")
    ] = None,
    store: Annotated[Stored, typer.Option(help="Which frames are kept for search.")] = Stored.NONE,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw anomalous frames into this folder.")
    ] = None,
    fail_on_anomaly: Annotated[
        bool, typer.Option("--fail-on-anomaly", help="Exit with 1 if any frame is anomalous.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Stream frames to a model and show its verdicts as they come; Ctrl-C ends it."""
    session = Session.of(ctx)
    tally = _Tally()
    try:
        found = opened(source, repeat=repeat)
        chosen = policy or (Policy.LATEST if found.live else Policy.BLOCK)
        with session.client() as client:
            answers = client.stream(
                paced(found.images, rate),
                model,
                policy=_POLICIES[chosen],
                camera=camera or found.name[:128],
                anomaly_map=save is not None,
                target_false_reject_rate=target_false_reject_rate,
                max_latency_s=max_latency_ms / 1000,
                priority=_PRIORITIES[priority],
                store=_STORES[store],
            )
            with (
                _Drawer(save, patient=chosen is Policy.BLOCK) as drawer,
                Live(console=session.err, refresh_per_second=4, transient=True) as live,
            ):
                for one in answers:
                    tally.take(one)
                    if as_json:
                        _emit(one)
                    else:
                        live.update(tally.screen())
                    drawer.take(one)
            tally.counts["not drawn"] = drawer.skipped
    except (SourceError, OSError) as error:
        raise Failure(str(error)) from error
    except KeyboardInterrupt:
        pass  # a stream is ended, not interrupted
    if not as_json:
        session.out.print(tally.summary())
    if fail_on_anomaly and tally.counts["anomalous"]:
        raise typer.Exit(UNSUCCESSFUL)


class _Tally:
    """What a stream has come to so far."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._began_s = time.monotonic()
        self._recent: deque[tuple[float, float]] = deque()  # when, latency
        self._latencies_s: deque[float] = deque(maxlen=100_000)
        self._lines: deque[Text] = deque(maxlen=_SHOWN)

    def take(self, one: FrameResult | LostFrames) -> None:
        if isinstance(one, LostFrames):
            self.counts["lost"] += len(one.sequences)
            self._lines.append(Text(f"{len(one.sequences)} frames lost: {one.cause}", "yellow"))
            return
        answer = one.answer
        if answer.HasField("dropped"):
            self.counts["dropped"] += answer.dropped.last_sequence - answer.sequence + 1
        elif answer.HasField("refusal"):
            self.counts["refused"] += 1
            self._lines.append(Text(f"{answer.sequence:>8}  refused: {answer.refusal.message}", "yellow"))
        else:
            self._judged(answer.sequence, answer.inspection, one.latency_s)

    def _judged(self, sequence: int, inspection: pb.Inspection, latency_s: float) -> None:
        anomalous = inspection.verdict == VERDICT_ANOMALOUS
        words, style = ("anomalous", "red") if anomalous else ("normal", "green")
        self.counts[words] += 1
        now = time.monotonic()
        self._recent.append((now, latency_s))
        self._latencies_s.append(latency_s)
        while now - self._recent[0][0] > _RECENT_S:
            self._recent.popleft()
        self._lines.append(
            Text(f"{sequence:>8}  {words:<9}  score {inspection.score:.3f}  ", style).append(
                f"{1000 * latency_s:.0f} ms", "default"
            )
        )

    def screen(self) -> Group:
        span_s = min(_RECENT_S, max(1e-3, time.monotonic() - self._began_s))
        return Group(
            self._figures(len(self._recent) / span_s, [late for _, late in self._recent]), *self._lines
        )

    def summary(self) -> Table:
        span_s = max(1e-3, time.monotonic() - self._began_s)
        judged = self.counts["normal"] + self.counts["anomalous"]
        return self._figures(judged / span_s, list(self._latencies_s))

    def _figures(self, rate: float, latencies_s: list[float]) -> Table:
        cuts = quantiles(latencies_s, n=20) if len(latencies_s) > 1 else [None] * 19
        names = ["normal", "anomalous", "dropped", "refused", "lost"]
        if self.counts["not drawn"]:
            names.append("not drawn")
        made = table("frames a second", "p50, ms", "p95, ms", *names, right=("frames a second", *names))
        p50, p95 = (None if cut is None else 1000 * cut for cut in (cuts[9], cuts[18]))
        made.add_row(
            number(rate, 1), number(p50, 1), number(p95, 1), *(str(self.counts[name]) for name in names)
        )
        return made


def _emit(one: FrameResult | LostFrames) -> None:
    if isinstance(one, LostFrames):
        emit({"lost": list(one.sequences), "cause": one.cause})
        return
    told = plain(one.answer)
    told.get("inspection", {}).pop("anomaly_map", None)
    emit({**told, "latency_ms": round(1000 * one.latency_s, 2)})


class _Drawer:
    """Draws anomalous frames into a folder beside the stream, on a thread of its own."""

    def __init__(self, folder: Path | None, *, patient: bool) -> None:
        """Draw into ``folder``, if there is one.

        Args:
            folder: where to.
            patient: hold the stream back rather than skip a frame.
        """
        self._folder = folder
        self._patient = patient
        self._room = BoundedSemaphore(_DRAWN_AHEAD)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drawing")
        self._failure: Exception | None = None
        self.skipped = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if kind is None:
            self._check()

    def take(self, one: FrameResult | LostFrames) -> None:
        """Have a frame drawn if it is anomalous.

        Raises:
            Failure: if an earlier one could not be written.
        """
        self._check()
        if self._folder is None or not isinstance(one, FrameResult):
            return
        if not one.answer.HasField("inspection") or one.answer.inspection.verdict != VERDICT_ANOMALOUS:
            return
        if self._room.acquire(blocking=self._patient):
            self._thread.submit(self._draw, one, self._folder / f"{one.answer.sequence:08}.png")
        else:
            self.skipped += 1

    def _draw(self, one: FrameResult, target: Path) -> None:
        try:
            # Half the time goes into deflate at its usual level.
            draw(one.image, one.answer.inspection, target, compress_level=1)
        except Exception as error:
            self._failure = error
        finally:
            self._room.release()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
