# SPDX-License-Identifier: Apache-2.0
"""The live view of a stream: counts, latencies and latest results."""

import time
from collections import Counter, deque
from collections.abc import Iterator
from statistics import quantiles
from threading import Lock

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish_client.cli.alignment import alignment_line
from blemish_client.cli.outage import Outage
from blemish_client.cli.output import defect_class, number, table
from blemish_client.cli.regions import regions_line
from blemish_client.streaming.ledger import FrameResult, LostFrames
from blemish_layouts.names import printable

_RECENT_S = 5.0
_MAX_LINES = 8
_MAX_REMARKS = 20


class StreamView:
    """The counts, latencies and latest results of a stream."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._classes: Counter[str] = Counter()
        self._start_s = time.monotonic()
        self._recent: deque[tuple[float, float]] = deque()  # time, latency
        self._latencies_s: deque[float] = deque(maxlen=100_000)
        self._lines: deque[Text] = deque(maxlen=_MAX_LINES)
        self._remarks: Counter[str] = Counter()
        self._further_remarks = 0
        # The source reports events in another thread, and the screen is drawn in a third one.
        self._lock = Lock()

    def add(self, result: FrameResult | LostFrames) -> list[Text]:
        """Count a result, and return its lines."""
        with self._lock:
            lines = self._add(result)
            self._lines.extend(lines)
            return lines

    def _add(self, result: FrameResult | LostFrames) -> list[Text]:
        if isinstance(result, LostFrames):
            self.counts["lost"] += len(result.sequences)
            self._remark(f"lost: {result.cause}", len(result.sequences))
            return [Text(f"{len(result.sequences)} frames lost: {result.cause}", "yellow")]
        answer = result.answer
        if result.inspection is not None:
            return self._add_inspection(result, result.inspection)
        if answer.HasField("dropped"):
            dropped = answer.dropped.last_sequence - answer.sequence + 1
            self.counts["dropped"] += dropped
            return [Text(f"{_frame(result)}  dropped", "yellow")] if result.name else []
        return [self._add_refusal(_frame(result), result.name, answer.refusal.message)]

    def add_refusal(self, name: str, reason: str) -> Text:
        """Count a file that could not be sent, and return its line."""
        with self._lock:
            line = self._add_refusal(printable(name), name, reason)
            self._lines.append(line)
            return line

    def _add_refusal(self, frame: str, name: str, reason: str) -> Text:
        self.counts["refused"] += 1
        self._remark(f"refused: {printable(name)}: {reason}" if name else f"refused: {reason}")
        return Text(f"{frame}  refused: {reason}", "yellow")

    def add_event(self, text: str) -> None:
        """Show an event of the source, such as a camera that is unreachable."""
        with self._lock:
            self._lines.append(Text(text, "yellow"))
            self._remark(text)

    def _add_inspection(self, result: FrameResult, inspection: pb.Inspection) -> list[Text]:
        frame = _frame(result)
        lines = []
        for note in inspection.notes:
            lines.append(Text(f"{frame}  note: {note}", "yellow"))
            self._remark(f"note: {note}")
        anomalous = inspection.verdict == VERDICT_ANOMALOUS
        verdict, style = ("anomalous", "red") if anomalous else ("normal", "green")
        self.counts[verdict] += 1
        now = time.monotonic()
        self._recent.append((now, result.latency_s))
        self._latencies_s.append(result.latency_s)
        self._forget_older(now)
        details = (regions_line(inspection.regions), alignment_line(inspection))
        line = (
            Text(f"{frame}  {verdict:<9}  score {inspection.score:.3f}  ", style)
            .append(f"{1000 * result.latency_s:.0f} ms  ", "default")
            .append("  ".join(filter(None, details)), "default")
        )
        if inspection.HasField("defect_class"):
            line.append(f"  {defect_class(inspection)}", "default")
            if name := inspection.defect_class.class_name:
                self._classes[name] += 1
        return [*lines, line]

    def _forget_older(self, now: float) -> None:
        while self._recent and now - self._recent[0][0] > _RECENT_S:
            self._recent.popleft()

    def _remark(self, text: str, frames: int = 1) -> None:
        """Count a remark; a stream may last for months, so no more than the first are kept."""
        if text in self._remarks or len(self._remarks) < _MAX_REMARKS:
            self._remarks[text] += frames
        else:
            self._further_remarks += 1

    def remarks(self) -> Iterator[str]:
        """Yield the first refusals, losses and notes of the stream, each with its number."""
        for text, frames in self._remarks.items():
            yield text if frames == 1 else f"{text} ({frames} times)"
        if self._further_remarks:
            yield f"and {self._further_remarks} more of these"

    def screen(self, outage: Outage | None = None) -> Group:
        """Return the live view, below a banner during an outage."""
        with self._lock:
            now = time.monotonic()
            self._forget_older(now)
            span_s = min(_RECENT_S, max(1e-3, now - self._start_s))
            return Group(
                *([] if outage is None else banner(outage)),
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


def banner(outage: Outage) -> Iterator[RenderableType]:
    """Yield a headline in reverse video over the full width, which is legible from afar, and its cause."""
    headline = Text(outage.headline, justify="center")
    yield Padding(headline, (1, 2), style="bold reverse red", expand=True)
    if outage.detail:
        yield Text(outage.detail, "yellow")


def _frame(result: FrameResult) -> str:
    """Return the sequence number of a frame, and its name if it has one."""
    return "  ".join(filter(None, (f"{result.sequence:>8}", printable(result.name))))
