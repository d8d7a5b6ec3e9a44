"""Named streams: the same name gives the same numbers, another name others, and nothing else matters."""

import pytest
import torch
from scipy.stats import kstest

from isthmus.randomness import seed_of, stream


def test_seeds_are_pinned() -> None:
    """Changing these changes every result ever recorded."""
    assert seed_of(0, "batch", 1) == 5_214_029_703_727_236_734
    assert seed_of(7) == 1_320_494_719_199_842_095


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ((0,), (1,)),
        ((0, "a"), (0, "b")),
        ((0, "a", "b"), (0, "ab")),
        ((0, "a", "b"), (0, "b", "a")),
        ((0, "a', 'b"), (0, "a", "b")),
        ((0, "scan", 0.1), (0, "scan", 0.1 + 1e-16 * 2)),
        ((1, 2), (12,)),
        ((-1,), (1,)),
        ((0, ""), (0,)),
    ],
)
def test_different_names_have_different_seeds(one: tuple[object, ...], two: tuple[object, ...]) -> None:
    assert seed_of(*one) != seed_of(*two)  # type: ignore[arg-type]


def test_seeds_fit_a_generator_and_spread() -> None:
    seeds = [seed_of(0, "batch", i) for i in range(2000)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert kstest([seed / 2**63 for seed in seeds], "uniform").pvalue > 0.01


def test_first_draws_of_neighbouring_streams_are_uniform() -> None:
    draws = [float(torch.rand((), generator=stream(0, "t", i))) for i in range(1000)]
    assert kstest(draws, "uniform").pvalue > 0.01


def test_a_stream_is_its_own() -> None:
    before = torch.get_rng_state()
    one, two = stream(3, "x"), stream(3, "x")
    torch.rand(5, generator=one)
    assert not torch.equal(torch.rand(5, generator=one), torch.rand(5, generator=two))
    assert torch.equal(torch.rand(5, generator=stream(3, "x")), torch.rand(5, generator=stream(3, "x")))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.device == torch.device("cpu")
