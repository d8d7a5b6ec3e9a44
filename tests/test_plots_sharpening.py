"""The figures against the budget: every line is its table's, and no text lies on another."""

from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

import sharpening_example as example
from isthmus._check import InputError
from isthmus.plots import COLUMN, PAGE, save_figure
from isthmus.plots.sharpening import barrier_figure, eigenvalue_figure, similarity_figure
from isthmus.recipes.sharpening_tables import connectivity, similarities, spectra
from isthmus.table import Column, Table

OTHER = (0.0, 2 / 255, 4 / 255, 8 / 255)
MINIMA = [*example.minima(), *example.minima(data="cifar10", budgets=OTHER)]


def tables() -> dict[str, Table]:
    return {data: similarities(MINIMA, data) for data in ("mnist", "cifar10")}


def barrier_table() -> Table:
    return connectivity([*example.joined(((0, 1), (2, 3))), *example.joined(data="cifar10", budgets=OTHER)])


def figures(width: float) -> dict[str, Figure]:
    return {
        "eigenvalues": eigenvalue_figure(spectra(MINIMA), width=width),
        "similarity": similarity_figure(tables(), width=width),
        "barriers": barrier_figure(barrier_table(), width=width),
    }


def lines_of(axis: Axes) -> dict[str, Line2D]:
    return {str(line.get_gid()): line for line in axis.get_lines() if line.get_gid()}


def test_eigenvalues_are_those_of_the_table() -> None:
    table = spectra(MINIMA)
    axes = eigenvalue_figure(table).axes
    assert [axis.get_title() for axis in axes] == ["mnist", "cifar10"]
    for axis in axes:
        rows = [row for row in table.rows() if row["data"] == axis.get_title()]
        lines = lines_of(axis)
        assert set(lines) == {"eigenvalue_1", "eigenvalue_5", "eigenvalue_20", "true_curvature"}
        for name, line in lines.items():
            held = [(row["eps"], row[name]) for row in rows if row[name] is not None]
            assert list(zip(line.get_xdata(), line.get_ydata(), strict=True)) == held
        assert len({line.get_color() for line in lines.values()}) == 4
        assert len({(line.get_linestyle(), line.get_marker()) for line in lines.values()}) == 4
    assert axes[0].get_yscale() == "log"  # from 0.05 to 31
    spread = axes[0].containers[0].lines[2][0].get_segments()[-1]
    assert spread[:, 1].tolist() == pytest.approx([10.5 - 0.5**0.5, 10.5 + 0.5**0.5])
    flat = list(example.minima(growth=1.0, budgets=(0.1, 0.2)))
    few = Table.of(
        [{k: r[k] for k in ("data", "eps", "eigenvalue_1")} for r in spectra(flat).rows()],
        (*spectra(flat).columns[:2], spectra(flat).column("eigenvalue_1")),
    )
    alone = eigenvalue_figure(few)
    assert (alone.axes[0].get_yscale(), alone.get_size_inches()[0]) == ("linear", COLUMN)


def test_similarities_begin_at_the_floor_and_stand_beside_the_papers() -> None:
    held = tables()
    figure = similarity_figure(held)
    axis = figure.axes[0]
    lines = lines_of(axis)
    assert len(lines) == 4 * 4
    for eps in (0.1, 0.2, 0.3, 0.4):
        for kind, style in (("eigenvector", "-"), ("random", "--")):
            line = lines[f"{kind}, {eps:.4g}"]
            rows = [r for r in held["mnist"].rows() if r["eps"] == eps and r["direction"] == kind and r["amount"]]
            assert list(line.get_xdata()) == [0.0, *(r["amount"] for r in rows)]
            assert list(line.get_ydata()) == pytest.approx([0.9, *(r["cosine"] for r in rows)])
            assert line.get_linestyle() == style
            theirs = lines[f"paper, {kind}, {eps:.4g}"]
            wanted = [r for r in held["mnist"].rows() if r["eps"] == eps and r["direction"] == kind]
            assert list(theirs.get_ydata()) == [r["paper_cosine"] for r in wanted]
            assert theirs.get_linestyle() == "None"
    colours = [lines[f"eigenvector, {eps:.4g}"].get_color() for eps in (0.1, 0.2, 0.3, 0.4)]
    assert len(set(colours)) == 4
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["0.1", "0.2", "0.3", "0.4"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "top eigenvector",
        "random direction",
        "the paper's",
    ]
    bare = Table(
        held["mnist"].frame[["eps", "direction", "amount", "cosine"]], (*held["mnist"].columns[:3], Column("cosine"))
    )
    assert len(similarity_figure({"mnist": bare}).legends[0].get_texts()) == 2


def test_barriers_are_those_of_the_table() -> None:
    table = barrier_table()
    axes = barrier_figure(table).axes
    assert [axis.get_title() for axis in axes] == ["mnist", "cifar10", "", ""]
    assert [axis.get_ylabel() for axis in axes] == ["robust loss\nbarrier (nat)", "", "robust error\nbarrier (%)", ""]
    for axis, (what, data) in zip(axes, [(w, d) for w in ("loss", "error") for d in ("mnist", "cifar10")], strict=True):
        rows = [row for row in table.rows() if row["data"] == data]
        for kind in ("curve", "line"):
            line = lines_of(axis)[f"{kind}_{what}"]
            assert list(line.get_xdata()) == [row["eps"] for row in rows]
            assert list(line.get_ydata()) == pytest.approx([row[f"{kind}_{what}"] for row in rows])


@pytest.mark.parametrize("width", [COLUMN, PAGE])
@pytest.mark.parametrize("name", ["eigenvalues", "similarity", "barriers"])
def test_no_text_lies_on_another_or_outside(monkeypatch: pytest.MonkeyPatch, width: float, name: str) -> None:
    figure = figures(width)[name]
    figure.canvas.draw()  # settles the layout
    drawn, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (drawn.append(text), draw(text, renderer)))
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn if text.get_visible() and text.get_text()]
    assert len(boxes) > 12
    for text, box in boxes:
        assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1, text
    for (one, box), (other, second) in combinations(boxes, 2):
        assert not box.overlaps(second), (one, other)


def test_saved_twice_is_the_same_file(tmp_path: Path) -> None:
    for suffix in ("pdf", "svg"):
        for place in "ab":
            for name, figure in figures(PAGE).items():
                save_figure(figure, tmp_path / f"{name}-{place}.{suffix}")
        for name in ("eigenvalues", "similarity", "barriers"):
            one, other = ((tmp_path / f"{name}-{place}.{suffix}").read_bytes() for place in "ab")
            assert one == other


def test_tables_that_cannot_be_drawn_are_refused() -> None:
    for draw, column in ((eigenvalue_figure, "eigenvalue_1"), (barrier_figure, "curve_loss")):
        with pytest.raises(InputError, match=rf"`table` should have a column '{column}'. Found data, eps"):
            draw(Table.of([{"data": "a", "eps": 0.1}], [Column("data"), Column("eps")]))
        with pytest.raises(InputError, match=r"`table` should have rows. Found none"):
            draw(Table.of([], [Column("data"), Column("eps"), Column(column)]))
    with pytest.raises(InputError, match=r"`tables` should hold at least one data set. Found none"):
        similarity_figure({})
    with pytest.raises(InputError, match=r"`tables` should have rows. Found none"):
        similarity_figure({"a": similarities([], "a")})
    with pytest.raises(InputError, match=r"`table` should have a column 'direction'. Found eps"):
        similarity_figure({"a": Table.of([{"eps": 0.1}], [Column("eps")])})


def test_amounts_and_small_budgets_are_named() -> None:
    mnist, cifar = similarity_figure(tables()).axes
    assert [text.get_text() for text in cifar.get_legend().get_texts()] == ["2/255", "4/255", "8/255"]
    assert mnist.get_xticks().tolist() == [0.0, 0.05, 0.1]
    assert [text.get_text() for text in mnist.get_xticklabels()] == ["0", "0.05", "0.1"]
    wide = Table.of(
        [{"eps": 0.1, "direction": "random", "amount": a, "cosine": 0.5} for a in (0.0, 0.01, 0.03, 0.1)],
        [Column("eps"), Column("direction"), Column("amount"), Column("cosine")],
    )
    axis = similarity_figure({"a": wide}).axes[0]
    assert axis.get_xticks().tolist() == [0.0, 0.01, 0.1]
    assert axis.get_xticks(minor=True).tolist() == [0.03]
    assert axis.get_xlim()[0] < 0
