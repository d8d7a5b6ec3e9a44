"""`robust-surfaces`: what is run, tables by hand, verdicts, and the whole of it at its smallest."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from cli_example import call
from isthmus.recipes.cells import Cell
from isthmus.recipes.robust_surfaces_cells import (
    CORNERS,
    FLAT,
    PATCHES,
    SIZES,
    STANDARD,
    UNDER_ATTACK,
    cells,
)
from isthmus.recipes.robust_surfaces_claims import barred, claims
from isthmus.recipes.robust_surfaces_tables import Found, chosen, tables
from isthmus.table import Column, Table

N = 400
Height = Callable[[float, float], float]
AXIS = (0.0, 0.5, 1.0)


def corner_loss(u: float, _v: float) -> float:
    """Robust loss without a barrier: 6 nat at regular models, 2 at robust ones, linear between."""
    return 6.0 - 4.0 * u


def scanned(
    robust: Height = corner_loss, clean: Height = lambda u, _v: 1.0 + u, chooses: Height | None = None
) -> Table:
    """Nine points; errors are ten times the loss, the eigenvalue is three times the robust loss and one more."""
    rows = [
        {
            "u": u,
            "v": v,
            "test_loss": clean(u, v),
            "test_error": 10 * clean(u, v),
            "robust_loss": robust(u, v),
            "robust_error": 10 * robust(u, v),
            "validation_robust_loss": (chooses or robust)(u, v),
            "validation_robust_error": 10 * (chooses or robust)(u, v),
            "input_eigenvalue": 3 * robust(u, v) + 1,
        }
        for u in AXIS
        for v in AXIS
    ]
    sizes = {"robust_error": N, "robust_loss": N, "input_eigenvalue": 50}
    return Table.of(rows, [Column(name, n=sizes.get(name)) for name in rows[0]])


def bump(height: float) -> Height:
    """A rise in the middle of u = 1, between the two robust models, and of u = 0.5."""
    return lambda u, v: corner_loss(u, v) + (height if v == 0.5 and u > 0 else 0.0)


def compared() -> Table:
    """An attacked comparison: a corner, the middle, two ensembles, a soup that is left out."""
    names = ("name", "test_accuracy", "robust_accuracy", "passes")
    rows = [
        ("u = 0, v = 0", 90.0, 30.0, 1),
        ("u = 0.5, v = 0.5", 80.0, 44.0, 1),
        ("softmax ensemble", 88.0, 60.0, 9),
        ("uniform soup", 70.0, 50.0, 1),
        ("corner ensemble", 89.0, 55.0, 4),
    ]
    return Table.of([dict(zip(names, row, strict=True)) for row in rows], [Column(name) for name in names])


def found(seed: int = 0) -> Found:
    """A standard surface with a robust barrier of 5 nat inside, one under attack with 0.1."""
    patches = {FLAT: scanned(bump(7.0)), STANDARD: scanned(bump(5.0)), UNDER_ATTACK: scanned(bump(0.1))}
    return Found(seed, patches, {UNDER_ATTACK: compared()})


def test_two_regular_and_two_robust_models_at_the_corners():
    held: dict[str, Cell] = {cell.name: cell for wave in cells("small", 2) for cell in wave}
    models = tuple(f"cells/corner-{kind}-1-{k}/model.safetensors" for kind, k in CORNERS)
    attacked = {kind: held[f"corner-{kind}-0-{k}"].recipe.adversary is not None for kind, k in CORNERS}
    assert attacked == {"regular": False, "robust": True}
    assert len({held[f"corner-{kind}-{s}-{k}"].recipe.seed for s in (0, 1) for kind, k in CORNERS}) == 8
    for patch, geometry in PATCHES.items():
        recipe = held[f"{patch}-1"].recipe
        assert (recipe.models, recipe.geometry) == (models, geometry)
        assert (recipe.adversary is not None) == (patch == UNDER_ATTACK)
        scan = held[f"scan-{patch}-1"].recipe
        assert scan.bridge == f"cells/{patch}-1/bridge.safetensors"
        assert (scan.choose_by, scan.validation, scan.eps) == ("robustness", recipe.validation, SIZES["small"].eps)
    strong = held[f"ensemble-{UNDER_ATTACK}-0"].recipe
    assert strong.attack_steps > held[f"scan-{UNDER_ATTACK}-0"].recipe.attack_steps
    assert (strong.eps, strong.n) == (SIZES["small"].eps, SIZES["small"].n)


def test_heights_over_a_patch_and_along_its_edges():
    made = tables([found()])
    rows = {(row["patch"], row["measure"]): row for row in made["Over each patch"].rows()}
    row = rows["trained on the standard loss", "robust_loss"]
    # 4 + 5 in the middle, 2 + 5 at (1, 0.5); the worst corner has 6, the bilinear blend of the middle is 4.
    assert (row["corners"], row["max"], row["at"], row["above_worst"], row["above_bilinear"]) == (
        4.0,
        9.0,
        "0.5, 0.5",
        3.0,
        5.0,
    )
    assert row["mean"] == pytest.approx(4.0 + 2 * 5.0 / 9)
    assert rows["trained on the standard loss", "test_loss"]["above_worst"] == 0.0
    edges = {(row["patch"], row["edge"]): row for row in made["Along its edges"].rows()}
    robust = edges["trained on the standard loss", "u=1"]
    assert (robust["between"], robust["robust_loss_max"], robust["robust_loss_rise"]) == ("robust-robust", 7.0, 5.0)
    assert edges["trained on the standard loss", "v=0"]["robust_loss_rise"] == 0.0
    corners = {row["corner"]: row["robust_accuracy"] for row in made["Corners"].rows()}
    assert corners == {"regular at 0, 0": 40.0, "regular at 0, 1": 40.0, "robust at 1, 0": 80.0, "robust at 1, 1": 80.0}
    related = {row["patch"]: row for row in made["Robust loss and input curvature"].rows()}
    assert related["trained under attack"]["pearson"] == pytest.approx(1.0)
    assert related["trained under attack"]["hessian_images"] == 50


def test_points_are_chosen_under_attack_and_show_their_regret():
    table = scanned(bump(0.1), chooses=lambda u, v: 1.0 if (u, v) == (0.5, 0.0) else 5.0)
    assert (chosen(table.rows())["u"], chosen(table.rows(), "robust")["u"]) == (0.5, 1.0)
    one = replace(found(), patches={FLAT: scanned(), UNDER_ATTACK: table})
    rows = {row["name"]: row for row in tables([one])["Points by robustness"].rows()}
    point = rows["trained under attack: point chosen on validation"]
    assert (point["at"], point["robust_accuracy"], point["regret"]) == ("0.5, 0", 60.0, 20.0)
    assert rows["corner chosen on validation"]["robust_accuracy"] == 80.0
    assert rows["bilinear patch: its middle"]["robust_loss"] == 4.0


def test_more_steps_stand_beside_the_attack_of_the_scan():
    rows = {row["name"]: row for row in tables([found()])["Attacked with more steps"].rows()}
    assert set(rows) == {"u = 0, v = 0", "u = 0.5, v = 0.5", "softmax ensemble", "corner ensemble"}
    assert (rows["u = 0, v = 0"]["robust_accuracy"], rows["u = 0, v = 0"]["in_the_scan"]) == (30.0, 40.0)
    assert (rows["softmax ensemble"]["in_the_scan"], rows["softmax ensemble"]["passes"]) == (None, 9)


def test_a_barrier_is_a_rise_by_a_tenth():
    assert barred(scanned(bump(2.7)), "robust_loss")  # 4 + 2.7 is 0.7 above the worst corner of 6
    assert not barred(scanned(bump(2.5)), "robust_loss")
    assert barred(scanned(bump(0.3)), "robust_loss", "u=1")
    assert not barred(scanned(bump(0.1)), "robust_loss", "u=1")
    assert not barred(scanned(), "test_loss")


def test_claims_are_decided_once_all_seeds_are_there():
    def verdicts(*held: Found, seeds: int = 1) -> list[bool | None]:
        return [claim.holds for claim in claims(held, seeds)]

    # The corner at 80 % and the point chosen, the same corner: within the noise.
    assert verdicts(found()) == [True, True, True, True, True, True, None]
    assert verdicts() == [None] * 7
    assert verdicts(found(), seeds=2)[:6] == [None] * 6
    assert verdicts(found(), found(1), seeds=2)[0] is True
    low = scanned(lambda u, v: 1.0 if (u, v) == (1.0, 0.5) else corner_loss(u, v))
    better = replace(found(), patches={**found().patches, UNDER_ATTACK: low})
    assert verdicts(better)[6] is True  # 90 % against 80 %
    worse = scanned(bump(0.1), chooses=lambda u, v: 0.0 if (u, v) == (0.0, 0.5) else corner_loss(u, v))
    assert verdicts(replace(found(), patches={**found().patches, UNDER_ATTACK: worse}))[6] is False
    steep = scanned(bump(6.0))
    assert verdicts(replace(found(), patches={STANDARD: scanned(bump(5.0)), UNDER_ATTACK: steep}))[3:5] == [
        False,
        False,
    ]
    flat = replace(found(), patches={STANDARD: scanned(clean=lambda _u, v: 2.0 + (v == 0.5))})
    assert verdicts(flat)[:4] == [False, False, False, None]
    assert "5 nat above the worse end" in claims([found()], 1)[2].found


def test_the_whole_study_at_its_smallest(capsys, tmp_path):
    out = tmp_path / "s"
    done = call(capsys, "reproduce", "robust-surfaces", "--scale", "smoke", "--out", out, "--json")
    assert done.code == 0, done.err
    assert (done.json["status"], done.json["failed"], done.json["finished"]) == ("done", {}, done.json["cells"])
    made = done.json["tables"]
    assert [len(made[title]["rows"]) for title in ("Corners", "Over each patch", "Along its edges")] == [4, 12, 12]
    assert len(made["Attacked with more steps"]["rows"]) == 2 * (9 + 2)
    scan = Table.load(out / "cells" / f"scan-{STANDARD}-0" / "table.json")
    assert scan.meta["chosen"]["u"] == [chosen(scan.rows())[axis] for axis in ("u", "v")]
    for column in ("test-error", "robust-error"):
        assert (out / f"robust-surfaces-{column}-0.svg").stat().st_size > 1000
    weaker = {row["name"]: row for row in made["Attacked with more steps"]["rows"] if row["in_the_scan"] is not None}
    assert len(weaker) == 9
