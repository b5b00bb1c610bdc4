# SPDX-License-Identifier: Apache-2.0
"""The tables of a comparison, in Markdown."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.benchmarks.real.comparison import VariantComparison

from blemish_core.evaluation.resampling import Estimate

_ABSENT = "-"


def _share(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _tenths(value: float) -> str:
    return f"{value:.1f}"


@dataclass(frozen=True)
class Column:
    """A column of the table of means."""

    title: str
    figure: str
    format: Callable[[float], str]
    with_interval: bool = False


COLUMNS = (
    Column("image AUROC", "image_auroc", _share, with_interval=True),
    Column("detected", "detection_rate", _percent),
    Column("false rejects", "false_reject_rate", _percent),
    Column("F1", "f1", _ratio),
    Column("best F1", "best_f1", _ratio),
    Column("pixel AUROC", "pixel_auroc", _share),
    Column("AUPRO", "aupro", _share, with_interval=True),
    Column("P@5", "search_p5", _share),
    Column("class P@5", "class_p5", _share),
)
REGIONS = (
    Column("area to mask", "region_area_ratio", _ratio, with_interval=True),
    Column("IoU", "region_iou", _share, with_interval=True),
    Column("peak on the defect", "peak_on_defect_rate", _percent),
)
COSTS = (
    Column("frame, ms", "frame_ms", _tenths),
    Column("inputs of 256 px", "frame_inputs", _tenths),
    Column("training, s", "train_s", _tenths),
    Column("bank entries", "bank_entries", _count),
    Column("patches", "patches", _count),
)
COMPARED = (
    Column("image AUROC", "image_auroc", _share),
    Column("AUPRO", "aupro", _share),
    Column("detected", "detection_rate", _share),
    Column("false rejects", "false_reject_rate", _share),
    Column("region IoU", "region_iou", _share),
    Column("P@5", "search_p5", _share),
)


@dataclass(frozen=True)
class SetTable:
    """A table of one cell for each set and variant."""

    title: str
    cell: Sequence[Column]
    joined: str
    """Format of the cell from its figures."""


BY_SET = (
    SetTable(
        "Each set: image AUROC, AUPRO, and share detected at the share of false rejects:",
        (
            Column("image AUROC", "image_auroc", _share),
            Column("AUPRO", "aupro", _share),
            Column("detected", "detection_rate", _percent),
            Column("false rejects", "false_reject_rate", _percent),
        ),
        "{}, {}, {} at {}",
    ),
    SetTable(
        "Regions of detected defects in each set: median of found over true area, median intersection over "
        "union, and share of images whose first peak is on the defect:",
        (
            Column("area", "region_area_ratio", _ratio),
            Column("IoU", "region_iou", _ratio),
            Column("peaks", "peak_on_defect_rate", _percent),
        ),
        "{}, {}, {}",
    ),
    SetTable(
        "Search in each set: P@5 of good or defective, and of the defect class:",
        (Column("P@5", "search_p5", _share), Column("class P@5", "class_p5", _share)),
        "{}, {}",
    ),
)


def tables(comparison: VariantComparison, baseline: str) -> Iterator[str]:
    """Yield the lines of all tables."""
    yield "Means over the sets, with 95 % intervals over sets and draws in brackets:"
    yield ""
    yield from _means(comparison, COLUMNS)
    yield ""
    yield "Regions against masks, medians of a set, on defective images with the right verdict:"
    yield ""
    yield from _means(comparison, REGIONS)
    yield ""
    yield "Costs, on one thread; the machine's other load changes times, and ratios less:"
    yield ""
    yield from _means(comparison, COSTS)
    if baseline in comparison.variants and len(comparison.variants) > 1:
        yield ""
        yield (
            f"Difference from `{baseline}` on equal sets and draws. An interval without zero is a "
            "difference. In parentheses: sets with a higher figure."
        )
        yield ""
        yield from _differences(comparison, baseline)
    for table in BY_SET:
        yield ""
        yield table.title
        yield ""
        yield from _by_set(comparison, table)


def _means(comparison: VariantComparison, columns: tuple[Column, ...]) -> Iterator[str]:
    yield f"| variant | {' | '.join(column.title for column in columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for variant in comparison.variants:
        means = (_mean(column, comparison.mean(variant, column.figure)) for column in columns)
        yield f"| {variant} | {' | '.join(means)} |"


def _mean(column: Column, mean: Estimate) -> str:
    if mean.value is None:
        return _ABSENT
    text = column.format(mean.value)
    if column.with_interval and mean.interval is not None:
        text += f" [{column.format(mean.interval.low)}, {column.format(mean.interval.high)}]"
    return text


def _differences(comparison: VariantComparison, baseline: str) -> Iterator[str]:
    yield f"| variant | {' | '.join(column.title for column in COMPARED)} |"
    yield "|---" * (len(COMPARED) + 1) + "|"
    for variant in comparison.variants:
        if variant == baseline:
            continue
        cells = []
        for column in COMPARED:
            found = comparison.difference(variant, baseline, column.figure)
            if found.mean.value is None:
                cells.append(_ABSENT)
                continue
            text = f"{found.mean.value:+.3f}"
            if (interval := found.mean.interval) is not None:
                text += f" [{interval.low:+.3f}, {interval.high:+.3f}]"
            cells.append(f"{text} ({found.better} of {found.sets})")
        yield f"| {variant} | {' | '.join(cells)} |"


def _by_set(comparison: VariantComparison, table: SetTable) -> Iterator[str]:
    yield f"| set | {' | '.join(comparison.variants)} |"
    yield "|---" * (len(comparison.variants) + 1) + "|"
    for name in comparison.sets:
        cells = []
        for variant in comparison.variants:
            values = ((column, comparison.of_set(variant, name, column.figure)) for column in table.cell)
            shown = (_ABSENT if value is None else column.format(value) for column, value in values)
            cells.append(table.joined.format(*shown))
        yield f"| {name} | {' | '.join(cells)} |"
