"""A scan over four vertices and more: faces, edges and points are the table's, by the shares of its vertices."""

import json
import re
from itertools import combinations
from math import nan

import numpy as np
import plotly.graph_objects as go
import pytest

from isthmus._check import InputError
from isthmus.geometry.domain import lattice
from isthmus.geometry.flat import Barycentric
from isthmus.geometry.simplexes import Complex, Triangle
from isthmus.geometry.text import describe
from isthmus.plots import faces_figure, pairs_figure
from isthmus.report.landscape import Scale
from isthmus.report.scan_page import ScanReport, scan_page
from isthmus.report.simplex import Simplex, is_simplex
from isthmus.report.simplex_figure import mixed, mixing_figure
from isthmus.report.simplex_figure import pairs_figure as pairs
from isthmus.report.surface import Surface, is_surface
from isthmus.report.surface_maps import map_figure
from isthmus.scan import coordinate_names
from isthmus.table import Column, Table
from page_reader import own, read


def loss(weights) -> float:
    """0.1, 0.2, 0.3, ... at the vertices, a hill of height k + m on the edge of vertices k and m (counted from 1)."""
    held = list(enumerate(weights, start=1))
    return sum(0.1 * k * w for k, w in held) + sum(4 * (k + m) * a * b for (k, a), (m, b) in combinations(held, 2))


def scanned(basis, count=5, *, names=None, lose=(), chosen=None) -> Table:
    axes = coordinate_names(basis.dim)
    points = lattice(basis, [count] * basis.dim).tolist()
    rows = []
    for u in points:
        value = loss((1 - sum(u), *u))
        rows.append({**dict(zip(axes, u, strict=True)), "test_loss": value, "recovery_accuracy": 100 - value})
        if tuple(u) in lose:
            rows[-1]["test_loss"] = nan
    given = [u for u, _ in basis.corners]
    named = names or [f"runs/{'abcdef'[k]}/model.safetensors" for k in range(len(given))]
    meta = {
        "bridge": "runs/x",
        "basis": describe(basis),
        "corners": [{"name": name, "at": list(u)} for name, u in zip(named, given, strict=True)],
    }
    if chosen is not None:
        meta["chosen"] = {"u": list(chosen), "rule": "highest accuracy", "candidates": len(points)}
    columns = [
        Column("test_loss", "nat", "lower", "test", 100),
        Column("recovery_accuracy", "%", "higher", "test", 100),
    ]
    return Table.of(rows, [*(Column(axis) for axis in axes), *columns], meta)


FLAT = Barycentric(4)


def test_vertices_are_lettered_and_shares_sum_to_one():
    held = Simplex.of(scanned(FLAT))
    assert held.names == {"A": "a", "B": "b", "C": "c", "D": "d"}
    assert held.corners == held.vertices
    assert all(sum(shares.values()) == pytest.approx(1) for shares in held.shares.values())
    assert held.shares[0.25, 0.0, 0.5] == {"A": 0.25, "B": 0.25, "D": 0.5}
    star = Simplex.of(scanned(Complex(3, 1)))
    assert star.names == {"A": "a", "B": "b", "C": "c", "D": "trained 4"}
    assert list(star.corners) == ["A", "B", "C"]


def test_a_face_holds_the_points_of_three_vertices():
    held = Simplex.of(scanned(FLAT, chosen=(0.0, 0.25, 0.75)))
    assert [tuple(face.corners) for face in held.faces] == [tuple(three) for three in combinations("ABCD", 3)]
    for face in held.faces:
        assert len(face.points) == 15
        assert face.triangle
        places = ["ABCD".index(letter) for letter in face.corners]
        for (u, v), row in face.points.items():
            weights = [0.0] * 4
            for place, share in zip(places, (1 - u - v, u, v), strict=True):
                weights[place] = share
            assert row["test_loss"] == pytest.approx(loss(weights))
    marks = {"".join(face.corners): face.choice and face.choice.u for face in held.faces}
    assert marks == {"ABC": None, "ABD": None, "ACD": (0.25, 0.75), "BCD": (0.25, 0.75)}


def test_worst_along_an_edge_is_that_of_the_closed_form():
    held = Simplex.of(scanned(FLAT))
    for (i, one), (k, other) in combinations(enumerate("ABCD", start=1), 2):
        t = [0, 0.25, 0.5, 0.75, 1]
        values = [0.1 * i * (1 - s) + 0.1 * k * s + 4 * (i + k) * s * (1 - s) for s in t]
        value, place = held.worst(one, other, "test_loss")
        assert (value, place) == (pytest.approx(max(values)), t[int(np.argmax(values))])
        assert held.worst(one, other, "recovery_accuracy")[0] == pytest.approx(100 - max(values))  # more is better
        assert [v for _, v in held.edge(one, other, "test_loss")] == pytest.approx(values)
    star = Simplex.of(scanned(Complex(3, 1)))
    assert star.worst("A", "B", "test_loss") is None
    assert star.worst("A", "D", "test_loss")[1] == 0.5
    assert star.faces == []
    assert Simplex.of(scanned(FLAT, 2)).faces == []  # nothing between the vertices
    assert Simplex.of(scanned(FLAT, 2)).worst("A", "B", "test_loss") is None


def test_of_many_faces_those_with_the_worst_values_are_drawn():
    held = Simplex.of(scanned(Barycentric(6), 3))
    assert len(held.faces) == 20
    kept = held.drawn("test_loss")
    tops = {tuple(face.corners): max(row["test_loss"] for row in face.points.values()) for face in held.faces}
    best = sorted(tops, key=lambda three: -tops[three])[:10]
    assert {tuple(face.corners) for face in kept} == set(best)
    assert len(Simplex.of(scanned(Barycentric(5), 3)).drawn("test_loss")) == 10


def test_which_tables_are_drawn_as_what():
    assert is_simplex(scanned(FLAT))
    assert is_simplex(scanned(Complex(1, 3)))
    branches = scanned(Complex(2, 1))  # u and v, but no two models in one simplex
    assert is_simplex(branches)
    assert not is_surface(branches)
    for basis in (Triangle(2), Complex(1, 2), Barycentric(3)):
        table = scanned(basis)
        assert not is_simplex(table)
        assert Surface.of(table).triangle
    grown = Surface.of(scanned(Complex(1, 2)))
    assert [corner.name for corner in grown.corners.values()][1:] == ["trained 2", "trained 3"]
    go.Figure(json.loads(re.sub(r"var:[a-z-]+", "#123456", json.dumps(map_figure(grown, "test_loss")))))
    with pytest.raises(InputError, match=r"`table` should be of a scan over a simplex of four and more vertices"):
        Simplex.of(scanned(Barycentric(3)))


def test_figures_are_the_table():
    held = Simplex.of(scanned(FLAT, chosen=(0.25, 0.25, 0.25)))
    (heat,) = pairs(held, "test_loss")["data"]
    assert heat["z"][0][0] == pytest.approx(0.1)
    assert heat["z"][1][3] == heat["z"][3][1] == pytest.approx(held.worst("B", "D", "test_loss")[0])
    assert heat["customdata"][1][3].startswith("B to D: ")
    assert heat["y"] == ["A a", "B b", "C c", "D d"]
    star = pairs(Simplex.of(scanned(Complex(3, 1))), "test_loss")["data"][0]
    assert (star["z"][0][1], star["text"][0][1]) == (None, "")
    points, given, chosen = mixing_figure(held, "test_loss")["data"]
    assert (len(given["x"]), set(given["x"])) == (4, {1.0})
    assert (chosen["x"], chosen["y"]) == ([pytest.approx(4.0)], [pytest.approx(loss([0.25] * 4))])
    assert len(points["x"]) == len(held.points) - 5
    assert mixed({"A": 0.5, "B": 0.25, "C": 0.25}) == pytest.approx(8 / 3)
    face = held.faces[0]
    wide = Scale(0.0, 9.0, 0.1, "nat")
    assert map_figure(face, "test_loss", wide)["data"][0]["zmax"] != map_figure(face, "test_loss")["data"][0]["zmax"]


def test_the_page_has_the_pictures_and_is_whole():
    table = scanned(FLAT, lose=[(0.0, 0.0, 0.0)], chosen=(0.25, 0.25, 0.25))
    code = scan_page(ScanReport(table))
    ids = [attributes["id"] for tag, attributes in read(code).tags if tag == "section"]
    assert ids[:5] == ["vertices", "pairs", "faces", "mixing", "values"]
    figures = [json.loads(data) for data in re.findall(r'id="plot-\d+-data">(.*?)</script>', own(code))]
    assert len(figures) == 2 * (1 + 4 + 1)
    for figure in figures:
        go.Figure(json.loads(re.sub(r"var:[a-z-]+", "#123456", json.dumps(figure))))
    tops = {figure["data"][0]["zmax"] for figure in figures[2:6]}
    assert len(tops) == 1  # one scale
    text = " ".join(read(code).text)
    assert "1 of 35" in text  # not finite
    assert "Values between the measured points are drawn, not measured." in text
    evil = scanned(FLAT, names=[f"<b>{k}</b>" for k in range(4)])
    assert "<b>1</b>" not in own(scan_page(ScanReport(evil)))
    many = " ".join(read(scan_page(ScanReport(scanned(Barycentric(6), 3)))).text)
    assert "Of 20 faces the 10 with the worst values are drawn." in many
    bare = Table.of(
        [{"u1": 0.0, "u2": 0.0, "u3": 0.0}], [Column(f"u{k}") for k in (1, 2, 3)], {"basis": describe(FLAT)}
    )
    assert 'id="pairs"' not in own(scan_page(ScanReport(bare)))


def test_figures_for_papers():
    held = Simplex.of(scanned(FLAT, 9))
    figure = faces_figure(held)
    panels = figure.axes[:4]
    assert {"A a", "B b", "C c"} <= {text.get_text() for text in panels[0].texts}
    assert {"share of B", "share of C", "share of D"} <= {text.get_text() for text in panels[3].texts}
    assert figure.axes[4].get_ylabel() == "loss, test (nat)"
    assert faces_figure(held, column="recovery_accuracy", width=4.0).get_figwidth() == 4.0
    levels = [faces_figure(held, log=log).axes[-1].get_yticks().tolist() for log in (False, True)]
    assert levels[0] != levels[1]
    cells = [text.get_text() for text in pairs_figure(held, column="recovery_accuracy").axes[0].texts]
    assert cells[1] == f"{held.worst('A', 'B', 'recovery_accuracy')[0]:.1f}"
    assert len(pairs_figure(Simplex.of(scanned(Complex(3, 1))), width=3.0).axes[0].texts) == 4 + 6
    with pytest.raises(InputError, match=r"`column` should be .* Found 'x'"):
        pairs_figure(held, column="x")
    with pytest.raises(InputError, match=r"`simplex` should have a face with measured edges"):
        faces_figure(Simplex.of(scanned(Complex(3, 1))))
    every = [tuple(u) for u in lattice(FLAT, [2] * 3).tolist()]
    lost = scanned(FLAT, 2, lose=every)
    rows = [{**row, "recovery_accuracy": None} for row in lost.rows()]
    with pytest.raises(InputError, match=r"`simplex` should have a column to draw\. Found none"):
        pairs_figure(Simplex.of(Table.of(rows, lost.columns, lost.meta)))
    edge = [tuple(u) for u in lattice(FLAT, [5] * 3).tolist() if sum(w > 0 for w in (1 - sum(u), *u)) < 3]
    with pytest.raises(InputError, match=r"`simplex` should have a finite value at a vertex or on an edge"):
        pairs_figure(Simplex.of(scanned(FLAT, lose=edge)))
