# SPDX-License-Identifier: Apache-2.0
"""``blemish label`` and ``summary``: label many items, and count those of a shift."""

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish.v1.search_pb2 import LABEL_CONFIRMED, LABEL_FALSE_ALARM, LABEL_GOOD, Hit, Label
from blemish_client.cli.choices import LabelChoice, spell, to_proto
from blemish_client.cli.failures import PARTLY, Failure, describe
from blemish_client.cli.items import is_unlabelled, item_condition, item_fields, label_text, short_ids
from blemish_client.cli.options import (
    Cameras,
    ItemLabels,
    ItemVerdict,
    Json,
    Model,
    Since,
    Until,
    WhereItems,
)
from blemish_client.cli.output import ABSENT, emit, table, verdict
from blemish_client.cli.session import Session
from blemish_client.cli.times import local, parse_start, parse_time
from blemish_client.client import Client
from blemish_client.errors import BlemishError, InvalidArgument, NotFound
from blemish_client.names import short
from blemish_layouts.names import printable

_LABELS = ", ".join(LabelChoice)
_FRAMES = {"source": "camera"}


@dataclass(frozen=True)
class _Assignment:
    """A label for an item."""

    item: str
    label: LabelChoice
    label_class: str


def label(
    ctx: typer.Context,
    model: Model,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ITEM]... confirmed|false-alarm|good|none",
            help="Items by their ids, and the label; none removes it. No label with --file.",
            show_default=False,
        ),
    ] = None,
    label_class: Annotated[str, typer.Option("--class", help="Class of the confirmed defects.")] = "",
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV file with the columns item, label and, if wanted, class; - for stdin.",
        ),
    ] = None,
    where: WhereItems = "",
    cameras: Cameras = None,
    since: Since = "",
    until: Until = "",
    verdict: ItemVerdict = None,
    labels: ItemLabels = None,
    as_json: Json = False,
) -> None:
    """Label one or many indexed images: by ids, by a filter, or from a CSV file.

    Searches filter by labels and learn from them. The exit code is 7 if some items were not labelled.

    Example: blemish label 6f1c2b1e 7a90d3f2 confirmed --class scratch -m tile-patchcore
    """
    session = Session.of(ctx)
    condition = item_condition(
        where, cameras=cameras, since=since, until=until, verdict=verdict, labels=labels
    )
    if file is not None:
        if words or condition or label_class:
            raise Failure("--file names items and labels itself; leave out arguments, filters and --class")
        assignments = _read_assignments(file)
    else:
        items, choice = _split(words or [])
        if bool(items) == bool(condition):
            raise Failure(
                "name the items to label either by their ids or by a filter such as --where or --since"
            )
        if label_class and choice is not LabelChoice.CONFIRMED:
            raise Failure("a class fits confirmed defects alone; leave out --class, or use confirmed")
        assignments = [_Assignment(item, choice, label_class) for item in items]
    with session.client() as client:
        if file is None and condition:
            found = list(client.items(model, where=condition))
            assignments = [_Assignment(item.item, choice, label_class) for item in found]
        _assign(session, client, model, assignments, as_json=as_json)


def _split(words: Sequence[str]) -> tuple[list[str], LabelChoice]:
    """Return the items and the label of the arguments.

    Raises:
        Failure: if the last one is not a label.
    """
    if not words:
        raise Failure(f"a label is missing; use one of {_LABELS}")
    *items, last = words
    return list(dict.fromkeys(items)), _label_choice(last, "the last argument")


def _label_choice(text: str, place: str) -> LabelChoice:
    try:
        return LabelChoice(text.strip().lower().replace("_", "-"))
    except ValueError:
        raise Failure(f"{place} is {printable(text)!r}, not a label; use one of {_LABELS}") from None


def _read_assignments(file: Path) -> list[_Assignment]:
    """Return the rows of a CSV file that have a label.

    Raises:
        Failure: if the file cannot be read, or any row is not valid.
    """
    try:
        content = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8-sig")
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Failure(f"{file} is not UTF-8 text; save it as CSV in UTF-8") from error
    heading = content.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(content), delimiter=";" if ";" in heading else ",")
    names = {name.strip().lower(): name for name in rows.fieldnames or ()}
    if not {"item", "label"} <= names.keys():
        raise Failure(f"the first line of {file} lacks the columns item and label; add them")
    found = []
    for row in rows:
        place = f"line {rows.line_num} of {file}"
        cells = {name: (row[column] or "").strip() for name, column in names.items()}
        item, text, label_class = cells["item"], cells["label"], cells.get("class", "")
        if not text:
            continue
        if not item:
            raise Failure(f"{place} names no item; write its id in the column item")
        choice = _label_choice(text, f"the label in {place}")
        if label_class and choice is not LabelChoice.CONFIRMED:
            raise Failure(
                f"{place} has a class, but is not confirmed; remove the class or change the label"
            )
        found.append(_Assignment(item, choice, label_class))
    return found


def _assign(
    session: Session, client: Client, model: str, assignments: Sequence[_Assignment], *, as_json: bool
) -> None:
    """Set the labels, and print each.

    Raises:
        BlemishError: if nothing could be labelled, or the server fails.
        typer.Exit: if some items could not be labelled.
    """
    failures: list[BlemishError] = []
    for each in assignments:
        try:
            labelled = client.label(each.item, model, to_proto(Label, each.label), each.label_class)
        except (NotFound, InvalidArgument) as error:
            if len(assignments) == 1:
                raise
            failures.append(error)
            session.err.print(f"{printable(each.item)}: {describe(error)}", markup=False)
            continue
        id = short_ids([labelled])[labelled.item]
        line = f"{id}: {printable(label_text(labelled)) or 'no label'}"
        session.print_result(item_fields(labelled), line, as_json=as_json)
    if failures and len(failures) == len(assignments):
        raise failures[0]
    if not assignments:
        session.err.print("nothing to label: no item matches", markup=False)
    elif len(assignments) > 1:
        done = len(assignments) - len(failures)
        session.err.print(f"labelled {done} of {len(assignments)} items", markup=False)
    if failures:
        raise typer.Exit(PARTLY)


def summary(
    ctx: typer.Context,
    model: Model,
    since: Since = "",
    until: Until = "",
    cameras: Cameras = None,
    as_json: Json = False,
) -> None:
    """Count the kept frames of a shift by camera, verdict, label and defect class.

    Frames that a stream did not keep are not counted.

    Example: blemish summary -m tile-patchcore --since 8h
    """
    session = Session.of(ctx)
    condition = item_condition(cameras=cameras, since=since, until=until, equal=_FRAMES)
    with session.client() as client:
        counts = _Counts.of(client.items(model, where=condition))
    start, end = parse_start(since, "--since"), parse_time(until, "--until")
    if as_json:
        period = {"since": start and local(start), "until": end and local(end)}
        emit({"model": model, **period, **counts.fields()})
        return
    span = "".join(f" {word} {local(time)}" for word, time in (("since", start), ("until", end)) if time)
    session.out.print(f"{short(model)}{span}: {counts.sentence()}", markup=False)
    if not counts.items:
        return
    columns = ("frames", "normal", "anomalous", "confirmed", "false alarm", "good", "unlabelled anomalous")
    rows = table("camera", *columns, right=columns)
    for camera, each in sorted(counts.cameras.items()):
        rows.add_row(escape(printable(camera)) or ABSENT, *map(str, each.row()))
    if len(counts.cameras) > 1:
        rows.add_row("all", *map(str, counts.row()))
    session.out.print(rows)
    if counts.classes:
        rows = table("defect class", "confirmed", right=("confirmed",))
        for name, count in counts.classes.most_common():
            rows.add_row(escape(printable(name)), str(count))
        session.out.print(rows)


class _Counts:
    """Numbers of items by verdict, label and class, and the same of each camera."""

    def __init__(self) -> None:
        self.items = self.open = 0
        self.verdicts: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.cameras: dict[str, _Counts] = {}

    @classmethod
    def of(cls, items: Iterable[Hit]) -> "_Counts":
        counts = cls()
        for item in items:
            counts._add(item)
            counts.cameras.setdefault(item.camera, cls())._add(item)
        return counts

    def _add(self, item: Hit) -> None:
        self.items += 1
        self.verdicts[verdict(item.verdict)] += 1
        self.labels["unlabelled" if is_unlabelled(item) else spell(Label, item.label)] += 1
        if item.label_class:
            self.classes[item.label_class] += 1
        self.open += is_unlabelled(item) and item.verdict == VERDICT_ANOMALOUS

    def row(self) -> tuple[int, ...]:
        labels = (
            self.labels[spell(Label, one)] for one in (LABEL_CONFIRMED, LABEL_FALSE_ALARM, LABEL_GOOD)
        )
        return (self.items, self.verdicts["normal"], self.verdicts["anomalous"], *labels, self.open)

    def sentence(self) -> str:
        return (
            f"{self.items} kept frames, {self.verdicts['anomalous']} anomalous, "
            f"{self.open} of these unlabelled"
        )

    def fields(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "frames": self.items,
            "verdicts": dict(self.verdicts),
            "labels": dict(self.labels),
            "classes": dict(self.classes),
            "unlabelled_anomalous": self.open,
        }
        if self.cameras:
            found["cameras"] = {camera: each.fields() for camera, each in sorted(self.cameras.items())}
        return found
