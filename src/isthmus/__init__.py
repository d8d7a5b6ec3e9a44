"""Isthmus connects trained networks by low-loss curves and surfaces in weight space, and repairs tampered models with them.

Names are imported when they are first used, so `import isthmus` takes no time.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isthmus._check import InputError
    from isthmus.data import Augment, Samples, Splits, load_data, split_roles
    from isthmus.geometry.bases import Bernstein, Chain, Product
    from isthmus.geometry.bridge import Bridge
    from isthmus.geometry.build import bezier, chain, line, plane, simplex, surface
    from isthmus.geometry.edit import edges, elevate, insert, reverse
    from isthmus.geometry.flat import Affine, Barycentric
    from isthmus.layout import Layout
    from isthmus.models import build_model, load_model, load_weights
    from isthmus.rates import Rate
    from isthmus.settle import Keep, Recalibrate
    from isthmus.store import load_bridge, save_bridge, save_model
    from isthmus.table import Table
    from isthmus.tampering import Patch, parse_trigger, poison
    from isthmus.training.fit import fit, fit_module
    from isthmus.training.plan import Plan
    from isthmus.training.session import Session

    __version__: str

_HOMES = {
    "isthmus._check": ("InputError",),
    "isthmus.data": ("Augment", "Samples", "Splits", "load_data", "split_roles"),
    "isthmus.geometry.bases": ("Bernstein", "Chain", "Product"),
    "isthmus.geometry.bridge": ("Bridge",),
    "isthmus.geometry.build": ("bezier", "chain", "line", "plane", "simplex", "surface"),
    "isthmus.geometry.edit": ("edges", "elevate", "insert", "reverse"),
    "isthmus.geometry.flat": ("Affine", "Barycentric"),
    "isthmus.layout": ("Layout",),
    "isthmus.models": ("build_model", "load_model", "load_weights"),
    "isthmus.rates": ("Rate",),
    "isthmus.settle": ("Keep", "Recalibrate"),
    "isthmus.store": ("load_bridge", "save_bridge", "save_model"),
    "isthmus.table": ("Table",),
    "isthmus.tampering": ("Patch", "parse_trigger", "poison"),
    "isthmus.training.fit": ("fit", "fit_module"),
    "isthmus.training.plan": ("Plan",),
    "isthmus.training.session": ("Session",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Affine", "Augment", "Barycentric", "Bernstein", "Bridge", "Chain", "InputError", "Keep", "Layout", "Patch", "Plan",
    "Product", "Rate", "Recalibrate", "Samples", "Session", "Splits", "Table", "bezier", "build_model", "chain", "edges",
    "elevate", "fit", "fit_module", "insert", "line", "load_bridge", "load_data", "load_model", "load_weights", "parse_trigger",
    "plane", "poison", "reverse", "save_bridge", "save_model", "simplex", "split_roles", "surface",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name == "__version__":
        try:
            return version("isthmus")
        except PackageNotFoundError:  # run from the sources without being installed
            return "0+unknown"
    if name not in _HOME_OF:
        raise AttributeError(f"module 'isthmus' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
