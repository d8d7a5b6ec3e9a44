"""Fine-tuning, training from scratch and the plain average."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from contracts.modules import assert_same_bits, tensors_of, untouched
from isthmus._check import InputError
from isthmus.repair.baselines import Average, FineTune, FromScratch
from isthmus.repair.protocol import Repaired
from isthmus.settle import Recalibrate
from isthmus.training.fit import fit_module
from isthmus.training.objective import Supervised
from isthmus.training.plan import Plan
from isthmus.training.session import Session
from repair_example import fresh, suspects, trusted

PLAN = Plan(steps=8, batch_size=20)
MARGIN = Supervised(lambda logits, y: -logits.gather(1, y[:, None]).squeeze(1))


def settled(module: nn.Module) -> nn.Module:
    Recalibrate(trusted().train)(module)
    return module


def run(repair: object, models: tuple[nn.Module, ...] | None = None, *, seed: int = 3) -> Repaired:
    with untouched(*(models or suspects())):
        return repair(models or suspects(), trusted(), seed=seed, session=Session())  # type: ignore[operator]


@pytest.mark.parametrize("sharpness", [None, 0.5])
def test_fine_tuning_is_training_the_first_suspect_further(sharpness: float | None) -> None:
    plan = PLAN.model_copy(update={"sharpness": sharpness})
    found = run(FineTune(plan))
    expected, fitted = fit_module(suspects()[0], trusted().train, plan, seed=3)
    assert_same_bits(tensors_of(found.module), tensors_of(settled(expected)))
    assert found.evaluations == plan.evaluations == (8 if sharpness is None else 16)
    assert found.history is not None
    assert found.history.frame.equals(fitted.history.frame)
    assert (found.name, found.note, found.choice, found.bridge) == ("fine-tune", "last step", None, None)


def test_fine_tuning_takes_another_objective() -> None:
    found, plain = run(FineTune(PLAN, "other", MARGIN)), run(FineTune(PLAN))
    assert found.name == "other"
    assert not torch.equal(found.module.fc.weight, plain.module.fc.weight)


def test_from_scratch_uses_nothing_of_the_suspects() -> None:
    broken = tuple(deepcopy(model) for model in suspects())
    for model in broken:
        nn.init.constant_(model.fc.weight, torch.nan)
    found = run(FromScratch(PLAN, fresh), broken)
    expected, _ = fit_module(fresh(3), trusted().train, PLAN, seed=3)  # built from the seed
    assert_same_bits(tensors_of(found.module), tensors_of(settled(expected)))
    assert found.evaluations == 8


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_average_is_the_mean_of_the_weights(count: int) -> None:
    models = (*suspects(), fresh(5))[:count]
    found = run(Average(), models)
    states = [dict(model.named_parameters()) for model in models]
    for name, parameter in found.module.named_parameters():
        mean = torch.stack([state[name].detach().double() for state in states]).mean(0)
        torch.testing.assert_close(parameter.detach().double(), mean, rtol=1e-6, atol=1e-7)
    assert (found.evaluations, found.note, found.history) == (0, "no training", None)


def test_the_average_gets_statistics_of_its_own() -> None:
    found = run(Average()).module
    again = settled(deepcopy(found))
    torch.testing.assert_close(again.bn3.running_mean, found.bn3.running_mean)
    assert not torch.allclose(found.bn3.running_mean, suspects()[0].bn3.running_mean, rtol=0.05)


def test_models_that_differ_have_no_average() -> None:
    with pytest.raises(InputError, match=r"`model 1` should have 'weight' like `model 0`"):
        Average()((nn.Linear(2, 3), nn.Linear(2, 4)), trusted(), seed=0, session=Session())
