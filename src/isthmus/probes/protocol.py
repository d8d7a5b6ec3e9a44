"""Probes: `probe(model) -> {name: value}`, with each column's unit, direction, split and sample count."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from isthmus.table import Column


class Probe(Protocol):
    """Measures one model: `columns` describe what a call returns, in order."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the description of each value."""
        ...

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> Mapping[str, float]:
        """Return name -> value; the model is as before afterwards, and randomness comes from `generator` alone."""
        ...
