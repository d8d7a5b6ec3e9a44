"""The page of a curvature: the headline with its error, every figure in its unit, and what is not shown."""

import json
from pathlib import Path

import pytest

from isthmus._check import InputError
from isthmus.report import write_curvature
from isthmus.report.curvature import (
    CurvatureDocument,
    curvature_limits,
    curvature_sentences,
    curvature_verdict,
    trace_text,
    worst_departure,
)
from isthmus.report.curvature_figure import density_figure, eigenvalue_figure
from isthmus.report.curvature_page import curvature_page
from page_reader import own, read
from spectrum_example import curvature, density, pairs

EVIL = "<script>alert(1)</script>"


def document(**more: object) -> CurvatureDocument:
    return CurvatureDocument.model_validate(curvature(**more))


def words(code: str) -> str:
    return " ".join(read(code).text).replace("\xa0", " ").replace("\u2060", "")


def test_verdict_has_the_eigenvalue_with_its_residual_the_trace_with_its_error_and_the_loss() -> None:
    assert curvature_verdict(document()) == (
        "The largest eigenvalue of the Hessian of the loss under pgd-10, linf 0.2, at frozen adversarial examples is 40 nat/weight² "
        "(residual 0.01), 2 times the second; that of the Gauss-Newton matrix 36 nat/weight²; the trace 412 ± 9.1 nat/weight² (99 %). "
        "Mean loss 0.1235 nat."
    )
    bare = curvature_verdict(document(gauss_newton=None, trace=None, converged=[False] * 20, subspace="tangent"))
    assert "in the tangent space of the bridge is 40 nat/weight²" in bare
    assert bare.endswith("Not all eigenpairs met the tolerance: see the residuals.")


def test_sentences_name_images_the_lower_end_and_how_far_the_true_loss_departs() -> None:
    said = curvature_sentences(document())
    assert said[0] == "Measured on 1,000 test images of mnist/test; 13,514 weights, in evaluation mode."
    assert said[1] == "The smallest eigenvalue is -4 nat/weight²: there are directions in which the loss bends down."
    assert said[2].endswith("is 90 % of the Hessian's.")
    assert worst_departure(document().finite_difference) == pytest.approx(9 / 40)
    assert said[3].endswith("differs from v'Hv by up to 22.5 %.")
    assert worst_departure(()) is None


def test_the_trace_is_told_with_its_confidence() -> None:
    held = document().trace
    assert held is not None
    assert trace_text(held) == "412 ± 9.1 nat/weight² (99 %)"


def test_limits_say_that_the_examples_were_frozen_only_where_they_were() -> None:
    assert "crafted once, at these weights, and kept" in curvature_limits(document())[0]
    assert not any("crafted" in line for line in curvature_limits(document(frozen=False)))
    assert any("1,000 images" in line for line in curvature_limits(document()))
    assert any("smoothed" in line for line in curvature_limits(document()))
    assert not any("smoothed" in line for line in curvature_limits(document(density=None)))


def test_page_has_every_part_in_its_unit() -> None:
    code = curvature_page(
        document(), created="2026-11-21T09:30:00+00:00", isthmus="0.1.0", command=("isthmus", "curvature")
    )
    ids = [attributes["id"] for tag, attributes in read(code).tags if tag == "section"]
    assert ids == ["eigenvalues", "density", "difference", "measured", "warnings", "provenance", "limits"]
    text = words(code)
    for said in (
        "Hessian (nat/weight²)",
        "Gauss-Newton (nat/weight²)",
        "10 probes of 80 steps",
        "Top eigenvector",
        "Crafted anew (nat/weight²)",
        "412 ± 9.1 nat/weight² (99 %), hutchinson, 100 products",
        "the lower end did not converge",
        "1,260",
        "isthmus curvature",
    ):
        assert said in text, said


def test_a_bare_document_makes_a_page() -> None:
    fields = ("eigenvalues", "residuals", "converged", "products", "loss", "gradient_norm", "parameters", "n", "split")
    held = CurvatureDocument.model_validate({name: curvature()[name] for name in (*fields, "objective")})
    ids = [attributes["id"] for tag, attributes in read(curvature_page(held)).tags if tag == "section"]
    assert ids == ["eigenvalues", "measured", "limits"]


def test_figures_draw_the_numbers_and_their_errors() -> None:
    found = eigenvalue_figure(document())
    assert found is not None
    figure, legend = found
    hessian, newton, lower = figure["data"]
    assert hessian["y"] == curvature()["eigenvalues"]
    assert hessian["error_y"]["array"] == curvature()["residuals"]
    assert newton["y"] == curvature()["gauss_newton"]["eigenvalues"]
    assert lower["x"] == [1, 2, 3]
    assert [group for group, *_ in legend] == ["hessian", "gauss_newton", "negative"]
    assert (
        eigenvalue_figure(document(eigenvalues=(), residuals=(), converged=(), gauss_newton=None, negative=None))
        is None
    )
    held = document().density
    assert held is not None
    band, line = density_figure(held, 1000)["data"]
    assert line["x"] == density()["points"]
    floor = 0.2 / (1000 * 0.1 * (2 * 3.14159265) ** 0.5)
    assert [value for value in line["y"] if value is not None] == [v for v in density()["values"] if v >= floor]
    assert None in line["y"]
    assert max(band["y"]) == max(density()["high"])
    assert min(band["y"]) == pytest.approx(floor)


def test_every_text_is_escaped() -> None:
    more = {"objective": EVIL, "model": EVIL, "data": EVIL, "warnings": [EVIL], "notes": [EVIL], "split": EVIL}
    code = curvature_page(document(**more), created=EVIL, isthmus=EVIL, command=(EVIL,))
    assert "<script>alert" not in own(code)
    assert "alert(1)" in "".join(read(code).text)


def test_a_folder_gets_its_page(tmp_path: Path) -> None:
    (tmp_path / "curvature.json").write_text(json.dumps(curvature()))
    assert write_curvature(tmp_path) == document()
    assert "Curvature of runs/a/model.safetensors" in (tmp_path / "curvature.html").read_text(encoding="utf-8")


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"curvature\.json"):
        write_curvature(tmp_path)
    for change, message in (
        ({"schema_version": "9"}, r"should have schema version '1'. Found 9"),
        ({"residuals": [0.1]}, r"`residuals` should be one for each of 20 eigenvalues. Found 1"),
        ({"density": density() | {"low": [1.0]}}, r"`points`, `values`, `low`, `high` should be equally many"),
        ({"trace": pairs()}, r"should be a curvature\.json of Isthmus. Found in trace\.value: Field required"),
    ):
        (tmp_path / "curvature.json").write_text(json.dumps(curvature(**change)))
        with pytest.raises(InputError, match=message):
            write_curvature(tmp_path)
