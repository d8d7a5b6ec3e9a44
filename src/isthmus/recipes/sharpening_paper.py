"""The two tables of perturbation similarity in Liu et al. 2020 (section 4), as numbers to put beside our own."""

from collections.abc import Mapping

Found = tuple[float, float]
"""Mean cosine over the training images, robust test error (%)."""

_RESNET = {
    "eigenvector": {
        0.0: ((0.976, 27.0), (0.962, 42.1), (0.945, 58.6)),
        0.1: ((0.471, 28.0), (0.475, 43.7), (0.461, 61.3)),
        0.3: ((0.148, 34.2), (0.157, 49.9), (0.140, 70.2)),
        0.5: ((0.075, 44.1), (0.078, 63.1), (0.069, 83.9)),
        1.0: ((0.050, 79.0), (0.046, 88.4), (0.034, 89.0)),
    },
    "random": {
        0.1: ((0.975, 27.1), (0.962, 42.1), (0.945, 58.6)),
        0.3: ((0.973, 27.1), (0.960, 42.1), (0.944, 58.6)),
        0.5: ((0.968, 27.1), (0.957, 42.1), (0.942, 58.7)),
        1.0: ((0.955, 27.1), (0.946, 42.1), (0.935, 58.6)),
    },
}
_LENET = {
    "eigenvector": {
        0.0: ((0.861, 3.34), (0.837, 6.72), (0.918, 6.94), (0.928, 8.74)),
        0.01: ((0.847, 3.36), (0.823, 6.83), (0.241, 7.48), (0.188, 15.9)),
        0.03: ((0.812, 3.42), (0.789, 7.07), (0.236, 9.19), (0.282, 31.4)),
        0.05: ((0.779, 3.53), (0.757, 7.66), (0.274, 11.2), (0.375, 44.6)),
        0.1: ((0.705, 4.20), (0.683, 10.4), (0.367, 19.1), (0.455, 99.3)),
    },
    "random": {
        0.01: ((0.860, 3.34), (0.837, 6.71), (0.913, 6.99), (0.906, 8.80)),
        0.03: ((0.861, 3.34), (0.837, 6.72), (0.888, 6.99), (0.818, 8.65)),
        0.05: ((0.860, 3.35), (0.837, 6.69), (0.863, 6.94), (0.745, 8.49)),
        0.1: ((0.860, 3.35), (0.837, 6.67), (0.780, 6.82), (0.653, 8.90)),
    },
}
_BUDGETS = {"cifar10": (2 / 255, 4 / 255, 8 / 255), "mnist": (0.1, 0.2, 0.3, 0.4)}

PAPER: Mapping[tuple[str, str, float, str], Found] = {
    (data, kind, amount, f"{eps:.4g}"): found
    for data, table in (("cifar10", _RESNET), ("mnist", _LENET))
    for kind, rows in table.items()
    for amount, cells in rows.items()
    for eps, found in zip(_BUDGETS[data], cells, strict=True)
}
"""(data, direction, a, eps to four digits) -> cosine and robust error: ResNet18 on CIFAR-10 and LeNet on MNIST, 3 runs each (the authors'
slides of October 2020). Row a = 0 stands under the eigenvector alone."""


def paper(data: str, kind: str, amount: float, eps: float) -> tuple[float | None, float | None]:
    """Return the paper's cosine and robust error (%), None where it has none. a = 0 has no direction.

    >>> paper("mnist", "random", 0.1, 0.4), paper("mnist", "random", 0.0, 0.1), paper("digits", "random", 0.1, 0.4)
    ((0.653, 8.9), (0.861, 3.34), (None, None))
    """
    return PAPER.get((data, "eigenvector" if amount == 0 else kind, amount, f"{eps:.4g}"), (None, None))
