"""An invented `curvature.json`, for the tests of its page and its figure."""

from math import exp


def density(scale: float = 1.0) -> dict[str, object]:
    """A bulk at zero and a tail."""
    points = [scale * (-1 + 0.1 * i) for i in range(121)]
    values = [(4 * exp(-((p / (0.3 * scale)) ** 2)) + 0.001 * exp(-p / (4 * scale))) / scale for p in points]
    return {
        "points": points,
        "values": values,
        "low": [0.7 * value for value in values],
        "high": [1.3 * value for value in values],
        "width": 0.1 * scale,
        "probes": 10,
        "steps": 80,
        "products": 800,
    }


def pairs(scale: float = 1.0, count: int = 20) -> dict[str, object]:
    return {
        "eigenvalues": [scale * 40 / (i + 1) for i in range(count)],
        "residuals": [abs(scale) * 0.01 * (i + 1) for i in range(count)],
        "converged": [True] * count,
        "products": 120,
    }


def curvature(**more: object) -> dict[str, object]:
    """What `isthmus curvature` writes, with every part."""
    differences = [
        {"direction": direction, "step": step, "recrafted": value - 90 * step, "kept": value, "frozen": value}
        for direction, value in (("top eigenvector", 40.0), ("random", 0.02))
        for step in (0.1, 0.01, 0.001)
    ]
    return {
        "schema_version": "1",
        "status": "done",
        **pairs(),
        "loss": 0.1234567,
        "gradient_norm": 0.0321,
        "parameters": 13514,
        "n": 1000,
        "split": "test",
        "objective": "loss under pgd-10, linf 0.2, at frozen adversarial examples",
        "frozen": True,
        "model": "runs/a/model.safetensors",
        "data": "mnist/test",
        "at": None,
        "subspace": "all",
        "dimension": 13514,
        "negative": pairs(-0.1, 3),
        "gauss_newton": pairs(0.9, 20),
        "trace": {"value": 412.0, "error": 9.1, "confidence": 0.99, "products": 100, "method": "hutchinson"},
        "density": density(),
        "finite_difference": differences,
        "warnings": ["the lower end did not converge"],
        "notes": [],
        "tolerance": 1e-3,
        "precision": "32-true",
        "seed": 0,
        "seconds": 61.2,
        **more,
    }
