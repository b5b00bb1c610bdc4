# SPDX-License-Identifier: Apache-2.0
"""The steps of the demo."""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from blemish.v1.job_pb2 import EfficientAd, Job, PatchCore
from blemish_client import rendering
from blemish_client.cli.failures import Failure
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.demo import report, trial
from blemish_client.demo.material import SYNTHETIC, Drawing, Material, given
from blemish_client.demo.report import CategoryResult
from blemish_client.demo.stack import ended_like_ctrl_c, running
from blemish_client.errors import BlemishError
from blemish_client.names import short

SHORT_MINUTES, FULL_MINUTES = 0.5, 1.5


@dataclass(frozen=True)
class Plan:
    """The options of a demo."""

    output: Path
    """Folder for pictures and figures."""
    data: Path | None
    """Images to use; None draws surfaces."""
    categories: tuple[str, ...]
    """Categories to use; empty takes all."""
    seed: int
    keep: Path | None
    """Folder that keeps the server's data; None discards them."""
    efficientad_minutes: float | None
    """Time for each training of EfficientAD; 0 leaves it out, None takes a default."""
    full: bool = False
    """EfficientAD is trained on every category, not on the first alone."""

    @property
    def minutes(self) -> float:
        """Time for each training of EfficientAD."""
        if self.efficientad_minutes is not None:
            return self.efficientad_minutes
        return FULL_MINUTES if self.full else SHORT_MINUTES


@dataclass
class Clock:
    """The time that each stage took, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage."""
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


def run(plan: Plan, session: Session, *, as_json: bool) -> None:
    """Run the demo; progress goes to stderr, results go to stdout.

    Raises:
        Failure: if a step fails.
    """
    if plan.keep is not None and plan.keep.is_dir() and any(plan.keep.iterdir()):
        raise Failure(f"{plan.keep} is not empty; name a new folder for --keep")
    _prepare(plan.output)
    clock = Clock()
    with ended_like_ctrl_c(), ExitStack() as until_the_end:
        keep = (plan.keep or until_the_end.enter_context(_scratch())).absolute()
        root = plan.data.resolve() if plan.data else keep / "surfaces"
        if plan.data is None:
            root.mkdir(parents=True, exist_ok=True)
        # The surfaces are drawn while the server starts.
        materials = _materials(plan, root, session, until_the_end)
        with clock.stage("start"), session.err.status("starting Redis, Qdrant, a worker and the server"):
            stack = until_the_end.enter_context(running(keep / "data", root))
        session.err.print(f"the server is ready at {stack.address}", markup=False)
        client = until_the_end.enter_context(Client(stack.address, timeout_s=120.0))
        try:
            figures = _tour(plan, session, client, materials, clock, as_json=as_json)
        except BlemishError as error:
            time.sleep(0.5)  # a connection is lost a moment before its process is gone
            if death := stack.death():
                raise death from error
            raise
        with clock.stage("stop"):
            until_the_end.close()
    if as_json:
        print(json.dumps(figures), flush=True)
        return
    session.out.print(report.time_spent(clock.seconds).on_screen("Time"))
    session.out.print(f"Pictures, results.md and results.json are in {plan.output}/", markup=False)
    session.out.print(report.next_steps(plan.keep), markup=False, highlight=False, soft_wrap=True)


def _tour(
    plan: Plan,
    session: Session,
    client: Client,
    materials: Iterable[Material],
    clock: Clock,
    *,
    as_json: bool,
) -> dict[str, Any]:
    """Import, train, index, search and draw; return the content of results.json."""
    say = session.err.print
    imported: list[Material] = []
    trainings: list[Job] = []
    with clock.stage("import"):
        for material in materials:
            say(trial.bring(client, material), markup=False)
            imported.append(material)
            trainings.append(trial.start_training(client, material, PatchCore(), plan.seed))
    with clock.stage("train"):
        models = trial.trained(client, imported, trainings, "PatchCore", session.err)
    if not as_json:
        session.out.print(report.quality(imported, models).on_screen("Good from defective: PatchCore"))
    with clock.stage("index"):
        indexed = trial.index(client, imported, models, session.err)
    with clock.stage("search"):
        results = [
            CategoryResult(material, model, count, tuple(trial.look_up(client, material, model)))
            for material, model, count in zip(imported, models, indexed, strict=True)
        ]
    provenance = report.provenance(synthetic=plan.data is None, seed=plan.seed)
    if not as_json:
        session.out.print(report.likeness(results).on_screen("Similar past images"))
        session.out.print(f"{report.summary(results)}\n{provenance}", markup=False)
    if plan.minutes:
        with clock.stage("train EfficientAD"):
            results = _with_efficientad(plan, session, client, results)
        if not as_json:
            rivals = [(result.material, result.rival) for result in results if result.rival]
            title = "Good from defective: EfficientAD"
            session.out.print(report.quality(*zip(*rivals, strict=True)).on_screen(title))
            session.out.print(report.auroc(results).on_screen("Both detectors"))
            if len(rivals) < len(results):
                session.out.print(report.SHORT_NOTE, markup=False)
    with clock.stage("pictures"):
        names = [name for result in results for name in _draw(plan, client, result)]
    figures = report.results(
        results,
        clock.seconds,
        synthetic=plan.data is None,
        seed=plan.seed,
        version=client.server_info().version,
    )
    (plan.output / "results.json").write_text(json.dumps(figures, indent=2) + "\n")
    (plan.output / "results.md").write_text(report.markdown(results, clock.seconds, names, provenance))
    return figures


def _with_efficientad(
    plan: Plan, session: Session, client: Client, results: Sequence[CategoryResult]
) -> list[CategoryResult]:
    """Train EfficientAD on the first category, or on all in the full demo."""
    limited = EfficientAd()
    limited.max_duration.FromTimedelta(timedelta(minutes=plan.minutes))
    count = len(results) if plan.full else 1
    materials = [result.material for result in results[:count]]
    jobs = [trial.start_training(client, material, limited, plan.seed) for material in materials]
    rivals = trial.trained(client, materials, jobs, "EfficientAD", session.err)
    compared = [replace(result, rival=rival) for result, rival in zip(results, rivals, strict=False)]
    return [*compared, *results[count:]]


@contextmanager
def _scratch() -> Iterator[Path]:
    # A killed stack may still write for a moment.
    with tempfile.TemporaryDirectory(prefix="blemish-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _prepare(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"cannot make {output}: {error.strerror}; name another with --output") from error


def _materials(plan: Plan, root: Path, session: Session, until_the_end: ExitStack) -> Iterable[Material]:
    if plan.data is not None:
        return given(plan.data, plan.categories)
    drawing = until_the_end.enter_context(Drawing(root, plan.categories or SYNTHETIC, plan.seed))
    return drawing.materials(lambda line: session.err.print(line, markup=False))


def _draw(plan: Plan, client: Client, result: CategoryResult) -> Iterator[str]:
    """Write the pictures of one category; yield their file names."""
    material = result.material
    kind = "synthetic images" if plan.data is None else "images given"
    columns = [_column(portrait) for portrait in trial.portraits(client, material, result.model)]
    if columns:
        title = f"{material.id} by {short(result.model.name)} ({kind})"
        rendering.sheet(title, columns).save(plan.output / f"heatmaps-{material.id}.png")
        yield f"heatmaps-{material.id}.png"
    for lookup in result.lookups:
        query = rendering.MontageQuery(
            lookup.image.name,
            rendering.picture(lookup.image.read_bytes(), lookup.inspection).image,
            lookup.class_name,
            lookup.inspection,
        )
        side = "good" if lookup.class_name == "good" else "defective"
        name = f"alike-{material.id}-{side}.png"
        rendering.montage(query, lookup.hits).save(plan.output / name)
        yield name


def _column(portrait: trial.Portrait) -> rendering.SheetColumn:
    shown = rendering.picture(portrait.image.read_bytes(), portrait.inspection)
    return rendering.SheetColumn(
        portrait.image.parent.name,
        portrait.image.stem,
        shown.image,
        _opened(portrait.mask),
        portrait.inspection,
        shown.size,
    )


def _opened(mask: Path | None) -> Image.Image | None:
    if mask is None:
        return None
    image = Image.open(mask)
    return image.convert("RGB") if image.mode == "P" else image
