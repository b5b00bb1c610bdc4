# SPDX-License-Identifier: Apache-2.0
"""``blemish review``: walk through the unlabelled anomalous frames, and label each."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from blemish.v1.search_pb2 import LABEL_NONE, LABEL_UNSPECIFIED, Hit, Label
from blemish_client.cli.choices import (
    ItemLabelChoice,
    LabelChoice,
    ReviewOrderChoice,
    VerdictChoice,
    to_proto,
)
from blemish_client.cli.contact_sheets import score_text, write_frame, write_sheets
from blemish_client.cli.failures import Failure, describe, exit_code
from blemish_client.cli.file_names import file_name_part
from blemish_client.cli.items import item_condition, label_text, short_ids
from blemish_client.cli.options import Cameras, Model, Since, Until, WhereItems
from blemish_client.cli.output import ABSENT, number, when
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.errors import Aborted, BlemishError, InvalidArgument, NotFound, Unavailable
from blemish_client.names import short
from blemish_client.search import similarity
from blemish_layouts.names import printable

_KEYS = (
    "g good, f false alarm, d CLASS defect of a class (d alone: the last class), s skip, b back, "
    "o write a picture, q quit"
)
_LABELS = {"g": LabelChoice.GOOD, "f": LabelChoice.FALSE_ALARM, "d": LabelChoice.CONFIRMED}
_WORDS = {
    **{"good": "g", "false-alarm": "f", "defect": "d", "confirmed": "d"},
    **{"skip": "s", "back": "b", "open": "o", "quit": "q"},
}
_MAX_CLASSES_READ = 2000
_LABELLED = "(label = confirmed OR label = false-alarm OR label = good)"


def review(
    ctx: typer.Context,
    model: Model,
    where: WhereItems = "",
    cameras: Cameras = None,
    since: Since = "",
    until: Until = "",
    sort: Annotated[
        ReviewOrderChoice,
        typer.Option(
            "--sort",
            "--order",
            help="Newest first, highest score first, or least certain first: closest to the threshold.",
        ),
    ] = ReviewOrderChoice.TIME,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="Number of frames.")] = 120,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PNG file of the contact sheet, or a folder for it. A name that exists gets a number.",
            show_default="review-MODEL-TIME.png",
        ),
    ] = None,
    no_sheet: Annotated[bool, typer.Option("--no-sheet", help="Draw no contact sheet.")] = False,
) -> None:
    """Walk through the unlabelled anomalous frames that were kept, and label them.

    First all of them are drawn on a contact sheet. Then each takes one line, typed or piped.

    Type g if it is good, f for a false alarm, or d CLASS for a defect; d alone repeats the last class. Use
    s to skip a frame, and b to go back and remove the label given there. Use o to write the frame and its
    anomaly map to a file, and q to quit.

    Labels are stored one by one, so that none is lost if the server fails. A label that another person gave
    meanwhile is reported and stays.

    Example: blemish review -m tile-patchcore --since 8h --sheet night.png
    """
    file = _sheet_file(model, sheet)
    if sheet is not None and no_sheet:
        raise Failure("--sheet and --no-sheet exclude each other; give one of them")
    session = Session.of(ctx)
    condition = item_condition(
        where,
        cameras=cameras,
        since=since,
        until=until,
        verdict=VerdictChoice.ANOMALOUS,
        labels=[ItemLabelChoice.UNLABELLED],
        equal={"source": "camera"},
    )
    with session.client() as client:
        threshold = _threshold(client, model, condition)
        queue, total = _queue(client, model, condition, sort, limit, threshold)
        if not queue:
            session.out.print("nothing to review: no unlabelled anomalous frame matches", markup=False)
            return
        if total > len(queue):
            line = f"{len(queue)} of {total} frames; run the command again for the others, or raise --limit"
            session.out.print(line, markup=False)
        if not no_sheet:
            with session.err.status("drawing the contact sheet"):
                files = write_sheets(client, model, queue, threshold, file)
            for file in files:
                session.out.print(f"contact sheet: {file}", markup=False, soft_wrap=True)
        _Walk(session, client, model, queue, threshold, file.parent).run()


def _sheet_file(model: str, given: Path | None) -> Path:
    """Return the file of the contact sheet, which has a name of its own in a given folder.

    Raises:
        Failure: if its name does not end with .png.
    """
    if given is None or given.is_dir():
        name = f"review-{file_name_part(short(model), 'model')}-{datetime.now():%Y%m%dT%H%M%S}.png"
        return (given or Path()) / name
    if given.suffix.lower() != ".png":
        raise Failure(f"--sheet is {given}; use a folder, or a file whose name ends with .png")
    return given


def _threshold(client: Client, model: str, condition: str) -> float | None:
    """Return the threshold of the frames' scores, None if the index is of another version."""
    card = client.model(model)
    indexed = client.count_items(model, where=f"{condition} AND model = {short(card.name)}")
    return card.calibration.threshold if indexed else None


def _queue(
    client: Client,
    model: str,
    condition: str,
    sort: ReviewOrderChoice,
    limit: int,
    threshold: float | None,
) -> tuple[list[Hit], int]:
    """Return the frames to review in their order, and the number of all that match.

    Raises:
        Failure: if the order needs the threshold, and it is not known.
    """
    if sort is not ReviewOrderChoice.LEAST_CERTAIN:
        found = client.items(model, where=condition, order_by=f"{sort} desc")
        return list(islice(found, limit)), client.count_items(model, where=condition)
    frames = list(client.items(model, where=condition, order_by="time desc"))
    if frames and threshold is None:
        raise Failure(
            f"the frames were scored by another version than {short(model)} now means, so their distance "
            "from the threshold is unknown; choose another order"
        )
    frames.sort(key=lambda frame: abs(frame.score - (threshold or 0.0)))
    return frames[:limit], len(frames)


@dataclass
class _Walk:
    """A walk through frames, by lines on stdin."""

    session: Session
    client: Client
    model: str
    queue: Sequence[Hit]
    threshold: float | None
    folder: Path
    """Folder of pictures."""
    given: dict[int, Hit] = field(default_factory=dict)
    """Labelled items, by their place in the queue."""
    taken: set[int] = field(default_factory=set)
    """Places of frames that another person has labelled meanwhile."""
    skipped: set[int] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    """Classes of confirmed items."""
    last_class: str = ""

    def run(self) -> None:
        """Ask about each frame until the queue or stdin ends, and print the totals.

        Raises:
            Failure: if the server fails, or a line that is piped is not an answer.
        """
        try:
            self.classes |= self._read_classes()
            self._print(f"keys: {_KEYS}")
            if self.classes:
                self._print(f"classes: {', '.join(map(printable, sorted(self.classes)))}")
            self._walk()
        except BlemishError as error:
            raise Failure(
                f"{describe(error)}; labels given so far are stored, and the same command goes on with the "
                "other frames",
                exit_code(error),
            ) from error
        finally:
            self._print(self._totals())

    def _walk(self) -> None:
        place: int | None = 0
        shown = -1
        while place is not None:
            if place == len(self.queue):
                place = self._end()
                continue
            if place != shown:
                self._show(place)
                shown = place
            line = self._read_line()
            if line is None:
                return
            if line:
                place = self._answer(place, line)
            elif sys.stdin.isatty():
                self._print(_KEYS)

    def _end(self) -> int | None:
        """Return the place of the last frame if it is to be shown again, None to end."""
        if sys.stdin.isatty():
            self._print("\nall frames are reviewed; Enter ends, b goes back")
        line = self._read_line()
        return self._back(len(self.queue)) if line and _key(line) == "b" else None

    def _read_line(self) -> str | None:
        """Return the next line, None at the end of stdin."""
        is_typed = sys.stdin.isatty()
        if is_typed:
            repeats = f"d = {printable(self.last_class)} " if self.last_class else ""
            self.session.out.print(f"{repeats}> ", end="", markup=False)
        line = sys.stdin.readline()
        if not line:
            if is_typed:
                self._print("")
            return None
        text = printable(line.strip())
        if text and not is_typed:
            self._print(f"> {text}")
        return text

    def _answer(self, place: int, line: str) -> int | None:
        """Do what a line asks for, and return the place of the next frame, None to quit.

        Raises:
            Failure: if it is not an answer, and was not typed: the next ones might be of other frames.
        """
        key, rest = _key(line), line.partition(" ")[2].strip()
        match key:
            case "g" | "f" if not rest:
                return self._label(place, _LABELS[key], "")
            case "d":
                return self._label(place, LabelChoice.CONFIRMED, rest or self.last_class)
            case "s" if not rest:
                self.skipped.add(place)
                return place + 1
            case "b" if not rest:
                return self._back(place)
            case "o" if not rest:
                self._write_picture(place)
                return place
            case "q" if not rest:
                return None
        if not sys.stdin.isatty():
            raise Failure(
                f"{line!r} is not an answer; use {_KEYS}; labels given so far are stored, and the same "
                "command goes on with the other frames"
            )
        self._print(f"{line!r} is not an answer; use {_KEYS}")
        return place

    def _label(self, place: int, label: LabelChoice, label_class: str) -> int:
        """Label a frame, and return the place of the next one, or the same if it was not accepted."""
        item = self.queue[place].item
        expected = LABEL_UNSPECIFIED if place in self.taken else LABEL_NONE
        try:
            labelled = self.client.label(
                item, self.model, to_proto(Label, label), label_class, expected=expected
            )
        except Aborted as error:
            self.taken.add(place)
            self._print(
                f"not labelled: {_without_advice(error)}; that label stays; b goes back to replace it"
            )
            return place + 1
        except NotFound as error:
            self._print(f"not labelled: {describe(error)}")
            self.skipped.add(place)
            return place + 1
        except InvalidArgument as error:
            self._print(f"not labelled: {describe(error)}")
            return place
        self.given[place] = labelled
        self.taken.discard(place)
        self.skipped.discard(place)
        is_new = label is LabelChoice.CONFIRMED and label_class not in {"", *self.classes}
        if label is LabelChoice.CONFIRMED:
            self.last_class = label_class
            self.classes |= {label_class} - {""}
        note = " (a new class; b takes it back)" if is_new else ""
        self._print(f"{short_ids([labelled])[item]}: {printable(label_text(labelled))}{note}")
        return place + 1

    def _back(self, place: int) -> int:
        """Go to the frame before, and remove the label that it was given in this review."""
        if not place:
            self._print("this is the first frame")
            return place
        before = place - 1
        self.skipped.discard(before)
        labelled = self.given.pop(before, None)
        if labelled is None:
            return before
        id = short_ids([labelled])[labelled.item]
        try:
            self.client.label(
                labelled.item,
                self.model,
                LABEL_NONE,
                expected=labelled.label,
                expected_class=labelled.label_class,
            )
        except Aborted as error:
            self.taken.add(before)
            self._print(f"the label was not removed: {_without_advice(error)}; an answer replaces it")
        except NotFound as error:
            self._print(f"the label was not removed: {describe(error)}")
        else:
            self._print(f"{id}: {printable(label_text(labelled))} removed")
        return before

    def _write_picture(self, place: int) -> None:
        try:
            file = write_frame(self.client, self.model, self.queue[place], self.folder)
        except Unavailable:
            raise
        except BlemishError as error:
            self._print(f"no picture: {describe(error)}")
        except OSError as error:
            self._print(f"no picture: {error.strerror or error}")
        else:
            self._print(f"picture: {file}")

    def _show(self, place: int) -> None:
        frame = self.queue[place]
        line = (
            f"{place + 1} of {len(self.queue)}",
            when(frame.time),
            printable(frame.camera) or ABSENT,
            score_text(frame.score, self.threshold),
            *self._most_similar(frame),
            short_ids([frame])[frame.item],
        )
        self._print("\n" + "  ".join(line))

    def _most_similar(self, frame: Hit) -> tuple[str, ...]:
        """Return the label of the most similar item that has one, empty if none has."""
        try:
            nearest = next(iter(self.client.search(frame.item, self.model, 1, where=_LABELLED)), None)
        except Unavailable:
            raise
        except BlemishError:
            return ()  # the frame can be judged without it
        if nearest is None:
            return ()
        return (f"most like {printable(label_text(nearest))} ({number(similarity(nearest), 2)})",)

    def _read_classes(self) -> set[str]:
        """Return the classes of confirmed items."""
        confirmed = self.client.items(self.model, where="label = confirmed", order_by="time desc")
        return {item.label_class for item in islice(confirmed, _MAX_CLASSES_READ)} - {""}

    def _totals(self) -> str:
        counts = Counter(label_text(labelled) for labelled in self.given.values())
        labels = ", ".join(f"{count} {printable(text)}" for text, count in counts.most_common())
        parts = [
            f"{len(self.given)} of {len(self.queue)} frames labelled" + (f": {labels}" if labels else "")
        ]
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        if self.taken:
            parts.append(f"{len(self.taken)} labelled by others")
        if left := len(self.queue) - len(self.given) - len(self.skipped) - len(self.taken):
            parts.append(f"{left} not reviewed")
        return "\n" + "; ".join(parts)

    def _print(self, line: str) -> None:
        self.session.out.print(line, markup=False, soft_wrap=True)


def _key(line: str) -> str:
    """Return the key of an answer, which may also be written as a word."""
    word = line.partition(" ")[0].lower()
    return _WORDS.get(word, word)


def _without_advice(error: Aborted) -> str:
    """Return the problem of a conflict without the server's remedy."""
    return describe(error).partition(";")[0]
