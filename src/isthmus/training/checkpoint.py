"""`Checkpoint`: the state of a fit in one file, written whole or not at all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from isthmus._check import InputError
from isthmus.files import atomic


@dataclass(frozen=True)
class Checkpoint:
    """A file with the state of one particular fit; `fingerprint` says which."""

    path: Path
    fingerprint: str

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by `state`; an earlier one stays intact if that fails."""
        with atomic(self.path) as partial:
            torch.save({"fingerprint": self.fingerprint, **state}, partial)

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None where there is no file. Raises InputError for a file of another run."""
        if not self.path.exists():
            return None
        try:
            state: object = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(
                f"`checkpoint` should be a file written by this library. Found {self.path}: {error}"
            ) from error
        held = cast(dict[str, Any], state) if isinstance(state, dict) else {}
        if held.get("fingerprint") != self.fingerprint:
            raise InputError(
                f"`checkpoint` should belong to this run. Found {self.path}, written with other settings, data or seed. "
                "Use another output folder, or the settings it was started with."
            )
        return held
