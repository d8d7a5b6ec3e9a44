"""Suites hold the published attacks in the published order; names and settings are checked."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from isthmus._check import InputError
from isthmus.attacks.apgd import APGD, TargetedAPGD
from isthmus.attacks.fab import FAB
from isthmus.attacks.pgd import FGSM, PGD
from isthmus.attacks.square import Square
from isthmus.attacks.suites import ATTACKS, SUITES, Suite, parse_attacks, suite_of
from isthmus.losses import cross_entropy, dlr, margin

TEN = 10


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_standard_is_the_published_order(norm):
    suite = parse_attacks("standard", num_classes=TEN, norm=norm)
    assert suite.attacks == (APGD(100, cross_entropy, 1), TargetedAPGD(100, 9, 1), FAB(100, 9, 1), Square(5000))
    assert suite.keys == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert (suite.passes, suite.doubts) == (1, ())


def test_standard_differs_in_l1_as_published():
    suite = parse_attacks("standard", num_classes=TEN, norm="l1")
    assert suite.attacks == (APGD(100, cross_entropy, 5), TargetedAPGD(100, 5, 1), FAB(100, 9, 1), Square(5000))


def test_standard_plus():
    suite = parse_attacks("standard-plus", num_classes=TEN)
    assert suite.attacks == (
        APGD(100, cross_entropy, 5),
        APGD(100, dlr, 5),
        FAB(100, 9, 5),
        Square(5000),
        TargetedAPGD(100, 9, 1),
        FAB(100, 9, 1),
    )
    assert len(set(suite.keys)) == 6


def test_random_averages_twenty_passes():
    suite = parse_attacks("random", num_classes=TEN)
    assert suite.attacks == (APGD(100, cross_entropy, 1), APGD(100, dlr, 1))
    assert suite.passes == 20


@pytest.mark.parametrize(
    ("text", "attacks"),
    [
        ("pgd", (PGD(),)),
        ("pgd:steps=20,restarts=2", (PGD(20, restarts=2),)),
        ("pgd:step=0.5,start=0,loss=dlr", (PGD(step=0.5, start=0.0, loss=dlr),)),
        ("pgd:loss=margin", (PGD(loss=margin),)),
        ("fgsm", (FGSM,)),
        ("square:queries=1000", (Square(1000),)),
        ("apgd-dlr:restarts=3", (APGD(100, dlr, 3),)),
        ("apgd-ce + apgd-t:targets=3 + pgd", (APGD(100, cross_entropy, 1), TargetedAPGD(100, 3, 1), PGD())),
        ("fgsm+standard", (FGSM, *parse_attacks("standard", num_classes=TEN).attacks)),
    ],
)
def test_attacks_by_name_with_settings(text, attacks):
    assert parse_attacks(text, num_classes=TEN).attacks == attacks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("standart", r"`attack` should be one of .*standard.*Found 'standart'. Did you mean 'standard'\?"),
        ("apgd", r"`attack` should be one of .*Found 'apgd'. Did you mean 'f?apgd|Did you mean 'pgd'"),
        ("pgd+", r"Found ''"),
        ("", r"`attack` should be one of .*Found ''"),
        (
            "pgd:step_size=2",
            r"`pgd` should have the settings steps, step, .*Found 'step_size'. Did you mean 'steps?'\?",
        ),
        ("pgd:steps", r"`pgd` should be followed by settings as name=value,name=value, each once. Found 'steps'"),
        ("pgd:steps=1,steps=2", r"`pgd` should be followed by .* each once. Found 'steps=2'"),
        ("pgd:steps=many", r"`steps` should be a whole number. Found 'many'"),
        ("pgd:step=wide", r"`step` should be a number. Found 'wide'"),
        ("pgd:steps=0", r"`steps` should be at least 1. Found 0"),
        ("pgd:loss=cw", r"`loss` should be one of ce, dlr, margin. Found 'cw'"),
        ("apgd-ce:loss=dlr", r"`apgd-ce` should have the settings .*Found 'loss'"),
        ("fgsm:steps=2", r"`fgsm` should be followed by nothing. Found 'steps=2'"),
        ("standard:steps=2", r"`attack` should be the suite standard without settings. Found 'standard:steps=2'"),
    ],
)
def test_what_cannot_be_run_is_named(text, message):
    with pytest.raises(InputError, match=message):
        parse_attacks(text, num_classes=TEN)


def test_fewer_classes_mean_fewer_targets():
    suite = parse_attacks("standard", num_classes=5)
    assert suite.attacks[1:3] == (TargetedAPGD(100, 4, 1), FAB(100, 4, 1))
    assert suite.doubts == ()  # all the other classes are targets: nothing is missing
    assert parse_attacks("apgd-t:targets=9", num_classes=4).attacks == (TargetedAPGD(100, 3, 1),)
    assert parse_attacks("apgd-t:targets=2", num_classes=4).attacks == (TargetedAPGD(100, 2, 1),)


@pytest.mark.parametrize(
    ("suite", "classes", "left", "runs"),
    [
        ("standard", 3, "apgd-t", ("apgd-ce", "fab-t", "square")),
        ("standard", 2, "apgd-t", ("apgd-ce", "fab-t", "square")),
        ("random", 2, "apgd-dlr", ("apgd-ce",)),
    ],
)
def test_a_suite_leaves_out_what_needs_more_classes_and_says_so(suite, classes, left, runs):
    found = parse_attacks(suite, num_classes=classes)
    assert found.keys == runs
    (doubt,) = found.doubts
    assert doubt.kind == "few-classes"
    assert not doubt.voids
    assert f"the suite {suite} runs without {left}: " in doubt.message
    assert f"the model has {classes}" in doubt.message


@pytest.mark.parametrize(("name", "classes", "needs"), [("apgd-t", 3, 4), ("apgd-dlr", 2, 3)])
def test_an_attack_named_by_itself_does_not_run_with_too_few_classes(name, classes, needs):
    with pytest.raises(
        InputError, match=rf"`attack` should suit {classes} classes; {name} needs {needs}. Found {name}"
    ):
        parse_attacks(name, num_classes=classes)
    assert parse_attacks(name, num_classes=needs).attacks[0].name == name


def test_repeated_attacks_have_names_of_their_own():
    assert parse_attacks("square+pgd+square", num_classes=TEN).keys == ("square", "pgd-10", "square#2")


def test_suites_of_texts_attacks_and_suites():
    named = parse_attacks("fgsm+pgd", num_classes=TEN)
    assert suite_of("fgsm+pgd", num_classes=TEN, norm="linf") == named
    assert suite_of(named, num_classes=TEN, norm="linf") is named
    assert suite_of([FGSM, PGD()], num_classes=TEN, norm="linf") == Suite("fgsm+pgd-10", named.attacks)
    with pytest.raises(InputError, match=r"`attack` should name at least one attack that can be run"):
        suite_of([], num_classes=TEN, norm="linf")
    with pytest.raises(InputError, match=r"`passes` should be at least 1. Found 0"):
        Suite("pgd", (PGD(),), passes=0)


def test_every_name_says_what_it_is():
    assert not set(ATTACKS) & set(SUITES)
    assert all(len(text) > 10 for text in (*SUITES.values(), *(kind.about for kind in ATTACKS.values())))
    for name, kind in ATTACKS.items():
        made = parse_attacks(name, num_classes=TEN).attacks[0]
        assert re.fullmatch(rf"{name}(-\d+)?", made.name)
        assert all(hasattr(made, option) for option in kind.options)


def test_any_dataclass_of_numbers_can_be_listed():
    from isthmus.attacks.suites import Kind

    @dataclass(frozen=True)
    class Own:
        steps: int = 1
        width: float = 1.0
        deep: bool = False
        way: Callable = print

    assert Kind(Own, "mine").options == {"steps": int, "width": float}
