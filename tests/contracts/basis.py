"""What every basis owes: call `check_basis` in the test of a new one."""

import torch
from torch import Tensor

from isthmus.geometry.bases import Basis

EPSILON = {torch.float32: 2e-5, torch.float64: 1e-12}


def inputs(basis: Basis, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return stratified coordinates (k, d): the ends, tiny and nearly full ones, corners, sites, breaks, one and many inside."""
    generator = torch.Generator().manual_seed(0)
    inside = basis.place(torch.rand(50, basis.dim, dtype=torch.float64, generator=generator))
    breaks = (
        torch.stack([torch.tensor([axis[i % len(axis)] for axis in basis.breaks]) for i in range(4)])
        if basis.dim
        else inside[:1]
    )
    found = {
        "zeros": torch.zeros(3, basis.dim),
        "tiny": inside[:5] * 1e-8,
        "nearly full": inside[:5] * (1 - 1e-7),
        "corners": torch.tensor([u for u, _ in basis.corners], dtype=torch.float64).view(len(basis.corners), basis.dim),
        "sites": torch.tensor(basis.sites, dtype=torch.float64).view(basis.num_points, basis.dim),
        "breaks": breaks,
        "one": inside[:1],
        "inside": inside,
        "beyond": inside * 1.5 - 0.25,
    }
    return {name: u.to(dtype) for name, u in found.items()}


def check_basis(basis: Basis, *, linear: bool = True) -> None:
    """Assert the contract: weights sum to 1, one-hot at corners to the bit, derivative = finite differences, rows independent.

    linear: whether sum_i weight_i(u) site_i = u, so that control points at their sites give back the coordinates.
    """
    assert len(basis.sites) == basis.num_points
    assert len(basis.breaks) == basis.dim
    assert all(list(axis) == sorted(set(axis)) and len(axis) > 1 for axis in basis.breaks)
    for dtype, epsilon in EPSILON.items():
        for name, u in inputs(basis, dtype).items():
            label = f"{basis} {name} {dtype}"
            before = u.clone()
            weights, slopes = basis(u), basis.derivative(u)
            assert torch.equal(u, before), f"{label}: the coordinates were written"
            assert weights.dtype == slopes.dtype == dtype, label
            assert weights.shape == (len(u), basis.num_points), label
            assert slopes.shape == (len(u), basis.dim, basis.num_points), label
            size = float(weights.abs().sum(-1).max())
            assert float((weights.sum(-1) - 1).abs().max()) <= epsilon * size, f"{label}: weights do not sum to 1"
            assert torch.equal(torch.stack([basis(row) for row in u]), weights), f"{label}: rows see each other"
            assert torch.equal(basis(u.view(1, len(u), basis.dim))[0], weights), (
                f"{label}: leading axes are not carried"
            )
            if slopes.numel():
                assert float(slopes.sum(-1).abs().max()) <= epsilon * max(1.0, float(slopes.abs().max())), (
                    f"{label}: slopes do not sum to 0"
                )
            if linear:
                back = weights @ torch.tensor(basis.sites, dtype=dtype).view(basis.num_points, basis.dim)
                torch.testing.assert_close(
                    back, u, rtol=0, atol=epsilon * size, msg=lambda text, at=label: f"{at}: not linear. {text}"
                )
    _check_corners(basis)
    _check_derivative(basis)
    _check_place(basis)


def _check_corners(basis: Basis) -> None:
    for dtype in EPSILON:
        for u, index in basis.corners:
            expected = torch.zeros(basis.num_points, dtype=dtype)
            expected[index] = 1
            assert torch.equal(basis(torch.tensor(u, dtype=dtype)), expected), f"{basis} at {u}: not one-hot"
    assert len({index for _, index in basis.corners}) == len(basis.corners), f"{basis}: corners share a control point"


def _check_derivative(basis: Basis, step: float = 1e-6) -> None:
    """Against central differences, at points of the cube farther than the step from every break."""
    u = torch.rand(50, basis.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u = torch.cat([u, inputs(basis, torch.float64)["inside"]])
    for axis, knots in enumerate(basis.breaks):
        u = u[(u[:, axis, None] - torch.tensor(knots, dtype=torch.float64)).abs().amin(1) > 1e-4]
    assert len(u) > 10
    slopes = basis.derivative(u)
    for axis in range(basis.dim):
        shift = torch.zeros(basis.dim, dtype=torch.float64)
        shift[axis] = step
        difference = (basis(u + shift) - basis(u - shift)) / (2 * step)
        worst = float((difference - slopes[:, axis]).abs().max())
        assert worst <= 1e-6 * max(1.0, float(slopes.abs().max())), f"{basis}: derivative off by {worst}"


def _check_place(basis: Basis) -> None:
    cube = torch.rand(200, basis.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    placed = basis.place(cube)
    assert placed.shape == cube.shape
    for axis, knots in enumerate(basis.breaks):
        assert bool(((placed[:, axis] >= knots[0]) & (placed[:, axis] <= knots[-1])).all()), f"{basis}: placed outside"
