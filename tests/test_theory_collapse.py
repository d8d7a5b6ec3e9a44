"""The benchmark of the collapse on the embedded digits, reduced: training stands below the predicted budget and collapses above it."""

import importlib.util
import sys
from math import inf
from pathlib import Path
from types import ModuleType

import pytest

from isthmus.data import load_data
from isthmus.theory import critical_budget

FILE = Path(__file__).parents[1] / "benchmarks" / "linear_collapse.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("linear_collapse", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["linear_collapse"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("p", "bias", "skewed"), [(inf, False, True), (inf, True, True), (2.0, False, True), (2.0, True, False)]
)
def test_linear_training_on_digits_collapses_at_the_predicted_budget(
    benchmark: ModuleType, p: float, bias: bool, skewed: bool
) -> None:
    """300 images, from random weights. The certificate below is rigorous: it can never be found above the critical budget."""
    samples = benchmark.drawn(load_data("digits").train, 300, skewed=skewed, seed=0)
    radius = critical_budget(samples, p, bias=bias).radius
    setting = benchmark.Setting(p, bias, 300, 0)
    below, above = (benchmark.outcome(samples, ratio * radius, setting) for ratio in (0.97, 1.03))
    assert below.stands
    assert below.attacked < 0
    assert below.length > 1e-2
    assert not above.stands
    assert above.attacked > -1e-9
    assert above.length < 2e-2


def test_shares_of_the_classes_move_the_collapse(benchmark: ModuleType) -> None:
    """With shares 1:2:3:4 and no bias, training stands far above the ball of the class means, which is the budget with a bias."""
    samples = benchmark.drawn(load_data("digits").train, 300, skewed=True, seed=0)
    with_bias, without = (critical_budget(samples, bias=bias).radius for bias in (True, False))
    assert without > 1.3 * with_bias
    assert benchmark.outcome(samples, 1.2 * with_bias, benchmark.Setting(inf, False, 300, 0)).stands
    assert not benchmark.outcome(samples, 1.2 * with_bias, benchmark.Setting(inf, True, 300, 0)).stands


def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (FILE.parents[1] / "docs" / "linear-theory.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    exec(compile(code, "linear-theory.md", "exec"), {})
    assert capsys.readouterr().out.startswith("0.456, decided by the classes (0, 7), proven up to ")
