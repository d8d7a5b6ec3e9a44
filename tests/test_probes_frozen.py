"""Frozen examples: the worst points met where they were crafted, the same images everywhere else."""

from copy import deepcopy

import pytest
import torch

from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Threat
from isthmus.data.samples import Samples
from isthmus.evaluate import correct, logits
from isthmus.losses import cross_entropy
from isthmus.models import build_model
from isthmus.probes import Clean, Robust
from isthmus.probes.frozen import Frozen, freeze
from isthmus.table import Table


def case(arch="cnn"):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(30, 1, 8, 8, generator=generator)
    samples = Samples(x, torch.randint(4, (30,), generator=generator), 4, "made")
    models = [build_model(arch, num_classes=4, input_shape=(1, 8, 8), width=2, seed=seed) for seed in range(2)]
    return samples, models


@pytest.mark.parametrize("batch", [7, 250])
def test_loss_where_they_were_crafted_is_the_robust_loss(batch):
    samples, (model, _) = case()
    threat, attack = Threat("linf", 0.2), PGD(3)
    made = freeze(model, samples, threat, attack, generator=torch.Generator().manual_seed(1), batch_size=batch)
    robust = Robust(samples, threat, attack, batch_size=batch)(model, generator=torch.Generator().manual_seed(1))
    assert Frozen(made, "here")(model)["frozen_loss"] == pytest.approx(robust["robust_loss"], rel=1e-6)
    assert float((made.inputs() - samples.inputs()).abs().max()) == pytest.approx(0.2, abs=1e-6)
    assert made.y is samples.y or torch.equal(made.y, samples.y)


def test_elsewhere_it_is_the_clean_probe_on_them_and_below_the_worst_case():
    samples, (model, other) = case()
    threat, attack = Threat("linf", 0.2), PGD(10)
    made = freeze(model, samples, threat, attack, generator=torch.Generator().manual_seed(1))
    found = Frozen(made, "here")(other)
    scores = logits(other, made)
    assert found["frozen_loss"] == pytest.approx(float(cross_entropy(scores.double(), made.y).mean()))
    assert found["frozen_error"] == pytest.approx(100 * float((~correct(scores, made.y)).double().mean()))
    worst = Robust(samples, threat, attack)(other, generator=torch.Generator().manual_seed(1))
    assert Clean(samples)(other)["test_loss"] < found["frozen_loss"] < worst["robust_loss"]


def test_columns_say_what_they_are_and_the_model_is_as_before():
    samples, (model, _) = case()
    model.train()
    before = deepcopy(model.state_dict())
    made = freeze(model, samples, Threat("l2", 0.5), PGD(2), generator=torch.Generator().manual_seed(1))
    for split, prefix in (("test", ""), ("train", "train_")):
        probe = Frozen(made, "crafted at the centre", split)
        values = probe(model)
        assert [column.name for column in probe.columns] == [f"{prefix}frozen_loss", f"{prefix}frozen_error"]
        assert list(values) == [column.name for column in probe.columns]
        Table.of([dict(values)], probe.columns)
        assert all(column.n == 30 and column.split == split for column in probe.columns)
        assert "made crafted at the centre, the same at every point" in probe.columns[0].about
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
