"""`Adversary`: text and numbers in, an objective out."""

import pytest
from pydantic import ValidationError

from isthmus.attacks.pgd import PGD
from isthmus.training.adversarial import Adversarial, Trades
from isthmus.training.adversary import Adversary


def test_each_method_has_the_steps_of_its_authors() -> None:
    expected = {
        "pgd": PGD(10, 0.25, 1.0),
        "fgsm-rs": PGD(1, 1.25, 1.0),
        "n-fgsm": PGD(1, 1.0, 2.0, confine=False),
        "trades": PGD(10, 0.25, 0.03),
    }
    for method, attack in expected.items():
        found = Adversary.model_validate({"method": method}).objective()
        assert isinstance(found, Trades if method == "trades" else Adversarial)
        assert found.attack == attack
        assert found.settings(0.5) == {"radius": 8 / 255}


def test_radii_are_text_or_numbers_one_for_each_norm() -> None:
    found = Adversary.model_validate({"norms": ("linf", "l2"), "eps": ("8/255", 0.5), "combine": "mean"})
    assert found.eps == (8 / 255, 0.5)
    objective = found.objective()
    assert isinstance(objective, Adversarial)
    assert [(threat.norm, threat.radius) for threat in objective.threats] == [("linf", 8 / 255), ("l2", 0.5)]
    assert objective.combine == "mean"


def test_the_cycles_are_those_of_the_plan_unless_given() -> None:
    found = Adversary(schedule="periodic-linear")
    assert found.budget((0.5,)).resets == (0.5,)
    assert Adversary(schedule="periodic-linear", resets=()).budget((0.5,)).resets == ()
    objective = found.objective((0.5,))
    assert objective.settings(0.5)["radius"] == objective.settings(0.0)["radius"] == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norms": ("linf", "l2")}, "`eps` should have one radius for each of 2 norms. Found 1"),
        ({"method": "trades", "clean_weight": 0.5}, "`method` should be pgd for several norms or a clean weight"),
        ({"eps": ("eight",)}, "eight"),
        ({"eps": (0.0,)}, "greater than 0"),
        ({"eps": (8.0,)}, "`eps` should be at most 1, in units of inputs in .0, 1.. Found 8. Say 8/255"),
        ({"overshoot": 2.0}, "`overshoot` should be None for a constant budget"),
        ({"method": "pdg"}, "pdg|Input should be"),
        ({"steps": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Adversary.model_validate(settings)
