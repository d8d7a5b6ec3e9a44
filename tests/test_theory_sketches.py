"""The figure of the sketches, from a table alone."""

import pytest
import torch

from isthmus._check import InputError
from isthmus.plots.sketches import sketch_figure
from isthmus.table import Column, Table
from isthmus.theory.smooth import sketch


def table(*budgets: float, points: int = 5) -> Table:
    theta = torch.linspace(-2, 2, points, dtype=torch.float64)
    rows = list[dict[str, float]]()
    for eps in budgets:
        at = sketch(theta, eps)
        values = zip(theta.tolist(), at.loss.tolist(), at.left.tolist(), at.right.tolist(), strict=True)
        rows += [dict(zip(("eps", "theta", "loss", "left", "right"), (eps, *row), strict=True)) for row in values]
    return Table.of(rows, [Column(name) for name in ("eps", "theta", "loss", "left", "right")])


def test_the_derivative_is_drawn_in_two_pieces_with_the_jump_marked() -> None:
    figure = sketch_figure(table(0.0, 0.6, 1.2), width=5.0)
    loss, slope = figure.axes
    assert figure.get_figwidth() == 5.0
    assert [text.get_text() for text in loss.get_legend().get_texts()] == [
        "$\\epsilon$ = 0",
        "$\\epsilon$ = 0.6",
        "$\\epsilon$ = 1.2",
    ]
    jumps = {line.get_gid(): list(line.get_ydata()) for line in slope.get_lines() if "jump" in str(line.get_gid())}
    assert set(jumps) == {"jump 0.6", "jump 1.2"}
    assert jumps["jump 1.2"] == pytest.approx([-0.1, 1.1])
    assert list(loss.get_lines()[1].get_ydata()) == sketch(torch.linspace(-2, 2, 5).double(), 0.6).loss.tolist()


def test_bad_tables() -> None:
    lacking = Table.of([{"eps": 0.0}], [Column("eps")])
    with pytest.raises(InputError, match=r"`table` should have a column 'theta'. Found eps"):
        sketch_figure(lacking)
    with pytest.raises(InputError, match=r"`table` should have a row at theta = 0 for eps 0.6. Found none"):
        sketch_figure(table(0.6, points=4))
    with pytest.raises(InputError, match=r"`table` should hold 1 to 3 budgets. Found 4"):
        sketch_figure(table(0.0, 0.1, 0.2, 0.3))
    whole = table(0.6)
    hole = Table.of([*whole.rows(), {"eps": 0.6, "theta": 9.0}], whole.columns)
    with pytest.raises(InputError, match=r"`table` should have no missing values. Found some"):
        sketch_figure(hole)
