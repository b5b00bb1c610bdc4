# SPDX-License-Identifier: Apache-2.0
"""The demo from beginning to end."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from blemish.v1.job_pb2 import EfficientAd, PatchCore
from blemish_client import rendering
from blemish_client.cli.failures import Failure
from blemish_client.cli.session import Session
from blemish_client.client import Client
from blemish_client.demo import report, trial
from blemish_client.demo.material import SYNTHETIC, Material, drawn, given
from blemish_client.demo.report import Outcome
from blemish_client.demo.stack import ended_like_ctrl_c, running
from blemish_client.errors import BlemishError
from blemish_client.names import short


@dataclass(frozen=True)
class Plan:
    output: Path
    """Where pictures and figures go."""
    data: Path | None
    """Images to use; None draws surfaces."""
    categories: tuple[str, ...]
    """Empty: all."""
    seed: int
    keep: Path | None
    """Where the server's data stay; None lets them go."""
    efficientad_minutes: float
    """Time for each training of EfficientAD; 0 leaves it out."""


@dataclass
class Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


def run(plan: Plan, session: Session, *, as_json: bool) -> None:
    """Do it all; say how it goes on stderr, what came of it on stdout.

    Raises:
        Failure: if something does not work, in words.
    """
    if plan.keep is not None and plan.keep.is_dir() and any(plan.keep.iterdir()):
        raise Failure(f"{plan.keep} is not empty; name a new folder for --keep")
    _prepare(plan.output)
    clock = Clock()
    with ended_like_ctrl_c(), ExitStack() as until_the_end:
        keep = (plan.keep or until_the_end.enter_context(_scratch())).absolute()
        with clock.stage("images"):
            materials = _materials(plan, keep, session)
        root = plan.data.resolve() if plan.data else keep / "surfaces"
        with clock.stage("start"), session.err.status("starting Redis, Qdrant, a worker and the server"):
            stack = until_the_end.enter_context(running(keep / "data", root))
        session.err.print(f"the server is up at {stack.address}", markup=False)
        client = until_the_end.enter_context(Client(stack.address, timeout_s=120.0))
        try:
            told = _tour(plan, session, client, materials, clock, as_json=as_json)
        except BlemishError as error:
            time.sleep(0.5)  # a connection is lost a moment before its process is gone
            if death := stack.death():
                raise death from error
            raise
        with clock.stage("stop"):
            until_the_end.close()
    if as_json:
        print(json.dumps(told), flush=True)
        return
    session.out.print(report.time_spent(clock.seconds).on_screen("Time"))
    session.out.print(f"Pictures, results.md and results.json are in {plan.output}/", markup=False)
    if plan.keep is not None:
        session.out.print(f"Look around: blemish up --data {plan.keep / 'data'}", markup=False)


def _tour(
    plan: Plan,
    session: Session,
    client: Client,
    materials: Sequence[Material],
    clock: Clock,
    *,
    as_json: bool,
) -> dict[str, Any]:
    """Import, train, index, search and draw; return results.json."""
    say = session.err.print
    with clock.stage("import"):
        for material in materials:
            say(trial.bring(client, material), markup=False)
    with clock.stage("train"):
        models = trial.train(client, materials, PatchCore(), plan.seed, session.err)
    if not as_json:
        session.out.print(report.quality(materials, models).on_screen("Good from defective: PatchCore"))
    with clock.stage("index"):
        indexed = trial.index(client, materials, models, session.err)
    with clock.stage("search"):
        outcomes = [
            Outcome(material, model, count, tuple(trial.look_up(client, material, model)))
            for material, model, count in zip(materials, models, indexed, strict=True)
        ]
    words = report.provenance(synthetic=plan.data is None, seed=plan.seed)
    if not as_json:
        session.out.print(report.likeness(outcomes).on_screen("Alike from past images"))
        session.out.print(f"{report.summary(outcomes)}\n{words}", markup=False)
    if plan.efficientad_minutes:
        with clock.stage("train EfficientAD"):
            limited = EfficientAd()
            limited.max_duration.FromTimedelta(timedelta(minutes=plan.efficientad_minutes))
            rivals = trial.train(client, materials, limited, plan.seed, session.err)
        outcomes = [replace(o, rival=rival) for o, rival in zip(outcomes, rivals, strict=True)]
        if not as_json:
            title = "Good from defective: EfficientAD"
            session.out.print(report.quality(materials, rivals).on_screen(title))
            session.out.print(report.auroc(outcomes).on_screen("Both detectors"))
    with clock.stage("pictures"):
        names = [name for outcome in outcomes for name in _draw(plan, client, outcome)]
    told = report.results(
        outcomes,
        clock.seconds,
        synthetic=plan.data is None,
        seed=plan.seed,
        version=client.server_info().version,
    )
    (plan.output / "results.json").write_text(json.dumps(told, indent=2) + "\n")
    (plan.output / "results.md").write_text(report.markdown(outcomes, clock.seconds, names, words))
    return told


@contextmanager
def _scratch() -> Iterator[Path]:
    # A stack that was killed may write for a moment longer.
    with tempfile.TemporaryDirectory(prefix="blemish-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _prepare(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"cannot make {output}: {error.strerror}; name another with --output") from error


def _materials(plan: Plan, keep: Path, session: Session) -> list[Material]:
    if plan.data is not None:
        return given(plan.data, plan.categories)
    categories = plan.categories or SYNTHETIC
    with session.err.status(f"drawing surfaces: {', '.join(categories)}"):
        return drawn(
            keep / "surfaces", categories, plan.seed, lambda line: session.err.print(line, markup=False)
        )


def _draw(plan: Plan, client: Client, outcome: Outcome) -> Iterator[str]:
    """Write the pictures of one category; yield their names."""
    material = outcome.material
    kind = "synthetic images" if plan.data is None else "images given"
    columns = [
        rendering.Inspected(
            portrait.image.parent.name,
            portrait.image.stem,
            rendering.decoded(portrait.image.read_bytes()),
            _opened(portrait.mask),
            portrait.inspection,
        )
        for portrait in trial.portraits(client, material, outcome.model)
    ]
    if columns:
        title = f"{material.id} by {short(outcome.model.name)} ({kind})"
        rendering.sheet(title, columns).save(plan.output / f"heatmaps-{material.id}.png")
        yield f"heatmaps-{material.id}.png"
    for lookup in outcome.lookups:
        query = rendering.Query(
            lookup.image.name,
            rendering.decoded(lookup.image.read_bytes()),
            lookup.class_name,
            lookup.inspection,
        )
        side = "good" if lookup.class_name == "good" else "defective"
        name = f"alike-{material.id}-{side}.png"
        rendering.montage(query, lookup.hits).save(plan.output / name)
        yield name


def _opened(mask: Path | None) -> Image.Image | None:
    return None if mask is None else rendering.decoded(mask.read_bytes())
