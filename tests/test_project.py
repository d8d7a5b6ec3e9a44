"""What the packaging promises: bounded dependencies, and never torchvision by default."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED = {
    canonicalize_name(found[1]): found[2]
    for found in re.finditer(r"^([A-Za-z0-9_.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
LINES = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]


def resolved(name: str, seen: set[str]) -> set[str]:
    """Return the installed distributions that a plain installation of `name` (without extras) brings."""
    for line in requires(name) or []:
        requirement = Requirement(line)
        other = canonicalize_name(requirement.name)
        if other not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            seen.add(other)
            resolved(other, seen)
    return seen


def test_torchvision_is_no_default() -> None:
    found = resolved("isthmus", set())
    assert {"torch", "numpy", "lightning-fabric", "sympy"} <= found  # the walk reaches what torch itself requires
    assert "torchvision" not in found


@pytest.mark.parametrize("line", LINES)
def test_every_bound_holds_the_pinned_version(line: str) -> None:
    requirement = Requirement(line)
    operators = {specifier.operator for specifier in requirement.specifier}
    assert operators == {"=="} or operators == {">=", "<"}, f"{line} should have a lower and an upper bound"
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


def test_every_bound_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for line in LINES:
        assert re.search(re.escape(f'"{line}",') + r" +# \S+", text), f"{line} has no reason beside it"


def test_the_constraints_name_nothing_of_one_machine() -> None:
    text = (ROOT / "constraints.txt").read_text()
    for line in text.splitlines():
        assert re.fullmatch(r"(#.*|[a-z0-9-]+==[0-9][A-Za-z0-9.]*( +#.*)?|)", line), line
    assert PINNED["torch"] == "2.13.0"
