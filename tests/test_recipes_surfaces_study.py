"""`surfaces` at its smallest: every cell runs, every table fills, a part alone says what it knows."""

import pytest

from cli_example import call, tree
from isthmus.barrier import SQUARE, surface_barriers
from isthmus.recipes.surfaces_scales import SIZES
from isthmus.table import Table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("surfaces")


def test_a_part_alone_and_then_the_whole(capsys, folder):
    words = ("reproduce", "surfaces", "--scale", "smoke", "--out", folder / "s")
    part = call(capsys, *words, "--only", "scan-same-run-*", "--json")
    assert part.code == 0, part.err
    assert (part.json["status"], part.json["finished"]) == ("partial", 3)
    assert {row["patch"] for row in part.json["tables"]["Over each patch"]["rows"]} == {"bilinear patch within one run"}
    assert [claim["holds"] is None for claim in part.json["claims"]] == [True, True, True, False, *[True] * 6]
    before = tree(folder / "s" / "cells" / "corner-cnn-0-0")
    done = call(capsys, *words, "--resume", "--json")
    assert done.code == 0, done.err
    assert (done.json["status"], done.json["failed"], done.json["finished"]) == ("done", {}, done.json["cells"])
    after = tree(folder / "s" / "cells" / "corner-cnn-0-0")
    assert before["model.safetensors"] == after["model.safetensors"]
    tables, size = done.json["tables"], SIZES["smoke"]
    assert len(tables["Over each patch"]["rows"]) == 5 * 4
    assert len(tables["Along its edges"]["rows"]) == 5 * 4
    assert len(tables["Single models and ensembles"]["rows"]) == 19
    assert len(tables["Counted in training mode"]["rows"]) == 2
    block = size.blocks[0]
    taken = {row["gradients"] for row in tables["Single models and ensembles"]["rows"]}
    assert taken == {block.plan.steps, 4 * block.plan.steps, block.gradients}
    scan = Table.load(folder / "s" / "cells" / "scan-surface-cnn-0" / "table.json")
    assert len(scan) == 25
    row = next(
        r for r in tables["Over each patch"]["rows"] if (r["patch"], r["measure"]) == ("trained surface", "test_loss")
    )
    assert row["above_mean"] == surface_barriers(scan, sorted(SQUARE))["git_re_basin"].value
    # At the corners the scan and the comparison measure the given models on the same images.
    compared = Table.load(folder / "s" / "cells" / "ensemble-nine-surface-cnn-0" / "ensemble.json")
    mine = {r["name"]: r["test_accuracy"] for r in compared.rows()}
    for r in scan.rows():
        if (name := f"u = {r['u']:.6g}, v = {r['v']:.6g}") in mine:
            assert 100 - r["test_error"] == pytest.approx(mine[name])
    assert all((folder / "s" / f"surfaces-cnn-0.{suffix}").stat().st_size > 1000 for suffix in ("pdf", "svg"))
    assert done.json["files"]["surfaces-cnn-0.svg"] == "surfaces-cnn-0.svg"
