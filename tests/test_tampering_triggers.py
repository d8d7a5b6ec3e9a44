"""Triggers keep their contract; their text forms are read back equal."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from contracts.triggers import SHAPES, assert_refused, check_trigger, pixels_of
from isthmus._check import InputError
from isthmus.tampering import Patch, Trigger, UserTrigger, apply_trigger, describe, parse_trigger

PATCHES = [
    Patch(),
    Patch(1, at=(0, 0), colour=0.0),
    Patch((2, 4), at=(3, 1), colour=0.25),
    Patch(3, at="top-right", pattern="checker"),
    Patch((3, 2), at="bottom-left", pattern="checker", colour=0.5, margin=2),
    Patch(2, at="top-left", margin=1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("patch", PATCHES, ids=describe)
def test_patches_keep_the_contract(patch: Patch, shape: tuple[int, ...]) -> None:
    check_trigger(patch, shape, written=pixels_of(patch, shape))


def test_the_block_of_the_literature_is_white_at_rows_and_columns_28_to_30() -> None:
    out = Patch(3, at=(28, 28))(torch.zeros(2, 3, 32, 32))
    expected = torch.zeros(2, 3, 32, 32)
    expected[:, :, 28:31, 28:31] = 1
    assert torch.equal(out, expected)


def test_corners_are_flush_and_margins_move_inwards() -> None:
    x = torch.zeros(1, 1, 6, 8)
    places = {"top-left": (1, 1), "top-right": (1, 6), "bottom-left": (4, 1), "bottom-right": (4, 6)}
    for corner, place in places.items():
        lit = Patch(1, at=corner, margin=1)(x).nonzero().tolist()
        assert lit == [[0, 0, *place]]
    assert Patch(1)(x).nonzero().tolist() == [[0, 0, 5, 7]]


def test_a_checker_begins_with_its_colour() -> None:
    out = Patch(3, at=(0, 0), pattern="checker", colour=0.5)(torch.ones(1, 1, 3, 3))
    assert out[0, 0].tolist() == [[0.5, 0.0, 0.5], [0.0, 0.5, 0.0], [0.5, 0.0, 0.5]]


def test_colour_per_channel() -> None:
    out = Patch(1, at=(0, 0), colour=(1.0, 0.5, 0.0))(torch.full((2, 3, 2, 2), 0.25))
    assert out[:, :, 0, 0].tolist() == [[1.0, 0.5, 0.0]] * 2
    with pytest.raises(InputError, match=r"`colour` should have 1 or 1 values, one for each channel\. Found 3"):
        Patch(1, colour=(1.0, 0.5, 0.0))(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Patch(0), r"`size` should be at least 1 pixel\. Found 0"),
        (lambda: Patch((3, 0)), r"`size` should be at least 1 pixel\. Found \(3, 0\)"),
        (lambda: Patch(at=(-1, 2)), r"`at` should be \(row, column\) counted from 0\. Found \(-1, 2\)"),
        (
            lambda: Patch(at="botom-right"),
            r"`at` should be one of .*Found 'botom-right'\. Did you mean 'bottom-right'\?",
        ),
        (
            lambda: Patch(at=(1, 1), margin=1),
            r"`margin` should be 0 where the place is given as row and column\. Found 1",
        ),
        (lambda: Patch(margin=-1), r"`margin` should be at least 0 pixels\. Found -1"),
        (lambda: Patch(pattern="stripes"), r"`pattern` should be one of checker, solid\. Found 'stripes'"),
        (lambda: Patch(colour=255), r"`colour` should be in \[0, 1\], for all channels or for each\. Found 255"),
        (
            lambda: Patch(colour=(0.5, float("nan"))),
            r"`colour` should be in \[0, 1\], for all channels or for each\. Found \(0\.5",
        ),
        (lambda: Patch(colour=()), r"`colour` should be in \[0, 1\], for all channels or for each\. Found \(\)"),
        (
            lambda: Patch(3, at=(6, 0))(torch.zeros(1, 1, 8, 8)),
            r"`trigger` should lie inside the 8 x 8 images\. Found rows 6-8",
        ),
        (lambda: Patch()(torch.zeros(4, 64)), r"`x` should be images \(B, C, H, W\) for a patch\. Found \(4, 64\)"),
    ],
)
def test_impossible_patches_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("patch", [*PATCHES, Patch(colour=(1.0, 0.5, 1 / 3)), Patch((1, 2), at=(0, 7))], ids=describe)
def test_text_is_read_back_equal(patch: Patch) -> None:
    assert parse_trigger(describe(patch)) == patch


def test_text_of_a_patch() -> None:
    assert parse_trigger("patch:size=3,at=28x28,colour=1,pattern=solid") == Patch(3, at=(28, 28))
    assert parse_trigger(" patch: size = 2x3 , at=top-left,margin=1,colour=1:0:0 ") == Patch(
        (2, 3), at="top-left", margin=1, colour=(1.0, 0.0, 0.0)
    )
    assert parse_trigger("patch") == parse_trigger("patch:") == Patch()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "patch:sise=3",
            r"`trigger` should be one of at, colour, margin, pattern, size\. Found 'sise'\. Did you mean 'size'\?",
        ),
        ("patch:size", r"`trigger` should give size once, as size=VALUE\. Found 'size'"),
        ("patch:size=", r"`trigger` should give size once, as size=VALUE\. Found 'size='"),
        ("patch:size=3,size=4", r"`trigger` should give size once, as size=VALUE\. Found 'size=3,size=4'"),
        ("patch:size=big", r"`trigger` should have numbers, as in .* Found: .*'big'"),
        ("patch:at=28x", r"`trigger` should have numbers, as in .* Found: "),
        ("patch:at=28", r"`trigger` should have at as two numbers like 28x28\. Found '28'"),
        ("patch:at=1x2x3", r"`trigger` should have at as two numbers like 28x28\. Found '1x2x3'"),
        ("patch:colour=red", r"`trigger` should have numbers, as in .* Found: .*'red'"),
        ("patsh:size=3", r"`trigger` should be like 'patch:.* Found 'patsh:size=3'\. Did you mean 'patch'\?"),
        ("", r"`trigger` should be like 'patch:.* Found ''"),
        ("missing.py:f", r"`trigger` should name a Python file that exists\. Found no file 'missing\.py'"),
        ("no_such_package_here:f", r"`trigger` should name a module that imports\. Found ModuleNotFoundError"),
        ("math:cosine", r"`trigger` should name something that math defines\. Found no 'cosine'"),
        ("math:pi", r"`trigger` should name a function\. Found float at 'math:pi'"),
    ],
)
def test_text_that_names_no_trigger_is_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_trigger(spec)


SOURCE = """
from beside import VALUE

def corner(x):
    x = x.clone()
    x[:, :, 0, 0] = VALUE
    return x
"""


def test_a_function_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 0.75\n")
    (tmp_path / "trig.py").write_text(SOURCE)
    path, spec = list(sys.path), f"{tmp_path / 'trig.py'}:corner"
    trigger = parse_trigger(spec)
    assert trigger(torch.zeros(2, 1, 3, 3)).nonzero().tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
    assert sys.path == path
    assert "beside" not in sys.modules
    assert describe(trigger) == spec
    check_trigger(trigger, (2, 3, 4, 4))
    assert isinstance(trigger, UserTrigger)
    with pytest.raises(InputError, match=r"Found no 'korner' there\. Did you mean 'corner'\?"):
        parse_trigger(f"{tmp_path / 'trig.py'}:korner")


def test_a_function_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "marks").mkdir()
    (tmp_path / "marks" / "white.py").write_text("def whole(x):\n    return x * 0 + 1\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert torch.equal(parse_trigger("marks.white:whole")(torch.zeros(1, 1, 2, 2)), torch.ones(1, 1, 2, 2))
    assert sys.path == path


def test_a_file_that_does_not_import_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trig.py").write_text("import no_such_package_here\n")
    with pytest.raises(InputError, match=r"`trigger` should name a file that imports\. Found ModuleNotFoundError"):
        parse_trigger(f"{tmp_path / 'trig.py'}:f")


class Stamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Bare:
    def __call__(self, x: Tensor) -> Tensor:
        return x


def test_descriptions_are_the_same_in_every_run() -> None:
    assert describe(torch.sigmoid) == "torch:sigmoid" or describe(torch.sigmoid).endswith("sigmoid")
    assert describe(Bare()).endswith(":Bare")
    assert "0x" not in describe(Bare())
    stamp: Trigger = nn.Sequential(Stamp(), Stamp())
    assert "\n" not in describe(stamp)


def mutating(x: Tensor) -> Tensor:
    x[0] = 0
    return x


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        (
            mutating,
            r"`trigger` should leave its input untouched\. Found .*mutating writes into it\. Work on `x\.clone\(\)`",
        ),
        (lambda x: x * 255, r"`trigger` should stay in \[0, 1\]\. Found values from .* to 255 .*Pixels are x / 255"),
        (lambda x: x - 1e-4, r"`trigger` should stay in \[0, 1\]\. Found values from -0\.0001"),
        (lambda x: x * torch.nan, r"`trigger` should stay in \[0, 1\]\. Found values from nan to nan"),
        (
            lambda x: x[:1],
            r"`trigger` should keep shape, dtype and device: \(2, 1, 2, 2\) torch\.float32 on cpu\. Found \(1, 1, 2, 2\)",
        ),
        (lambda x: x.double(), r"`trigger` should keep shape, dtype and device: .* Found .* torch\.float64"),
        (lambda x: x.numpy(), r"`trigger` should return a tensor\. Found ndarray"),
        (lambda x: x[:, 5], r"`trigger` should take inputs \(2, 1, 2, 2\)\. Found IndexError: .* from "),
    ],
)
def test_applying_refuses_a_broken_contract(trigger: Trigger, message: str) -> None:
    assert_refused(trigger, torch.tensor([0.0, 0.5, 0.75, 1.0] * 2).reshape(2, 1, 2, 2), message)


def test_applying_clips_rounding_only() -> None:
    x = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    assert apply_trigger(lambda x: x * (1 + 5e-7), x).tolist() == x.tolist()
    assert_refused(Patch(1), x * 2, r"`samples` should be in \[0, 1\] for a trigger\. Found values from 0 to 2")
