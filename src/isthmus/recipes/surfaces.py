"""`surfaces`: Bezier surfaces between four models against the flat patch and against as much training spent otherwise (Ren et al. 2025)."""

from collections.abc import Sequence

from isthmus.files import read_json
from isthmus.plots import PatchPanel, patches_figure
from isthmus.recipes.connect import Connected
from isthmus.recipes.study import Findings, Study, keep_figure, output_of
from isthmus.recipes.surfaces_cells import (
    BILINEAR,
    ENSEMBLES,
    MATCHED,
    PATCHES,
    SURFACE,
    cell,
    cells,
    corner,
    ensemble,
)
from isthmus.recipes.surfaces_claims import NOTES, claims
from isthmus.recipes.surfaces_scales import ABOUT, CORNERS, SEEDS, SIZES, Block
from isthmus.recipes.surfaces_standing import standings
from isthmus.recipes.surfaces_tables import (
    TITLES,
    Found,
    by_mode,
    chosen,
    over_edges,
    over_patches,
    place,
    spreads,
)
from isthmus.recipes.train import Trained
from isthmus.runs import Run
from isthmus.table import Table

DRAWN = (BILINEAR, SURFACE, MATCHED)
OVER, EDGES, STANDINGS = "Over each patch", "Along its edges", "Single models and ensembles"
SPREADS, MODES = "How far apart the corners are", "Counted in training mode"


def findings(run: Run, scale: str, seeds: int, done: frozenset[str]) -> Findings:
    """Return what the finished cells say, after drawing the patches."""
    size = SIZES[scale]
    found = [_read(run, block, seed, done) for seed in range(seeds) for block in size.blocks]
    tables = {
        OVER: over_patches(found),
        STANDINGS: standings(found),
        EDGES: over_edges(found),
        MODES: by_mode(found),
        SPREADS: spreads(found),
    }
    made = claims(found, [block.name for block in size.blocks], seeds)
    return Findings(tables, made, (f"The scale: {ABOUT[scale]}.", *NOTES), _figures(run, found))


def _read(run: Run, block: Block, seed: int, done: frozenset[str]) -> Found:
    """Return what there is of one architecture and seed."""

    def table(kind: str, file: str = "table.json") -> Table | None:
        name = cell(kind, block, seed)
        return Table.load(output_of(run, name, file)) if name in done else None

    def held(kind: str) -> dict[str, Table]:
        named = {patch.name: table(f"{kind}-{patch.name}") for patch in PATCHES}
        return {name: one for name, one in named.items() if one is not None}

    compared = {key: table(ensemble(*key), "ensemble.json") for key in ENSEMBLES}
    joined = {
        patch.name: Connected.model_validate(read_json(output_of(run, cell(patch.name, block, seed), "connect.json")))
        for patch in PATCHES
        if cell(patch.name, block, seed) in done
    }
    return Found(
        block=block.name,
        seed=seed,
        patches=held("scan"),
        areas={name: area for name, one in joined.items() if (area := one.geometry.get("area")) is not None},
        in_training_mode=held("batch"),
        ensembles={key: one for key, one in compared.items() if one is not None},
        alone=table("scan-alone"),
        run=table("soup", "ensemble.json"),
        gradients=(_gradients(run, block, seed, done), _trained(joined.get(SURFACE))),
    )


def _gradients(run: Run, block: Block, seed: int, done: frozenset[str]) -> int | None:
    """Return the gradients that a corner took."""
    names = [name for k in range(CORNERS) if (name := corner(block, seed, k)) in done]
    if not names:
        return None
    return Trained.model_validate(read_json(output_of(run, names[0], "metrics.json"))).gradient_evaluations


def _trained(joined: Connected | None) -> int | None:
    return None if joined is None or joined.training is None else joined.training.gradient_evaluations


def _figures(run: Run, found: Sequence[Found]) -> dict[str, str]:
    """Return the figures written: for each architecture and seed the flat patch beside trained surfaces."""
    files: dict[str, str] = {}
    for one in found:
        shown = [name for name in DRAWN if name in one.patches]
        panels = [
            PatchPanel(TITLES[name], one.patches[name], place(chosen(one.patches[name].rows()))) for name in shown
        ]
        if panels:
            files |= keep_figure(run, f"surfaces-{one.block}-{one.seed}", patches_figure(panels))
    return files


SURFACES = Study(
    name="surfaces",
    title="Surfaces between four models (Ren et al. 2025, reduced)",
    scales=ABOUT,
    seeds=SEEDS,
    cells=cells,
    findings=findings,
)
