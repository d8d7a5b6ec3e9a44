"""The figure of spectra: every line is its runs' mean, bands their range, axes have units, and no text lies on another."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from isthmus._check import InputError
from isthmus.plots.spectrum import SpectrumLine, spectrum_figure
from isthmus.plots.style import COLUMN, PAGE
from isthmus.report.curvature import CurvatureDocument
from spectrum_example import curvature, density, pairs

BUDGETS = ("0", "0.1", "0.2", "0.3", "0.4")
PANELS = ("LeNet, MNIST", "ResNet18, CIFAR-10")


def documents(scale: float, runs=(0.8, 1.0, 1.5), **more: object) -> list[CurvatureDocument]:
    return [
        CurvatureDocument.model_validate(curvature(**pairs(scale * run), density=density(scale), **more))
        for run in runs
    ]


def lines(budgets=BUDGETS, panels=PANELS, **more: object) -> list[SpectrumLine]:
    return [
        SpectrumLine.of(panel, f"ε = {name}", documents((place + 1) ** 2, **more))
        for panel in panels
        for place, name in enumerate(budgets)
    ]


@pytest.fixture(scope="module")
def whole() -> Figure:
    return spectrum_figure(lines())


def test_every_line_is_the_mean_and_every_band_the_range_of_its_runs(whole: Figure) -> None:
    assert len(whole.axes) == 4
    axis = whole.axes[1]
    drawn = {line.get_gid(): line for line in axis.get_lines()}
    assert list(drawn) == [f"ε = {name}" for name in BUDGETS]
    top = np.array(pairs()["eigenvalues"])
    np.testing.assert_allclose(drawn["ε = 0.2"].get_ydata(), 9 * 1.1 * top)
    assert list(drawn["ε = 0.2"].get_xdata()) == list(range(1, 21))
    band = axis.collections[2].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((9 * 0.8 * top.min(), 9 * 1.5 * top.max()))
    density_line = whole.axes[3].get_lines()[0]
    assert list(density_line.get_ydata()) == density()["values"]
    band = whole.axes[3].collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(max(density()["high"]))


def test_axes_are_shared_logarithmic_and_have_units(whole: Figure) -> None:
    first, second, third, fourth = whole.axes
    assert first.get_ylim() == second.get_ylim()
    assert third.get_ylim() == fourth.get_ylim()
    assert [axis.get_yscale() for axis in whole.axes] == ["log"] * 4
    assert first.get_ylabel() == "eigenvalue (nat/weight²)"
    assert third.get_ylabel() == "share of eigenvalues\nper nat/weight²"
    assert {axis.get_xlabel() for axis in (third, fourth)} == {"eigenvalue (nat/weight²)"}
    assert [axis.get_title() for axis in (first, second)] == list(PANELS)


def test_a_label_looks_alike_everywhere_and_differs_without_colour(whole: Figure) -> None:
    looks = [
        [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axis.get_lines()]
        for axis in whole.axes[:2]
    ]
    assert looks[0] == looks[1]
    assert len({look[1:] for look in looks[0]}) == len(BUDGETS)


def test_without_densities_there_is_one_row_and_a_small_range_is_linear() -> None:
    held = [SpectrumLine("a", name, ((3.0, 2.0),)) for name in ("x", "y")]
    figure = spectrum_figure(held, width=COLUMN)
    assert len(figure.axes) == 1
    assert figure.axes[0].get_yscale() == "linear"
    assert figure.axes[0].get_ylim()[0] == 0
    assert len(figure.axes[0].collections) == 0  # a single run has no band
    assert spectrum_figure([SpectrumLine("a", "x", ((3.0, -2.0),))]).axes[0].get_ylim()[0] < -2
    assert spectrum_figure(held, width=PAGE).get_figwidth() == PAGE


@pytest.mark.parametrize("width", [COLUMN, PAGE])
def test_no_text_lies_on_another(width: float, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = spectrum_figure(lines(panels=PANELS if width == PAGE else PANELS[:1]), width=width)
    figure.canvas.draw()  # settles the layout
    drawn, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (drawn.append(text), draw(text, renderer)))
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn if text.get_visible() and text.get_text()]
    assert len(boxes) > 15
    for text, box in boxes:
        assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1, text
    for (one, box), (other, second) in combinations(boxes, 2):
        assert not box.overlaps(second), (one, other)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match=r"`lines` should hold at least one spectrum. Found none"):
        spectrum_figure([])
    one = SpectrumLine("a", "x", ((1.0,),))
    with pytest.raises(InputError, match=r"`lines` should have each label once in a panel. Found \('a', 'x'\) twice"):
        spectrum_figure([one, one])
    with pytest.raises(
        InputError, match=r"`eigenvalues` should be one or more, equally many in each run. Found \[1, 2\]"
    ):
        SpectrumLine("a", "x", ((1.0,), (1.0, 2.0)))
    with pytest.raises(InputError, match=r"`eigenvalues` should be one or more"):
        SpectrumLine("a", "x", ((),))
    with pytest.raises(InputError, match=r"`eigenvalues` should be finite. Found some that are not in a, x"):
        SpectrumLine("a", "x", ((float("nan"),),))
    with pytest.raises(InputError, match=r"`width` should be a positive number of inches"):
        spectrum_figure([one], width=0.0)
