"""Data by name, path or torch `Dataset`; disjoint roles; augmentation."""

from isthmus.data.augment import Augment, default_augment
from isthmus.data.roles import require_disjoint, split_roles
from isthmus.data.samples import Samples, Splits, require_inputs
from isthmus.data.sources import DATASETS, Source, data_folders, describe, get_data, load_data

__all__ = [
    "DATASETS",
    "Augment",
    "Samples",
    "Source",
    "Splits",
    "data_folders",
    "default_augment",
    "describe",
    "get_data",
    "load_data",
    "require_disjoint",
    "require_inputs",
    "split_roles",
]
