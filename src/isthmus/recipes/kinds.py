"""`KINDS`: the recipes that a cell of a study can hold, and what a study has to know of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from isthmus.recipes.adaptive import EvadeRecipe, run_evade
from isthmus.recipes.align import AlignRecipe, run_align
from isthmus.recipes.connect import ConnectRecipe, run_connect
from isthmus.recipes.curvature import run_curvature
from isthmus.recipes.curvature_parts import CurvatureRecipe
from isthmus.recipes.ensemble import run_ensemble
from isthmus.recipes.ensemble_members import EnsembleRecipe
from isthmus.recipes.inspect import InspectRecipe, run_inspect
from isthmus.recipes.landscape import run_landscape
from isthmus.recipes.landscape_recipe import LandscapeRecipe
from isthmus.recipes.repair import RepairRecipe, run_repair
from isthmus.recipes.scan import ScanRecipe, run_scan
from isthmus.recipes.scattering import ScatterRecipe, run_scatter
from isthmus.recipes.tamper import TamperRecipe, run_tamper
from isthmus.recipes.train import TrainRecipe, run_train
from isthmus.runs import Run
from isthmus.training.session import Session

Part = (
    TrainRecipe
    | EvadeRecipe
    | ConnectRecipe
    | AlignRecipe
    | ScanRecipe
    | CurvatureRecipe
    | ScatterRecipe
    | LandscapeRecipe
    | EnsembleRecipe
    | RepairRecipe
    | TamperRecipe
    | InspectRecipe
)


@dataclass(frozen=True)
class Kind:
    """What a study knows of a kind of recipe: the file written last, the settings that are paths of inputs, how it is run.

    precision: of its training, by recipe; None where nothing is trained and no device is chosen.
    """

    result: str
    inputs: tuple[str, ...]
    run: Callable[[Any, Run, Session], object]
    precision: Callable[[Any], Any] | None = None


def _repair(recipe: RepairRecipe, run: Run, session: Session) -> None:
    document = run_repair(recipe, run, session=session)
    run.discard(
        "report.html"
    )  # five megabytes each, in a grid of hundreds; `isthmus report` writes it again from the JSON
    run.finish(document.status, document.reasons)


def _planned(recipe: TrainRecipe | ConnectRecipe) -> str:
    return recipe.plan.precision


KINDS: Mapping[type[Part], Kind] = {
    TrainRecipe: Kind(
        "metrics.json", ("harden",), lambda recipe, run, session: run_train(recipe, run, session=session), _planned
    ),
    EvadeRecipe: Kind(
        "metrics.json",
        ("reference",),
        lambda recipe, run, session: run_evade(recipe, run, session=session),
        lambda recipe: recipe.train.plan.precision,
    ),
    ConnectRecipe: Kind(
        "connect.json", ("models",), lambda recipe, run, session: run_connect(recipe, run, session=session), _planned
    ),
    AlignRecipe: Kind(
        "align.json", ("models",), lambda recipe, run, session: run_align(recipe, run, monitor=session.monitor)
    ),
    ScanRecipe: Kind(
        "table.json", ("bridge",), lambda recipe, run, session: run_scan(recipe, run, monitor=session.monitor)
    ),
    CurvatureRecipe: Kind(
        "curvature.json", ("model",), lambda recipe, run, session: run_curvature(recipe, run, monitor=session.monitor)
    ),
    ScatterRecipe: Kind(
        "scattering.json",
        ("model", "vectors"),
        lambda recipe, run, session: run_scatter(recipe, run, monitor=session.monitor),
    ),
    LandscapeRecipe: Kind(
        "landscape.json",
        ("models", "vectors", "trajectory"),
        lambda recipe, run, session: run_landscape(recipe, run, monitor=session.monitor),
    ),
    EnsembleRecipe: Kind(
        "ensemble.json", ("models",), lambda recipe, run, session: run_ensemble(recipe, run, monitor=session.monitor)
    ),
    RepairRecipe: Kind("report.json", ("suspects", "injected"), _repair, lambda recipe: recipe.precision),
    TamperRecipe: Kind("metrics.json", ("model", "like"), lambda recipe, run, _: run_tamper(recipe, run)),
    InspectRecipe: Kind(
        "inspect.json", ("model",), lambda recipe, run, session: run_inspect(recipe, run, tell=session.tell)
    ),
}
