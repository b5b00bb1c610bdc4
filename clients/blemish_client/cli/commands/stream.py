# SPDX-License-Identifier: Apache-2.0
"""``blemish stream``: score the frames of a camera and show the results live."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import quantiles
from threading import BoundedSemaphore, Lock
from types import TracebackType
from typing import Annotated, Self

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish_client.cli.alignment import alignment_line
from blemish_client.cli.choices import PolicyChoice, PriorityChoice, StoreChoice, to_proto
from blemish_client.cli.commands.score import draw
from blemish_client.cli.failures import UNSUCCESSFUL, Failure, print_error
from blemish_client.cli.frames import FrameReader, Part, Raw
from blemish_client.cli.options import FailOnAnomaly, Json, Model, ShowDefectClass
from blemish_client.cli.output import defect_class, emit, frame_fields, number, table
from blemish_client.cli.regions import regions_line
from blemish_client.cli.session import Session
from blemish_client.streaming.ledger import FrameResult, LostFrames
from blemish_client.streaming.sources import limit_rate, open_source
from blemish_client.streaming.video import SourceError

_RECENT_S = 5.0
_MAX_LINES = 8
_MAX_REMARKS = 20
_MAX_QUEUED_DRAWINGS = 64


def stream(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of images, video file, rtsp://..., /dev/video0 or synthetic.",
        ),
    ],
    model: Model,
    policy: Annotated[
        PolicyChoice | None,
        typer.Option(
            help="Handling of a frame that arrives while others are being scored: latest drops older "
            "frames, block slows the source down, reject refuses the frame.",
            show_default="latest for live sources, block for files",
        ),
    ] = None,
    camera: Annotated[
        str,
        typer.Option(metavar="NAME", help="Name of the camera.", show_default="name of the source"),
    ] = "",
    rate: Annotated[
        float | None,
        typer.Option(min=0, metavar="FPS", help="Maximum frames per second.", show_default="no limit"),
    ] = None,
    give_up_after: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Time without a frame of a live source after which to end.",
            show_default="never",
        ),
    ] = None,
    repeat: Annotated[bool, typer.Option("--repeat", help="Repeat files in an endless loop.")] = False,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(min=0, help="Time after which the server refuses a frame.", show_default="no limit"),
    ] = None,
    priority: Annotated[
        PriorityChoice, typer.Option(help="Priority among images that wait for the same model.")
    ] = PriorityChoice.AUDIT,
    target_false_reject_rate: Annotated[
        float | None,
        typer.Option(
            help="Share of good images that this stream may reject, at most 0.5.",
            show_default="calibration of the model",
        ),
    ] = None,
    store: Annotated[
        StoreChoice, typer.Option(help="Frames that the server keeps for search.")
    ] = StoreChoice.NONE,
    region: Part = None,
    raw: Raw = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw anomalous frames to this folder.")
    ] = None,
    show_class: ShowDefectClass = False,
    fail_on_anomaly: FailOnAnomaly = False,
    as_json: Json = False,
) -> None:
    """Score the frames of a camera and show the results live, until the source ends or Ctrl-C.

    Example: blemish stream rtsp://camera-1/stream -m tile-patchcore --save anomalies
    """
    session = Session.of(ctx)
    statistics = _Statistics()

    def report(event: str) -> None:
        statistics.add_event(event)
        if as_json:
            print_error(event)

    try:
        frames = FrameReader.of(raw, region)
        opened = open_source(
            source,
            repeat=repeat,
            read=frames.load,
            suffixes=frames.suffixes,
            give_up_after_s=give_up_after,
            report=report,
        )
        selected = policy or (PolicyChoice.LATEST if opened.live else PolicyChoice.BLOCK)
        with session.client() as client:
            results = client.stream(
                limit_rate(frames.parts(opened.images), rate or 0.0),
                model,
                policy=to_proto(pb.StreamPolicy, selected),
                camera=camera or opened.name[:128],
                anomaly_map=save is not None,
                preview=save is not None,
                regions=True,
                defect_class=show_class,
                target_false_reject_rate=target_false_reject_rate,
                max_latency_s=(max_latency_ms or 0.0) / 1000,
                priority=to_proto(pb.Priority, priority),
                store=to_proto(pb.Store, store),
            )
            with (
                AnomalyDrawer(save, wait=selected is PolicyChoice.BLOCK) as drawer,
                Live(
                    console=session.err,
                    refresh_per_second=4,
                    transient=True,
                    get_renderable=None if as_json else statistics.screen,
                ),
            ):
                for result in results:
                    statistics.add(result)
                    if as_json:
                        emit(frame_fields(result))
                    drawer.add(result)
            statistics.counts["not drawn"] = drawer.skipped
    except (SourceError, OSError) as error:
        raise Failure(str(error)) from error
    except KeyboardInterrupt:
        pass  # the usual way to end a stream
    if not as_json:
        for remark in statistics.remarks():
            print_error(remark)
        session.out.print(statistics.summary())
    if fail_on_anomaly and statistics.counts["anomalous"]:
        raise typer.Exit(UNSUCCESSFUL)


class _Statistics:
    """The counts, latencies and latest results of a stream."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._classes: Counter[str] = Counter()
        self._start_s = time.monotonic()
        self._recent: deque[tuple[float, float]] = deque()  # time, latency
        self._latencies_s: deque[float] = deque(maxlen=100_000)
        self._lines: deque[Text] = deque(maxlen=_MAX_LINES)
        self._remarks: Counter[str] = Counter()
        # The source reports events in another thread, and the screen is drawn in a third one.
        self._lock = Lock()

    def add(self, result: FrameResult | LostFrames) -> None:
        with self._lock:
            self._add(result)

    def _add(self, result: FrameResult | LostFrames) -> None:
        if isinstance(result, LostFrames):
            self.counts["lost"] += len(result.sequences)
            self._lines.append(Text(f"{len(result.sequences)} frames lost: {result.cause}", "yellow"))
            self._remark(f"lost: {result.cause}", len(result.sequences))
            return
        answer = result.answer
        if answer.HasField("dropped"):
            self.counts["dropped"] += answer.dropped.last_sequence - answer.sequence + 1
        elif answer.HasField("refusal"):
            self.counts["refused"] += 1
            self._lines.append(Text(f"{answer.sequence:>8}  refused: {answer.refusal.message}", "yellow"))
            self._remark(f"refused: {answer.refusal.message}")
        else:
            self._add_inspection(answer.sequence, answer.inspection, result.latency_s)

    def add_event(self, text: str) -> None:
        """Show an event of the source, such as a camera that is unreachable."""
        with self._lock:
            self._lines.append(Text(text, "yellow"))
            self._remark(text)

    def _add_inspection(self, sequence: int, inspection: pb.Inspection, latency_s: float) -> None:
        for note in inspection.notes:
            self._lines.append(Text(f"{sequence:>8}  note: {note}", "yellow"))
            self._remark(f"note: {note}")
        anomalous = inspection.verdict == VERDICT_ANOMALOUS
        verdict, style = ("anomalous", "red") if anomalous else ("normal", "green")
        self.counts[verdict] += 1
        now = time.monotonic()
        self._recent.append((now, latency_s))
        self._latencies_s.append(latency_s)
        self._forget_older(now)
        lines = (regions_line(inspection.regions), alignment_line(inspection))
        self._lines.append(
            Text(f"{sequence:>8}  {verdict:<9}  score {inspection.score:.3f}  ", style)
            .append(f"{1000 * latency_s:.0f} ms  ", "default")
            .append("  ".join(filter(None, lines)), "default")
        )
        if inspection.HasField("defect_class"):
            self._lines[-1].append(f"  {defect_class(inspection)}", "default")
            if name := inspection.defect_class.class_name:
                self._classes[name] += 1

    def _forget_older(self, now: float) -> None:
        while self._recent and now - self._recent[0][0] > _RECENT_S:
            self._recent.popleft()

    def _remark(self, text: str, frames: int = 1) -> None:
        """Count a remark; a stream may last for months, so no more than the first are kept."""
        if text in self._remarks or len(self._remarks) < _MAX_REMARKS:
            self._remarks[text] += frames

    def remarks(self) -> Iterator[str]:
        """Yield the first refusals, losses and notes of the stream, each with its number."""
        for text, frames in self._remarks.items():
            yield text if frames == 1 else f"{text} ({frames} times)"

    def screen(self) -> Group:
        with self._lock:
            now = time.monotonic()
            self._forget_older(now)
            span_s = min(_RECENT_S, max(1e-3, now - self._start_s))
            return Group(
                self._figures(len(self._recent) / span_s, [latency_s for _, latency_s in self._recent]),
                *self._lines,
            )

    def summary(self) -> Group:
        span_s = max(1e-3, time.monotonic() - self._start_s)
        scored = self.counts["normal"] + self.counts["anomalous"]
        tables = [self._figures(scored / span_s, list(self._latencies_s))]
        if self._classes:
            classes = table("class", "frames", right=("frames",))
            for name, frames in self._classes.most_common():
                classes.add_row(escape(name), str(frames))
            tables.append(classes)
        return Group(*tables)

    def _figures(self, rate: float, latencies_s: list[float]) -> Table:
        cuts = quantiles(latencies_s, n=20) if len(latencies_s) > 1 else [None] * 19
        names = ["normal", "anomalous", "dropped", "refused", "lost"]
        if self.counts["not drawn"]:
            names.append("not drawn")
        row = table("frames/s", "p50, ms", "p95, ms", *names, right=("frames/s", *names))
        p50, p95 = (None if cut is None else 1000 * cut for cut in (cuts[9], cuts[18]))
        row.add_row(
            number(rate, 1), number(p50, 1), number(p95, 1), *(str(self.counts[name]) for name in names)
        )
        return row


class AnomalyDrawer:
    """A thread that draws anomalous frames to a folder."""

    def __init__(
        self,
        folder: Path | None,
        *,
        wait: bool,
        max_queued: int = _MAX_QUEUED_DRAWINGS,
        draw_map: Callable[..., None] = draw,
    ) -> None:
        """Start the thread.

        Args:
            folder: folder for the drawings, or None to draw nothing.
            wait: wait for a full queue instead of skipping frames.
            max_queued: number of frames that wait to be drawn.
            draw_map: function that draws a frame, with the parameters of ``draw``.
        """
        self._folder = folder
        self._wait = wait
        self._room = BoundedSemaphore(max_queued)
        self._draw_map = draw_map
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
            self._raise_failure()

    def add(self, result: FrameResult | LostFrames) -> None:
        """Schedule the drawing of a frame if it is anomalous.

        Raises:
            Failure: if an earlier drawing could not be written.
        """
        self._raise_failure()
        if self._folder is None or not isinstance(result, FrameResult):
            return
        answer = result.answer
        if not answer.HasField("inspection") or answer.inspection.verdict != VERDICT_ANOMALOUS:
            return
        if self._room.acquire(blocking=self._wait):
            self._thread.submit(self._draw, result, self._folder / f"{answer.sequence:08}.png")
        else:
            self.skipped += 1

    def _draw(self, result: FrameResult, target: Path) -> None:
        try:
            # The default compression level would double the time.
            self._draw_map(result.sent, result.answer.inspection, target, compress_level=1)
        except Exception as error:
            self._failure = error
        finally:
            self._room.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
