"""`robust-surfaces`: robustness over surfaces whose corners are two regular and two adversarially trained models."""

from collections.abc import Sequence

from isthmus.plots import PatchPanel, patches_figure
from isthmus.recipes.robust_surfaces_cells import ABOUT, FLAT, PATCHES, SEEDS, cells
from isthmus.recipes.robust_surfaces_claims import NOTES, claims
from isthmus.recipes.robust_surfaces_tables import TITLES, Found, chosen, tables
from isthmus.recipes.study import Findings, Study, keep_figure, output_of
from isthmus.recipes.surfaces_tables import place
from isthmus.runs import Run
from isthmus.table import Table

DRAWN = ("test_error", "robust_error")


def findings(run: Run, scale: str, seeds: int, done: frozenset[str]) -> Findings:
    """Return what the finished cells say, after drawing the patches."""

    def held(kind: str, file: str, seed: int) -> dict[str, Table]:
        named = {patch: f"{kind}-{patch}-{seed}" for patch in PATCHES}
        return {patch: Table.load(output_of(run, name, file)) for patch, name in named.items() if name in done}

    found = [
        Found(seed, held("scan", "table.json", seed), held("ensemble", "ensemble.json", seed)) for seed in range(seeds)
    ]
    notes = (f"The scale: {ABOUT[scale]}.", *NOTES)
    return Findings(tables(found), tuple(claims(found, seeds)), notes, _figures(run, found))


def _figures(run: Run, found: Sequence[Found]) -> dict[str, str]:
    """Return the figures written: for each seed clean and robust error over every patch, one colour scale for each of the two."""
    files: dict[str, str] = {}
    for one in found:
        panels = [
            PatchPanel(TITLES[patch], table, None if patch == FLAT else place(chosen(table.rows())))
            for patch, table in one.patches.items()
        ]
        for column in DRAWN if panels else ():
            stem = f"robust-surfaces-{column.replace('_', '-')}-{one.seed}"
            files |= keep_figure(run, stem, patches_figure(panels, column=column))
    return files


ROBUST_SURFACES = Study(
    name="robust-surfaces",
    title="Robustness over surfaces between regular and robust models",
    scales=ABOUT,
    seeds=SEEDS,
    cells=cells,
    findings=findings,
)
