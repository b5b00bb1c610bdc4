# SPDX-License-Identifier: Apache-2.0
"""``blemish watch``: print the verdicts of all cameras as they are given."""

import math
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, Verdict
from blemish.v1.inspection_pb2 import CameraState, CameraStates, InspectionEvent, WatchInspectionsResponse
from blemish_client.cli.choices import VerdictChoice, to_proto
from blemish_client.cli.failures import UNSUCCESSFUL, describe, print_error
from blemish_client.cli.options import Json
from blemish_client.cli.output import (
    ABSENT,
    clock,
    defect_class,
    emit,
    number,
    plain,
    share,
    table,
    verdict,
    when,
)
from blemish_client.cli.regions import regions_line
from blemish_client.cli.session import Session
from blemish_client.errors import Unavailable
from blemish_client.names import short
from blemish_client.transport.retry import RetryPolicy
from blemish_layouts.names import printable


def watch(
    ctx: typer.Context,
    cameras: Annotated[
        list[str] | None,
        typer.Option("--camera", metavar="CAMERA", help="Only images of this camera. May be repeated."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="MODEL", help="Only this model or version. May be repeated."),
    ] = None,
    only: Annotated[VerdictChoice | None, typer.Option("--verdict", help="Only this verdict.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Number of verdicts after which to end.", show_default="no limit"),
    ] = None,
    give_up_after: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Time without the server after which to end.",
            show_default="never",
        ),
    ] = None,
    fail_on_anomaly: Annotated[
        bool,
        typer.Option("--fail-on-anomaly", help="End with exit code 1 at the first anomalous image."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the verdicts on the images of all cameras and calls as they are given, until Ctrl-C.

    It begins with the cameras of the last day. Watching slows nothing down.

    Example: blemish watch --camera press-1 --verdict anomalous
    """
    session = Session.of(ctx)
    give_up_s = math.inf if give_up_after is None else give_up_after
    # A wrong address fails at once. A server that was there before is awaited.
    policy = RetryPolicy(watch_s=give_up_s, call_s=min(give_up_s, RetryPolicy().call_s))
    output = _WatchOutput(session, as_json=as_json)
    with session.client(retry_policy=policy) as client:
        responses = client.watch_inspections(
            cameras=cameras or (),
            models=models or (),
            verdicts=[] if only is None else [to_proto(Verdict, only)],
            on_unreachable=output.server_failed,
        )
        with suppress(KeyboardInterrupt), closing(responses):  # Ctrl-C is the usual end
            seen = 0
            for response in responses:
                output.add(response)
                if not response.HasField("inspection"):
                    continue
                seen += 1
                if fail_on_anomaly and response.inspection.verdict == VERDICT_ANOMALOUS:
                    raise typer.Exit(UNSUCCESSFUL)
                if seen == limit:
                    return


class _WatchOutput:
    """The lines of a watch."""

    def __init__(self, session: Session, *, as_json: bool) -> None:
        self._session = session
        self._as_json = as_json
        self._counts: dict[str, tuple[int, int]] = {}
        """Dropped and refused frames by camera."""
        self._is_connected = False
        self._has_begun = False

    def add(self, response: WatchInspectionsResponse) -> None:
        """Print a response."""
        if not self._is_connected:
            if self._has_begun:
                print_error("watching again")
            self._is_connected = True
        if self._as_json:
            emit(_fields(response))
            return
        if response.lost:
            self._print(Text(f"{response.lost} verdicts lost, because they were read too slowly", "yellow"))
        if response.HasField("states"):
            self._add_states(response.states)
        elif response.HasField("inspection"):
            self._print(_line(response.inspection))

    def server_failed(self, cause: Unavailable) -> None:
        """Print why the server is away, once for each outage after the begin."""
        if self._is_connected:
            print_error(f"not watching: {describe(cause)}")
            self._is_connected = False

    def _add_states(self, states: CameraStates) -> None:
        """Print the cameras at the begin, and later only what was dropped or refused."""
        if not self._has_begun:
            self._has_begun = True
            if states.cameras:
                self._session.out.print(_table(states))
            else:
                print_error("no camera was seen in the last 24 hours; waiting for verdicts")
        else:
            for state in states.cameras:
                for line in self._uninspected(state):
                    self._print(line)
        self._counts = {state.camera: (state.dropped, state.refused) for state in states.cameras}

    def _uninspected(self, state: CameraState) -> Iterator[Text]:
        before = self._counts.get(state.camera, (0, 0))
        for word, now, then in zip(
            ("dropped", "refused"), (state.dropped, state.refused), before, strict=True
        ):
            if now > then:
                frames = f"{now - then} frame{'' if now - then == 1 else 's'}"
                yield Text(f"{printable(state.camera)}  {frames} {word}", "yellow")

    def _print(self, line: Text) -> None:
        self._session.out.print(line, soft_wrap=True)


def _line(event: InspectionEvent) -> Text:
    """Return the verdict on an image in the words of `blemish stream`."""
    anomalous = event.verdict == VERDICT_ANOMALOUS
    frame = [clock(event.time), printable(event.camera) or ABSENT]
    if event.HasField("sequence"):
        frame.append(f"{event.sequence:>8}")
    details = [
        f"threshold {event.threshold:.3f}",
        f"p {event.p_value:.3f}",
        short(event.model_version),
        regions_line(event.regions),
        defect_class(event) if event.HasField("defect_class") else "",
        event.item,
    ]
    return (
        Text("  ".join(frame) + "  ")
        .append(f"{verdict(event.verdict):<9}  score {event.score:.3f}", "red" if anomalous else "green")
        .append("  " + "  ".join(filter(None, details)))
    )


def _table(states: CameraStates) -> Table:
    names = ("images/s", "images", "anomalous", "dropped", "refused", "last hour")
    rows = table("camera", *names, "last", right=names)
    for state in states.cameras:
        hour = state.hour_anomalous / state.hour_inspected if state.hour_inspected else None
        rows.add_row(
            escape(printable(state.camera)),
            number(state.images_per_second, 1),
            *map(str, (state.inspected, state.anomalous, state.dropped, state.refused)),
            f"{share(hour)} anomalous" if hour is not None else ABSENT,
            _last(state.last) if state.HasField("last") else ABSENT,
        )
    return rows


def _last(event: InspectionEvent) -> str:
    style = "red" if event.verdict == VERDICT_ANOMALOUS else "green"
    score = f"score {number(event.score)}, {short(event.model_version)}, {when(event.time)}"
    return f"[{style}]{verdict(event.verdict)}[/{style}], {escape(score)}"


def _fields(response: WatchInspectionsResponse) -> dict[str, Any]:
    """Return a response for JSON: the event or states, and the number of lost events if there are any."""
    fields: dict[str, Any] = {"lost": response.lost} if response.lost else {}
    kind = response.WhichOneof("event")
    if kind == "inspection":
        return fields | plain(response.inspection)
    return fields | plain(response.states)
