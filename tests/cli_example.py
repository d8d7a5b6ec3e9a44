"""Small things that the tests of the command line share: calling it in this process, and weight files that cost nothing to make."""

import json
from dataclasses import dataclass
from pathlib import Path

from isthmus.cli.app import main
from isthmus.models import build_model
from isthmus.store import Card, save_model

DIGITS = (1, 8, 8)


@dataclass(frozen=True)
class Called:
    """What a command returned and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


def call(capsys, *words) -> Called:
    """Run the command in this process."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return Called(code, captured.out, captured.err)


def model_file(
    path: Path, *, seed=0, arch="mlp:depth=1", width=8, shape=DIGITS, data: str | None = "digits", card=True
) -> Path:
    """Write untrained weights; without `card` the file does not say what it holds."""
    module = build_model(arch, num_classes=10, input_shape=shape, width=width, seed=seed)
    held = Card(arch=arch, width=width, num_classes=10, input_shape=shape, data=data)
    save_model(module, path, held if card else None)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Return the contents of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
