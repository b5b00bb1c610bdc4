# SPDX-License-Identifier: Apache-2.0
"""``blemish stream``: score the frames of a camera and show the results live."""

import math
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.live import Live
from rich.text import Text

from blemish.v1 import inspection_pb2 as pb
from blemish_client.cli.choices import PolicyChoice, PriorityChoice, StoreChoice, to_proto
from blemish_client.cli.evidence import EvidenceWriter
from blemish_client.cli.failures import PARTLY, UNSUCCESSFUL, Failure, print_error
from blemish_client.cli.frames import FrameReader, Part, Raw
from blemish_client.cli.live_view import StreamView
from blemish_client.cli.options import FailOnAnomaly, Json, Model, ShowDefectClass
from blemish_client.cli.outage import OutageMonitor, OutageReporter
from blemish_client.cli.output import emit, frame_fields
from blemish_client.cli.session import Session
from blemish_client.errors import TLS_FAILED, TOO_LARGE, BlemishError, Unavailable
from blemish_client.names import model_name
from blemish_client.streaming.folders import has_suffix
from blemish_client.streaming.hot_folder import HotFolder, default_state_file, identified_files
from blemish_client.streaming.ledger import FrameResult, LostFrames
from blemish_client.streaming.seen_files import SeenFiles
from blemish_client.streaming.sources import FrameSource, limit_rate, open_source
from blemish_client.streaming.video import SourceError
from blemish_client.transport.retry import RetryPolicy
from blemish_client.types.frame import Frame


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
            metavar="NAME",
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
            help="Time without the server, or without a frame of a live source, after which to end.",
            show_default="never",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Follow a folder: score new files once they are complete, and each only once, also over "
            "restarts.",
        ),
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File in which --watch remembers the files that it has scored.",
            show_default="one for each folder and model, below ~/.local/state/blemish/watch",
        ),
    ] = None,
    repeat: Annotated[bool, typer.Option("--repeat", help="Repeat files in an endless loop.")] = False,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(min=0, help="Time after which the server refuses a frame.", show_default="no limit"),
    ] = None,
    priority: Annotated[
        PriorityChoice,
        typer.Option(
            metavar="NAME",
            help="Priority among images that wait for the same model: line-stop, audit or backfill.",
        ),
    ] = PriorityChoice.AUDIT,
    target_false_reject_rate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            rich_help_panel="Threshold",
            help="Share of good images that this stream may reject, at most 0.5.",
            show_default="calibration of the model",
        ),
    ] = None,
    store: Annotated[
        StoreChoice,
        typer.Option(
            metavar="NAME", help="Frames that the server keeps for search: none, anomalous or all."
        ),
    ] = StoreChoice.NONE,
    region: Part = None,
    raw: Raw = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Save each anomalous frame to this folder: a picture, and the answer as JSON.",
        ),
    ] = None,
    show_class: ShowDefectClass = False,
    fail_on_anomaly: FailOnAnomaly = False,
    as_json: Json = False,
) -> None:
    """Score the frames of a camera and show the results live, until the source ends or Ctrl-C.

    It waits for a server that is away, and the live view shows for how long nothing was inspected. The exit
    code is 7 if frames were refused.

    Example: blemish stream rtsp://camera-1/stream -m tile-patchcore --save anomalies
    """
    session = Session.of(ctx)
    output = _StreamOutput(session, as_json=as_json, prints_frames=watch)
    reader = FrameReader.of(raw, region)
    hot: HotFolder | None = None
    try:
        if watch:
            if repeat:
                raise Failure("--watch follows a folder as it grows; leave out --repeat")
            folder = _existing_folder(source)
            if save is not None and save.resolve() == folder.resolve():
                raise Failure(f"--save {save} is the folder that is watched; choose another one")
            seen = _seen_files(folder, model, reader, state, save)
            hot = HotFolder(
                folder,
                seen,
                is_image=has_suffix(reader.suffixes),
                parse=reader.parse,
                checks_content=reader.raw is None,
                exclude=save,
                skip=output.skip,
                report=output.report,
                away=output.monitor.source_away,
            )
            opened = FrameSource(folder.absolute().name, hot.frames(), live=False)
        else:
            opened = open_source(
                source,
                repeat=repeat,
                read=lambda file: reader.parse(file, file.read_bytes()),
                suffixes=reader.suffixes,
                give_up_after_s=give_up_after,
                report=output.report,
                away=output.monitor.source_away,
                skip=output.skip,
                exclude=save,
            )
    except (SourceError, OSError) as error:
        raise Failure(str(error)) from error
    selected = policy or (PolicyChoice.LATEST if opened.live else PolicyChoice.BLOCK)
    limit_s = math.inf if give_up_after is None else give_up_after
    failure: Exception | None = None
    try:
        with (
            _terminated_as_interrupted(),
            session.client(retry_policy=RetryPolicy(call_s=limit_s, watch_s=limit_s)) as client,
            EvidenceWriter(save, wait=selected is PolicyChoice.BLOCK) as writer,
            output.shown(),
        ):
            results = client.stream(
                output.counted(limit_rate(reader.parts(opened.frames), rate or 0.0)),
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
                on_unreachable=output.server_failed,
            )
            for result in results:
                output.add(result)
                writer.add(result)
                output.view.counts["not drawn"] = writer.skipped
                if hot is not None:
                    hot.settle(result.names, final=_is_final(result))
    except KeyboardInterrupt:
        pass  # the usual way to end a stream
    except (SourceError, OSError) as error:
        failure = Failure(str(error))
    except (BlemishError, Failure) as error:
        failure = error
    finally:
        if hot is not None:
            hot.close()
    output.print_summary()
    if failure is not None:
        raise failure
    if output.view.counts["refused"]:
        raise typer.Exit(PARTLY)
    if fail_on_anomaly and output.view.counts["anomalous"]:
        raise typer.Exit(UNSUCCESSFUL)


def _existing_folder(source: str) -> Path:
    folder = Path(source)
    if not folder.is_dir():
        raise Failure(f"{source} is not a folder; --watch follows a folder of images")
    return folder


def _seen_files(
    folder: Path, model: str, reader: FrameReader, state: Path | None, save: Path | None
) -> SeenFiles:
    """Return the memory of the files that were scored before.

    Raises:
        Failure: if it cannot be read or written.
        OSError: if the folder cannot be read.
    """
    file = state or default_state_file(folder, model_name(model))
    try:
        seen = SeenFiles(file)
    except OSError as error:
        raise Failure(f"cannot use {file}: {error.strerror}; choose another file with --state") from error
    present = identified_files(folder, has_suffix(reader.suffixes), save)
    seen.forget_missing(identity for _, identity in present)
    print_error(f"watching {folder}; {len(seen)} files were scored before, according to {file}")
    return seen


def _is_final(result: FrameResult | LostFrames) -> bool:
    """Return whether the same frame would get the same answer again."""
    if isinstance(result, LostFrames):
        return False
    if not result.answer.HasField("refusal"):
        return True
    refusal = result.answer.refusal
    return refusal.code == grpc.StatusCode.INVALID_ARGUMENT.value[0] or refusal.reason == TOO_LARGE


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that a service that is stopped prints its summary."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class _StreamOutput:
    """The results and events of a stream, on the terminal or in lines."""

    def __init__(self, session: Session, *, as_json: bool, prints_frames: bool) -> None:
        self.view = StreamView()
        self.monitor = OutageMonitor()
        self._session = session
        self._as_json = as_json
        self._prints_frames = prints_frames and not as_json
        self._is_live = session.err.is_terminal and not as_json
        self._outages = OutageReporter(self.monitor, self._report_outage)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the live view on a terminal, and lines about outages elsewhere."""
        screen = Live(
            console=self._session.err,
            refresh_per_second=4,
            transient=True,
            get_renderable=(lambda: self.view.screen(self.monitor.outage())) if self._is_live else None,
        )
        with screen, self._outages:
            yield

    def counted(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield frames, and note that they are sent."""
        for frame in frames:
            self.monitor.sent()
            yield frame

    def add(self, result: FrameResult | LostFrames) -> None:
        """Show a result."""
        self._monitor_result(result)
        lines = self.view.add(result)
        if self._as_json:
            emit(frame_fields(result))
        elif self._prints_frames:
            self._print_lines(lines)

    def skip(self, name: str, reason: str) -> None:
        """Show a file that was not sent."""
        line = self.view.add_refusal(name, reason)
        if self._as_json:
            emit({"image": name, "error": reason})
        elif self._prints_frames:
            self._print_lines([line])

    def report(self, event: str) -> None:
        """Show an event of the source."""
        self.view.add_event(event)
        if not self._is_live:
            print_error(event)

    def server_failed(self, cause: Unavailable) -> None:
        """Note a failed attempt to connect.

        Raises:
            Unavailable: if waiting will not help, because the server never had a certificate that is valid.
        """
        self.monitor.server_failed(cause)
        if not self.monitor.has_answered and cause.message.startswith(TLS_FAILED):
            raise cause

    def print_summary(self) -> None:
        """Print counts, remarks and outages, if there was anything."""
        if not any(self.view.counts.values()) and not self._outages.count:
            return
        console = self._session.err if self._as_json else self._session.out
        if not self._as_json:
            for remark in self.view.remarks():
                print_error(remark)
        console.print(self.view.summary())
        if count := self._outages.count:
            console.print(
                f"not inspecting for {self._outages.total_s:.0f} s in {count} outage{'s' * (count > 1)}"
            )

    def _monitor_result(self, result: FrameResult | LostFrames) -> None:
        if isinstance(result, LostFrames):
            self.monitor.lost(len(result.sequences))
            return
        answer = result.answer
        dropped = answer.HasField("dropped")
        self.monitor.answered(answer.dropped.last_sequence - answer.sequence + 1 if dropped else 1)
        if answer.HasField("inspection"):
            self.monitor.inspected()
        elif answer.HasField("refusal"):
            self.monitor.refused(answer.refusal.message)

    def _report_outage(self, line: str) -> None:
        if not self._is_live:
            print_error(line)
        elif not line.startswith("NOT INSPECTING"):
            self.view.add_event(line)

    def _print_lines(self, lines: Iterable[Text]) -> None:
        # A line on the terminal of the live view is printed above it.
        console = (
            self._session.err if self._is_live and self._session.out.is_terminal else self._session.out
        )
        for line in lines:
            console.print(line, soft_wrap=True)
