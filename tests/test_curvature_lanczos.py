"""The Lanczos process: its three-term identity, restarts, precision of the basis, and going on from where it was."""

import pytest
import torch
from torch import Tensor

from contracts.modules import SCALES
from isthmus.curvature.lanczos import Process, lanczos_process
from isthmus.randomness import stream

EPS = torch.finfo(torch.float64).eps


def matrices(width: int = 3, size: int = 20) -> Tensor:
    draw = torch.randn(width, size, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return draw + draw.mT


def starts(width: int = 3, size: int = 20) -> Tensor:
    return torch.randn(width, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def run(a: Tensor, start: Tensor | Process, steps: int, **options: object) -> Process:
    options = {"generator": stream(0), "precision": EPS} | options
    return lanczos_process(lambda v: (a @ v[:, :, None]).squeeze(2), start, steps=steps, **options)


def check(a: Tensor, process: Process, tolerance: float) -> None:
    """Assert A Q' = Q' T + beta rest e_k', orthonormal rows and a tridiagonal T."""
    q, k = process.basis.double(), process.taken
    assert process.small.dtype == torch.float64
    scale = a.abs().amax((1, 2), keepdim=True)
    left = a @ q.mT - q.mT @ process.small
    left[:, :, -1] -= process.beta[:, None] * process.rest.double()
    assert float((left / scale).abs().max()) < tolerance
    assert float((q @ q.mT - torch.eye(k, dtype=torch.float64)).abs().max()) < tolerance
    assert not torch.triu(process.small, 2).any()
    assert torch.equal(process.small, process.small.mT)


@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize("scale", SCALES)
def test_three_term_identity(steps: int, scale: float) -> None:
    a = scale * matrices()
    process = run(a, starts(), steps)
    assert process.taken == steps
    check(a, process, 1e-12)
    first = starts() / starts().norm(dim=1, keepdim=True)
    assert torch.allclose(process.basis[:, 0], first, atol=1e-15)


def test_all_of_a_small_space_gives_the_spectrum_and_no_more_steps() -> None:
    process = run(matrices(), starts(), 50)
    assert process.taken == 20
    expected = torch.linalg.eigvalsh(matrices())
    assert torch.allclose(torch.linalg.eigvalsh(process.small), expected, atol=1e-12)


def test_a_used_up_space_goes_on_in_a_new_direction() -> None:
    """Of the identity every vector spans its own space: T is the identity, each coupling zero, and the basis still orthonormal."""
    a = torch.eye(20, dtype=torch.float64).expand(2, 20, 20).clone()
    a[1, :5, :5] = 0
    process = run(a, starts(2), 20)
    check(a, process, 1e-12)
    assert torch.equal(process.small[0], torch.eye(20, dtype=torch.float64)) or torch.allclose(
        process.small[0], torch.eye(20, dtype=torch.float64), atol=1e-14
    )
    assert torch.allclose(torch.linalg.eigvalsh(process.small[1]).round(), torch.linalg.eigvalsh(a[1]), atol=1e-12)
    other = run(a, starts(2), 20, generator=stream(1))
    assert torch.equal(other.basis[:, 0], process.basis[:, 0])
    assert not torch.allclose(other.basis[:, 3], process.basis[:, 3])


def test_precision_says_when_a_space_is_used_up() -> None:
    """A rank of three, products rounded to 1e-6: taken for exact, noise is followed; known for what it is, the coupling is zero."""
    rows = matrices()[:1, :3]
    a = rows.mT @ rows
    noise = 1e-6 * matrices()[:1]
    blind, told = (run(a + noise, starts(1), 8, precision=precision) for precision in (EPS, 1e-4))
    assert (blind.small[0].diagonal(1) != 0).all()
    assert (told.small[0].diagonal(1) == 0).any()
    assert torch.allclose(torch.linalg.eigvalsh(told.small)[0, -3:], torch.linalg.eigvalsh(a)[0, -3:], rtol=1e-4)


def test_basis_in_float32() -> None:
    """The identity holds to single precision; eigenvalues, whose error is of second order, beyond it."""
    process = run(matrices(), starts().float(), 20, precision=torch.finfo(torch.float32).eps)
    assert process.basis.dtype == process.rest.dtype == torch.float32
    check(matrices(), process, 2e-6)
    values, expected = torch.linalg.eigvalsh(process.small), torch.linalg.eigvalsh(matrices())
    assert float((values - expected).abs().max() / expected.abs().max()) < 1e-6


def test_stop_and_going_on() -> None:
    whole = run(matrices(), starts(), 12)
    seen: list[int] = []

    def stop(process: Process) -> bool:
        seen.append(process.taken)
        return process.taken == 5

    part = run(matrices(), starts(), 12, stop=stop)
    assert seen == [1, 2, 3, 4, 5]
    assert part.taken == 5
    held = Process(*(getattr(part, name).clone() for name in ("basis", "small", "rest", "beta", "bad")))
    on = run(matrices(), part, 12)
    for name in ("basis", "small", "rest", "beta", "bad"):
        assert torch.equal(getattr(on, name), getattr(whole, name)), name
        assert torch.equal(getattr(part, name), getattr(held, name)), name
    assert run(matrices(), part, 12, stop=stop).taken == 5
    assert run(matrices(), part, 3).taken == 5


def test_a_product_that_is_not_finite_spoils_its_own_process_only() -> None:
    a = matrices()
    clean = run(a, starts(), 6)
    a[1, 3] = torch.nan
    found = run(a, starts(), 6)
    assert found.bad.tolist() == [False, True, False]
    assert torch.equal(found.small[[0, 2]], clean.small[[0, 2]])
    assert found.small[1].isfinite().all()
