"""Experiment trackers through the logger interface of Fabric."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from isthmus._check import InputError, unknown

TRACKERS = {
    "csv": ("lightning_fabric.loggers", "CSVLogger"),
    "tensorboard": ("lightning_fabric.loggers", "TensorBoardLogger"),
    "wandb": ("pytorch_lightning.loggers", "WandbLogger"),
    "mlflow": ("pytorch_lightning.loggers", "MLFlowLogger"),
}


class Tracker(Protocol):
    """What a training needs of a tracker; Fabric calls the rest."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Take the metrics of one step."""
        ...

    def finalize(self, status: str) -> None:
        """Write what is still held back."""
        ...


def make_tracker(kind: str, folder: Path, name: str) -> Tracker:
    """Return the tracker called `kind`, writing below `folder`. Raises InputError naming the extra where its package is missing."""
    if kind not in TRACKERS:
        raise unknown("track", kind, TRACKERS)
    module, title = TRACKERS[kind]
    try:
        factory = cast(Callable[..., Tracker], getattr(import_module(module), title))
        match kind:
            case "csv" | "tensorboard":
                return factory(root_dir=folder, name="")
            case "wandb":
                return factory(save_dir=folder, name=name, project="isthmus")
            case _:
                # A database file: MLflow no longer takes a folder.
                return factory(
                    experiment_name="isthmus", run_name=name, tracking_uri=f"sqlite:///{folder.resolve() / 'mlflow.db'}"
                )
    except ImportError as error:
        found = str(error).strip().split("\n")[0].rstrip(".")
        raise InputError(
            f"`track` should name a tracker that is installed. Found {kind!r}: {found}. Run pip install 'isthmus[track]'."
        ) from error
