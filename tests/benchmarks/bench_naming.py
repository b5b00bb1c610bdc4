# SPDX-License-Identifier: Apache-2.0
"""Measure how often a defect is named correctly, by 5, 10 and 20 labelled items of each class.

    python -m tests.benchmarks.bench_naming [DATA] [--draws 40] [--max-train 120]

DATA holds sets of real images in MVTec AD's layout; without it only the drawn tile is measured. A PatchCore
with default settings learns from train/good of each set. A draw labels items of each class at random and
names the defects of other parts that the model judges anomalous, as the server does. Photographs of one
part, which some sets number consecutively, are never on both sides.

Only classes with more images than labels take part, and sets with two such classes. Figures are means over
draws with the interval that contains 90 % of the draws.
"""

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from tests.benchmarks.bench_embeddings import GOOD, IMAGES, read
from tests.benchmarks.report import Report, parser, section

from blemish_client.demo.surfaces import generate
from blemish_core.calibration import DEFAULT_FALSE_REJECT_RATE, Calibration
from blemish_core.detectors.base import TrainingContext, running_on, silent
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.jobs.handlers.export import faster_runtime
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.search.labelled_items import NO_CLASS, Consensus, LabelledItems
from blemish_core.search.query import Vector

LABELS = (5, 10, 20)
DRAWN = "tile (drawn)"
_LANE = RuntimeChoice(threads=1)
_SAME_PART = 150
"""Largest difference of the numbers of consecutive photographs of one part in magnetic_tile."""
_LABELLED_PART = 2 / 3
"""Share of the parts of a class that may be labelled, if a part has several photographs."""
_TIMED = (100, 4096)

Rule = Callable[[Vector, Sequence[str], Vector], str]
"""Returns a class from the embeddings and classes of labelled items, and the embedding of a defect."""


@dataclass(frozen=True)
class EmbeddedImages:
    """The test images of a set that the model judges anomalous."""

    name: str
    vectors: Vector
    """(N, D), rows of length 1."""
    classes: NDArray[np.str_]
    """(N,)."""
    parts: NDArray[np.int_]
    """(N,), numbers of the photographed parts."""
    detected: NDArray[np.bool_]
    """(N,), True for images that the model judges anomalous."""

    def of_class(self, name: str) -> NDArray[np.int_]:
        return np.flatnonzero(self.classes == name)


@dataclass(frozen=True)
class Draw:
    """Labelled images and the detected defects to name, as row numbers."""

    labelled: NDArray[np.int_]
    queries: NDArray[np.int_]


def embedded(folder: Path, name: str, max_train: int) -> EmbeddedImages:
    """Train on good images of a folder and embed its test images."""
    train = sorted(each for each in (folder / "train/good").iterdir() if each.suffix.lower() in IMAGES)
    chosen = sorted(np.random.default_rng(0).permutation(len(train))[:max_train])
    algorithm = ALGORITHMS["patchcore"]
    training = algorithm.train(
        algorithm.settings(),
        [partial(read, train[number]) for number in chosen],
        TrainingContext(
            weights=folder / "none",
            seed=0,
            target_false_reject_rate=DEFAULT_FALSE_REJECT_RATE,
            progress=silent,
            fast_runtime=partial(faster_runtime, "cpu", _LANE),
        ),
    )
    held_out, detector = training.held_out_scores, training.detector
    calibration = Calibration.of(held_out.scores, held_out.map_maxima, DEFAULT_FALSE_REJECT_RATE)
    files = sorted(each for each in (folder / "test").rglob("*") if each.suffix.lower() in IMAGES)
    with running_on(detector, faster_runtime("cpu", _LANE, detector.network, detector.network_size)):
        predictions = [detector.predict([detector.prepare(read(file))])[0] for file in files]
    return EmbeddedImages(
        name,
        np.stack([each.embedding for each in predictions]),
        np.array([file.parent.name for file in files]),
        part_numbers([file.stem for file in files]),
        np.array([calibration.is_anomalous(each.score) for each in predictions]),
    )


def part_numbers(stems: Sequence[str]) -> NDArray[np.int_]:
    """Return a number for each photographed part: photographs numbered closely show the same one."""
    found = [re.fullmatch(r"exp\d+_num_(\d+)", stem) for stem in stems]
    if not all(found):
        return np.arange(len(stems))
    numbers = np.array([int(match[1]) for match in found if match])
    order = np.argsort(numbers)
    parts = np.empty(len(stems), int)
    parts[order] = np.cumsum(np.diff(numbers[order], prepend=numbers[order[0]]) > _SAME_PART)
    return parts


def draw(images: EmbeddedImages, classes: Sequence[str], count: int, random: np.random.Generator) -> Draw:
    """Label ``count`` images of each class, of as many parts as possible; query detected ones of others."""
    labelled: list[int] = []
    queries: list[int] = []
    for name in classes:
        rows = images.of_class(name)
        parts = random.permutation(np.unique(images.parts[rows]))
        usable = parts if len(parts) == len(rows) else parts[: max(1, round(len(parts) * _LABELLED_PART))]
        shuffled = random.permutation(rows)
        # The first photograph of each part, then the second of each, and so on.
        turns = [
            (int((images.parts[shuffled[:place]] == images.parts[row]).sum()), place, row)
            for place, row in enumerate(shuffled)
            if images.parts[row] in usable
        ]
        of_class = [row for _, _, row in sorted(turns)[:count]]
        labelled += of_class
        excluded = images.parts[of_class] if len(parts) == len(rows) else usable
        queries += [
            row for row in rows if images.detected[row] and not np.isin(images.parts[row], excluded)
        ]
    return Draw(np.array(labelled), np.array(queries, int))


def draws(
    images: EmbeddedImages, classes: Sequence[str], count: int, number: int
) -> Iterator[tuple[Draw, LabelledItems]]:
    """Yield draws with something to name, and the labelled items of each."""
    for seed in range(number):
        made = draw(images, classes, count, np.random.default_rng(seed))
        if len(made.queries):
            yield made, items_of(images, made.labelled)


def items_of(images: EmbeddedImages, rows: NDArray[np.int_]) -> LabelledItems:
    """Return labelled items, good images as false alarms."""
    named = (
        (UUID(int=int(row)), NO_CLASS if images.classes[row] == GOOD else str(images.classes[row]))
        for row in rows
    )
    return LabelledItems.of((id, name, images.vectors[id.int]) for id, name in named)


def by_rank(weight: Callable[[NDArray[np.float64]], NDArray[np.float64]], neighbors: int) -> Rule:
    """Return the rule that weighs the nearest items by their ranks 1, 2, ..."""

    def rule(vectors: Vector, classes: Sequence[str], embedding: Vector) -> str:
        nearest = np.argsort(-(vectors @ embedding), kind="stable")[:neighbors]
        weights: dict[str, float] = {}
        for row, share in zip(nearest, weight(np.arange(1.0, len(nearest) + 1)), strict=True):
            weights[classes[row]] = weights.get(classes[row], 0.0) + share
        return max(weights, key=lambda name: weights[name])

    return rule


def by_mean(vectors: Vector, classes: Sequence[str], embedding: Vector) -> str:
    """Return the class whose mean embedding is most similar."""
    names = sorted(set(classes))
    means = np.stack([vectors[np.array(classes) == name].mean(0) for name in names])
    similarities = (means / np.linalg.norm(means, axis=1, keepdims=True)) @ embedding
    return names[int(similarities.argmax())]


RULES: dict[str, Rule] = {
    "nearest item": by_rank(np.ones_like, 1),
    "3 nearest, equal weights": by_rank(np.ones_like, 3),
    "7 nearest, equal weights": by_rank(np.ones_like, 7),
    "3 nearest, 1/rank": by_rank(np.reciprocal, 3),
    "**7 nearest, 1/rank (used)**": by_rank(np.reciprocal, 7),
    "15 nearest, 1/rank": by_rank(np.reciprocal, 15),
    "nearest mean of a class": by_mean,
}


def mean_by_class(images: EmbeddedImages, queries: NDArray[np.int_], right: Sequence[bool]) -> float:
    """Return the share of right answers of each class, averaged over the classes."""
    of, were = images.classes[queries], np.array(right)
    return float(np.mean([were[of == name].mean() for name in np.unique(of)]))


def interval(values: Sequence[float]) -> str:
    """Return the mean of draws, and the interval that contains 90 % of them."""
    low, high = np.quantile(values, (0.05, 0.95))
    return f"{np.mean(values):.2f} ({low:.2f}-{high:.2f})"


def accuracy_row(images: EmbeddedImages, classes: Sequence[str], count: int, number: int) -> str:
    """Return the shares of defects that are named correctly, wrongly and not at all."""
    shares: list[tuple[float, float, float]] = []
    sizes = []
    for made, items in draws(images, classes, count, number):
        found = [items.classify(images.vectors[row]) for row in made.queries]
        right = [each.name == images.classes[row] for each, row in zip(found, made.queries, strict=True)]
        unnamed = [not each.name for each in found]
        one, none = (mean_by_class(images, made.queries, each) for each in (right, unnamed))
        shares.append((one, 1 - one - none, none))
        sizes.append(len(made.queries))
    columns = [interval(column) for column in zip(*shares, strict=True)]
    cells = (images.name, len(classes), count, round(float(np.mean(sizes))), *columns)
    return "| " + " | ".join(map(str, cells)) + " |"


def rule_cells(images: EmbeddedImages, classes: Sequence[str], count: int, number: int) -> list[str]:
    """Return the accuracy of each rule, without a limit on the distance."""
    values: dict[str, list[float]] = {name: [] for name in RULES}
    for made, items in draws(images, classes, count, number):
        for name, rule in RULES.items():
            right = [
                rule(items.vectors, items.classes, images.vectors[row]) == images.classes[row]
                for row in made.queries
            ]
            values[name].append(mean_by_class(images, made.queries, right))
    return [interval(each) for each in values.values()]


def unknown_row(images: EmbeddedImages, classes: Sequence[str], count: int, number: int) -> str:
    """Return the share of unnamed defects of a class without labels, and of good images.

    Good images that the model judges anomalous count as false alarms: half of them are labelled.
    """
    unknown: list[float] = []
    alarms: list[float] = []
    lost: list[float] = []
    for seed in range(number):
        random = np.random.default_rng(seed)
        without = classes[seed % len(classes)]
        made = draw(images, [name for name in classes if name != without], count, random)
        items = items_of(images, made.labelled)
        novel = [row for row in images.of_class(without) if images.detected[row]]
        if novel:
            unknown.append(float(np.mean([not items.classify(images.vectors[row]).name for row in novel])))
        good = random.permutation([row for row in images.of_class(GOOD) if images.detected[row]])
        if len(good) >= 2 and len(made.queries):
            half = min(count, len(good) // 2)
            items = items_of(images, np.concatenate([made.labelled, good[:half]]))
            prevailing = [
                [items.classify(images.vectors[row]).consensus is Consensus.FALSE_ALARMS for row in rows]
                for rows in (good[half:], made.queries)
            ]
            alarms.append(float(np.mean(prevailing[0])))
            lost.append(float(np.mean(prevailing[1])))
    columns = [interval(each) if each else "-" for each in (unknown, alarms, lost)]
    return f"| {images.name} | {count} | " + " | ".join(columns) + " |"


def comparison_ms(dimensions: int, count: int) -> float:
    """Return the median time of one comparison with ``count`` items."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(count, dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = LabelledItems.of(
        (UUID(int=number), f"class {number % 10}", vector) for number, vector in enumerate(vectors)
    )
    times = []
    for query in vectors[:50]:
        began = time.perf_counter()
        items.classify(query)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


def usable_classes(images: EmbeddedImages, count: int) -> list[str]:
    """Return the classes with more images than labels, or none if there are not two."""
    names = sorted(set(images.classes) - {GOOD})
    found = [name for name in names if len(images.of_class(name)) > count]
    return found if len(found) > 1 else []


def write(report: Report, sets: Sequence[EmbeddedImages], number: int) -> None:
    cases = [(each, found, n) for each in sets for n in LABELS if (found := usable_classes(each, n))]
    report.write(
        "Defects of parts without labels. Shares are averages over classes: named correctly, named "
        "wrongly, and not named because no labelled item is near.\n"
    )
    report.write("| set | classes | labels of each | defects | correct | wrong | distant |")
    report.write("|---|---|---|---|---|---|---|")
    for images, classes, count in cases:
        report.write(accuracy_row(images, classes, count, number))
    report.write("\nOther rules, with no limit on the distance, on the same draws:\n")
    report.write("| rule | " + " | ".join(f"{images.name}, {count}" for images, _, count in cases) + " |")
    report.write("|---" * (len(cases) + 1) + "|")
    columns = [rule_cells(images, classes, count, number) for images, classes, count in cases]
    for name, *cells in zip(RULES, *columns, strict=True):
        report.write(f"| {name} | " + " | ".join(cells) + " |")
    report.write(
        "\nNot named: defects of a class that has no labels, of which each class is one in turn. With half "
        "of the good images that the model rejects labelled as false alarms: the other half recognised as "
        "such, and defects mistaken for them.\n"
    )
    report.write("| set | labels of each | unlabelled class not named | false alarms | defects lost |")
    report.write("|---|---|---|---|---|")
    for images, classes, count in cases:
        if len(classes) > 2:
            report.write(unknown_row(images, classes, count, number))
    dimensions = sets[0].vectors.shape[1]
    times = ", ".join(f"{comparison_ms(dimensions, count):.2f} ms with {count:,}" for count in _TIMED)
    report.write(f"\nOne comparison of {dimensions} dimensions takes {times} labelled items.")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("data", type=Path, nargs="?", help="folder of sets in MVTec AD's layout")
    options.add_argument("--draws", type=int, default=40, help="random choices of labelled items")
    options.add_argument("--max-train", type=int, default=120, help="good training images, at most")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as made, section("bench_naming", "Defect classes", given) as report:
        sets = []
        for folder in sorted(given.data.glob("*/test")) if given.data else ():
            counts = [len([*each.iterdir()]) for each in folder.iterdir() if each.name != GOOD]
            if sum(count > min(LABELS) for count in counts) > 1:
                sets.append(embedded(folder.parent, folder.parent.name, given.max_train))
        drawn = Path(made) / "tile"
        generate(drawn, "tile", seed=0, train=80, good=20, defective=100, size=256)
        sets.append(embedded(drawn, DRAWN, given.max_train))
        write(report, sets, given.draws)


if __name__ == "__main__":
    main()
