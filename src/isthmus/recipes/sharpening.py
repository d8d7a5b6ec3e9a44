"""`sharpening`: how the loss landscape changes with the adversary's budget (Liu et al. 2020, section 4 and appendix C)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from isthmus.files import read_json
from isthmus.plots import (
    SpectrumLine,
    barrier_figure,
    eigenvalue_figure,
    landscape_figure,
    similarity_figure,
    spectrum_figure,
)
from isthmus.plots.sharpening import budget_text
from isthmus.recipes.sharpening_cells import ABOUT, BLOCKS, SEEDS, Block, cells, minima_of, name, path, paths_of
from isthmus.recipes.sharpening_claims import BARRIERS, SPECTRA, summarise
from isthmus.recipes.sharpening_tables import Curvature, Joined, Minimum
from isthmus.recipes.study import Findings, Study, keep_figure, output_of
from isthmus.recipes.train import Trained
from isthmus.report.landscape import Landscape
from isthmus.runs import Run
from isthmus.table import Table


def findings(run: Run, scale: str, seeds: int, done: frozenset[str]) -> Findings:
    """Return what the finished cells say, after drawing them."""
    blocks = BLOCKS[scale]
    minima = [_minimum(run, *key, done) for key in minima_of(scale, seeds) if name(*key) in done]
    joined = [
        Joined(
            block.data, eps, pair, "line" if kind == "line" else "curve", Table.load(output_of(run, scan, "table.json"))
        )
        for block, eps, pair, kind in paths_of(scale, seeds)
        if (scan := f"scan-{path(block, eps, pair, kind)}") in done
    ]
    found = summarise(minima, joined, seeds=seeds, budgets={block.data: len(block.budgets) for block in blocks})
    files = _draw(found, minima, run) | _landscapes(run, blocks, done)
    return replace(found, files=files, notes=(f"The scale: {ABOUT[scale]}.", *found.notes))


def _minimum(run: Run, block: Block, eps: float, seed: int, done: frozenset[str]) -> Minimum:
    cell = name(block, eps, seed)
    record = Trained.model_validate(read_json(output_of(run, cell, "metrics.json")))
    curvature = scattering = None
    if f"spectrum-{cell}" in done:
        document = read_json(output_of(run, f"spectrum-{cell}", "curvature.json"))
        curvature = Curvature.read(cast(Mapping[str, object], document))
    if f"scatter-{cell}" in done:
        scattering = Table.load(output_of(run, f"scatter-{cell}", "scattering.json"))
    return Minimum(block.data, eps, seed, record, curvature, scattering)


def _draw(found: Findings, minima: Sequence[Minimum], run: Run) -> dict[str, str]:
    """Return the figures that there is anything for, written."""
    held = {title: table for title, table in found.tables.items() if len(table)}
    files: dict[str, str] = {}
    similar: dict[str, Table] = {}
    for data in dict.fromkeys(m.data for m in minima):
        if lines := _spectra(minima, data):
            files |= keep_figure(run, f"sharpening-spectra-{data}", spectrum_figure(lines))
        if (title := f"Similarity of perturbations, {data}") in held:
            similar[data] = held[title]
    if SPECTRA in held:
        files |= keep_figure(run, "sharpening-eigenvalues", eigenvalue_figure(held[SPECTRA]))
    if similar:
        files |= keep_figure(run, "sharpening-similarity", similarity_figure(similar))
    if BARRIERS in held:
        files |= keep_figure(run, "sharpening-barriers", barrier_figure(held[BARRIERS]))
    return files


def _spectra(minima: Sequence[Minimum], data: str) -> list[SpectrumLine]:
    """Return one line for each budget on a data set, its seeds together."""
    held = [m for m in minima if m.data == data]
    runs = {
        eps: tuple(m.curvature.eigenvalues for m in held if m.eps == eps and m.curvature is not None)
        for eps in sorted({m.eps for m in held})
    }
    return [SpectrumLine(data, f"budget {budget_text(eps)}", found) for eps, found in runs.items() if found]


def _landscapes(run: Run, blocks: tuple[Block, ...], done: frozenset[str]) -> dict[str, str]:
    """Return one figure for each data set, its budgets side by side on one colour scale, written."""
    files: dict[str, str] = {}
    for block in blocks:
        held = {eps: f"landscape-{name(block, eps, 0)}" for eps in block.budgets}
        panels = [
            Landscape(f"budget {budget_text(eps)}", own_loss(Table.load(output_of(run, cell, "landscape.json"))))
            for eps, cell in held.items()
            if cell in done
        ]
        if panels:
            files |= keep_figure(run, f"sharpening-landscape-{block.data}", landscape_figure(panels))
    return files


def own_loss(table: Table) -> Table:
    """Return a landscape with the loss it was trained on as `robust_loss`: without a budget that is the clean one."""
    if "robust_loss" in table.names or "test_loss" not in table.names:
        return table
    columns = tuple(replace(c, name="robust_loss") if c.name == "test_loss" else c for c in table.columns)
    return Table(table.frame.rename(columns={"test_loss": "robust_loss"}), columns, table.meta)


SHARPENING = Study(
    name="sharpening",
    title="The loss landscape by the adversary's budget (Liu et al. 2020)",
    scales=ABOUT,
    seeds=SEEDS,
    cells=cells,
    findings=findings,
)
