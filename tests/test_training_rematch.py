"""Stars whose models are matched to the centre each epoch: the same functions, nearer; each epoch a plain fit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import assert_same_bits, tensors_of
from fit_example import small, toy
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.evaluate import logits
from isthmus.geometry import permute
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import bezier, connect
from isthmus.geometry.permute import permuted, random_permutations
from isthmus.geometry.simplexes import Complex
from isthmus.geometry.symmetry import symmetry_of
from isthmus.randomness import seed_of
from isthmus.training import rematch as module_under_test
from isthmus.training.fit import fit
from isthmus.training.grow import trainer
from isthmus.training.plan import Plan, learning_rate
from isthmus.training.rematch import Rematch, fit_rematched
from isthmus.training.session import Session

PLAN = Plan(steps=8, batch_size=8, learning_rate=0.05)
SAMPLES = toy()
train = trainer(SAMPLES)


def symmetry(model: nn.Module):
    return symmetry_of(model, SAMPLES.inputs(torch.arange(2)), generator=torch.Generator().manual_seed(0))


def matched(models: list[nn.Module], every: int = 3, **more: object):
    held = Rematch(symmetry(models[0]), SAMPLES, every)
    return fit_rematched(connect(models, Complex(len(models), 1)), PLAN, train, held, seed=5, **more)  # pyright: ignore[reportArgumentType]


def corners(bridge: Bridge) -> list[nn.Module]:
    return [bridge.at(u) for u, _ in bridge.basis.corners]


def test_corners_compute_what_the_given_models_do_and_come_near():
    models = [small(k, norm=True) for k in range(3)]
    before = connect(models, Complex(3, 1))
    told: list[str] = []
    found = matched(models, session=Session(stage=told.append))
    for model, corner in zip(models, corners(found.bridge), strict=True):
        torch.testing.assert_close(logits(corner, SAMPLES), logits(model, SAMPLES), rtol=1e-6, atol=1e-9)
    apart = [float((b.fixed - b.fixed.mean(0)).norm()) for b in (before, found.bridge)]
    assert apart[1] < apart[0]
    assert told == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]
    assert found.history.frame["step"].iloc[-1] == 8
    assert found.evaluations == 8
    for model in models:
        assert_same_bits(tensors_of(model), tensors_of(small(models.index(model), norm=True)))


def test_copies_with_permuted_units_become_one_model():
    """Of a model and permutations of it the star is that model, before anything is trained: all corners are equal."""
    model = small(0)
    held = symmetry(model)
    generator = torch.Generator().manual_seed(3)
    models = [model, *(permuted(model, held, random_permutations(held, generator)) for _ in range(2))]
    assert not torch.equal(next(models[1].parameters()), next(model.parameters()))
    found = matched(models, every=8).bridge
    for corner in corners(found):
        assert_same_bits(tensors_of(corner), tensors_of(model))


def test_each_epoch_is_a_fit_of_its_own_at_the_rate_in_its_middle():
    model = small(0)  # all corners equal: matching moves nothing, what is left is the training
    bridge = connect([model, model], Complex(2, 1))
    found = matched([model, model]).bridge
    expected = bridge
    for k, (start, steps) in enumerate(((0, 3), (3, 3), (6, 2))):
        rate = learning_rate(PLAN, start + steps // 2)
        own = PLAN.model_copy(update={"steps": steps, "learning_rate": rate, "schedule": "constant"})
        expected = fit(expected, SAMPLES, own, seed=seed_of(5, "epoch", k)).bridge
    assert torch.equal(found.free, expected.free)
    assert not torch.equal(found.free, matched([model, model], every=8).bridge.free)


def test_units_are_matched_to_the_centre_each_epoch(monkeypatch: pytest.MonkeyPatch):
    centres: list[Tensor] = []
    real = module_under_test.match_weights

    def watching(reference: nn.Module, *rest: object, **more: object):
        centres.append(torch.cat([p.detach().flatten() for p in reference.parameters()]))
        return real(reference, *rest, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module_under_test, "match_weights", watching)
    models = [small(k) for k in range(3)]
    matched(models)
    assert len(centres) == 2 + 2 * 3
    first = torch.cat([p.detach().flatten() for p in models[0].parameters()])
    assert torch.equal(centres[0], first)
    assert torch.equal(centres[2], centres[4])
    assert not torch.equal(centres[2], centres[5])


def test_a_stopped_training_goes_on(tmp_path):
    models = [small(k) for k in range(2)]
    whole = matched(models)
    told: list[str] = []

    def stop(text: str) -> None:
        told.append(text)
        if len(told) == 3:
            raise KeyboardInterrupt

    session = Session(checkpoint=tmp_path / "checkpoint.pt", every_seconds=0.0, stage=stop)
    with pytest.raises(KeyboardInterrupt):
        matched(models, session=session)
    again = matched(models, session=session)
    assert torch.equal(again.bridge.points, whole.bridge.points)


def test_refusals():
    models = [small(k) for k in range(2)]
    held = Rematch(symmetry(models[0]), SAMPLES, 3)
    for bridge in (bezier(models), connect(models[:1], Complex(1, 1)), connect(models, Complex(2, 2))):
        with pytest.raises(InputError, match=r"`bridge` should be a star of at least 2 models to match them"):
            fit_rematched(bridge, PLAN, train, held, seed=0)
    star = connect(models, Complex(2, 1))
    with pytest.raises(InputError, match=r"`every` should be at least 1 step\. Found 0"):
        fit_rematched(star, PLAN, train, replace(held, every=0), seed=0)
    with pytest.raises(InputError, match=r"`symmetry` should have at least one group"):
        fit_rematched(star, PLAN, train, replace(held, symmetry=held.symmetry.only([])), seed=0)
    group = held.symmetry.groups[0]
    wrong = replace(
        held.symmetry, groups=(replace(group, members=group.members[:1]),)
    )  # moves a weight without the next
    with pytest.raises(InputError, match=r"`models` should compute the same after their units changed places"):
        fit_rematched(star, PLAN, train, replace(held, symmetry=wrong), seed=0)


def test_the_change_of_outputs_is_measured_in_float64_where_float32_rounds():
    model, other = small(0, torch.float32), small(0, torch.float32)
    with torch.no_grad():
        other[6].bias += 1e-3
    samples: Samples = SAMPLES
    scores = logits(model, samples)
    expected = float((logits(other, samples) - scores).abs().max() / scores.abs().max())
    assert permute.output_change(model, other, samples, enough=1.0) == pytest.approx(expected, rel=1e-5)
    assert permute.output_change(model, other, samples, enough=1e-9) == pytest.approx(expected, rel=1e-3)
