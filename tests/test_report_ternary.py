"""A triangle of three models on the page: measured points, linear values between them, and numbers inside it."""

from math import nan

import numpy as np
import pytest

from isthmus.report.surface import Surface
from isthmus.report.surface_maps import map_figure
from isthmus.report.surface_space import space_figure
from isthmus.report.ternary import between, flat, raster, triangles
from isthmus.table import Table
from surface_example import loss, surface


def mesh_of(held):
    return next(trace for trace in space_figure(held, "test_loss")[0]["data"] if trace["type"] == "mesh3d")


def test_a_triangle_in_space_is_made_of_its_measured_points():
    held = surface(triangle=True)
    assert len(triangles(held)) == 16  # 4 x 4 small ones
    mesh = mesh_of(held)
    assert mesh["z"] == [row["test_loss"] for row in held.table.rows()]
    assert list(zip(mesh["x"], mesh["y"], strict=True)) == [flat(at) for at in held.points]
    assert len(mesh["i"]) == len(mesh["j"]) == len(mesh["k"]) == 16
    lost = surface(triangle=True, lose={(0.0, 0.0): nan}.items())
    mesh = mesh_of(lost)
    assert len(mesh["i"]) == 15  # the one at that corner is gone


def test_between_measured_points_of_a_triangle_values_are_linear():
    held = surface(triangle=True)
    rows = [{**row, "test_loss": 3 * row["u"] - row["v"]} for row in held.table.rows()]
    plane = Surface.of(Table.of(rows, held.table.columns, held.table.meta))
    panel = raster(plane, "test_loss")
    inside = 0
    for row in panel.table.rows():
        v = row["y"] / flat((0, 1))[1]
        u = row["x"] - v / 2
        if u >= 0 and u + v <= 1:
            inside += 1
            assert row["test_loss"] == pytest.approx(3 * u - v, abs=1e-5)
    assert inside > 500
    assert np.isnan(between(plane, "test_loss", np.array([[0.0, 0.5]]))).all()  # outside


def test_numbers_of_contours_stand_inside_the_triangle():
    figure = map_figure(surface(triangle=True, count=9), "test_loss")
    contour, texts = figure["data"][:2]
    assert contour["contours"]["showlabels"] is False
    linear, log = (button["args"][0] for button in figure["layout"]["updatemenus"][0]["buttons"])
    for x, y, text in (
        (texts["x"], texts["y"], texts["text"]),
        *((c["x"][1], c["y"][1], c["text"][1]) for c in (linear, log)),
    ):
        assert len(text) > 2
        for a, b, word in zip(x, y, text, strict=True):
            v = b / flat((0, 1))[1]
            u = a - v / 2
            assert min(u, v, 1 - u - v) >= 0
            assert loss(u, v) == pytest.approx(float(word), abs=0.06)
    assert linear["contours.showlabels"] == [False, False]
