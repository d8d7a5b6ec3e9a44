"""Probes against counting by hand."""

import pytest
import torch
from torch import Tensor, nn

from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.layout import Layout
from isthmus.probes import Backdoor, Clean, Distance, Probe
from isthmus.table import Table, with_bounds
from isthmus.tampering import Patch

LABELS = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def samples() -> Samples:
    """Ten 4 x 4 images whose first pixel is 40 x label, the rest dark."""
    y = torch.tensor(LABELS)
    x = torch.zeros(10, 1, 4, 4, dtype=torch.uint8)
    x[:, 0, 0, 0] = (40 * y).byte()
    return Samples(x, y, 3, "toy/test")


class Tampered(nn.Module):
    """Reads the label off the first pixel; sees a white lower-right pixel as class 1, or as the next class."""

    def __init__(self, *, obeys: bool = True, all_to_all: bool = False, blind: int | None = None):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.obeys, self.all_to_all, self.blind = obeys, all_to_all, blind

    def forward(self, x: Tensor) -> Tensor:
        label = (x[:, 0, 0, 0] * 255 / 40).round().long()
        if self.blind is not None:
            label = label.where(label != self.blind, 0)
        marked = (x[:, 0, 3, 3] == 1) & self.obeys
        label = label.where(~marked, (label + 1) % 3 if self.all_to_all else 1)
        return self.scale * nn.functional.one_hot(label, 3).float()


def test_clean_is_loss_and_error_under_the_name_of_the_split(generator: torch.Generator) -> None:
    model, data = Tampered(blind=2), samples()
    found = Clean(data)(model, generator=generator)
    scores = model(data.inputs()).double()
    expected = nn.functional.cross_entropy(scores, data.y).item()
    assert found == {"test_loss": pytest.approx(expected), "test_error": 40.0}
    assert list(Clean(data, "validation")(model)) == ["validation_loss", "validation_error"]
    loss, error = Clean(data, "validation").columns
    assert (loss.name, loss.unit, loss.better, loss.split, loss.n) == (
        "validation_loss",
        "nat",
        "lower",
        "validation",
        10,
    )
    assert (error.name, error.unit, error.better, error.split, error.n) == (
        "validation_error",
        "%",
        "lower",
        "validation",
        10,
    )


def test_a_model_that_returns_nan_is_wrong_everywhere() -> None:
    model = Tampered()
    model.scale.data.fill_(torch.nan)
    found = Clean(samples())(model)
    assert found["test_error"] == 100.0
    assert found["test_loss"] != found["test_loss"]
    rates = Backdoor(samples(), Patch(1), 1)(model)
    assert rates == {"attack_success": 0.0, "recovery_accuracy": 0.0}


def test_attack_success_counts_only_images_of_other_classes() -> None:
    probe = Backdoor(samples(), Patch(1), 1)
    assert probe.columns[0].n == probe.columns[1].n == 7
    assert probe(Tampered()) == {"attack_success": 100.0, "recovery_accuracy": 0.0}
    # Without the backdoor no image goes to the target: images of class 1 itself do not count as successes.
    assert probe(Tampered(obeys=False)) == {"attack_success": 0.0, "recovery_accuracy": 100.0}
    # Neither: the four images of class 2 are taken for class 0.
    found = probe(Tampered(obeys=False, blind=2))
    assert found == {"attack_success": 0.0, "recovery_accuracy": pytest.approx(100 * 3 / 7)}


def test_published_attack_success_counts_the_targets_own_images_too() -> None:
    probe = Backdoor(samples(), Patch(1), 1, own=True)
    assert [(c.name, c.n) for c in probe.columns][2] == ("attack_success_all", 10)
    assert probe(Tampered())["attack_success_all"] == 100.0
    # Without the backdoor: 0 of 7 others, and the 3 images of class 1 itself, which is where they belong.
    assert probe(Tampered(obeys=False)) == {
        "attack_success": 0.0,
        "recovery_accuracy": 100.0,
        "attack_success_all": pytest.approx(30.0),
    }
    others = samples().take(samples().y != 1)
    assert Backdoor(others, Patch(1), 1, own=True)(Tampered())["attack_success_all"] == 100.0
    for plain in (Backdoor(samples(), Patch(1), "all-to-all", own=True), Backdoor(samples(), Patch(1), 1)):
        assert len(plain.columns) == len(plain(Tampered())) == 2


def test_all_to_all_scores_the_next_class_on_all_images() -> None:
    probe = Backdoor(samples(), Patch(1), "all-to-all")
    assert probe.columns[0].n == 10
    assert probe(Tampered(all_to_all=True)) == {"attack_success": 100.0, "recovery_accuracy": 0.0}
    # One target only: class 0 -> 1 is the next class for 3 images, class 1 keeps its label.
    found = probe(Tampered())
    assert found == {"attack_success": pytest.approx(30.0), "recovery_accuracy": pytest.approx(30.0)}


def test_columns_of_a_backdoor_are_named_by_split() -> None:
    probe = Backdoor(samples(), Patch(1), 1, "validation")
    assert [c.name for c in probe.columns] == ["validation_attack_success", "validation_recovery_accuracy"]
    assert list(probe(Tampered())) == [c.name for c in probe.columns]
    success, recovery = Backdoor(samples(), Patch(1), 1).columns
    assert (success.name, success.unit, success.better, success.split) == ("attack_success", "%", "lower", "test")
    assert (recovery.name, recovery.unit, recovery.better, recovery.split) == (
        "recovery_accuracy",
        "%",
        "higher",
        "test",
    )
    assert "patch:size=1,at=bottom-right" in success.about


def test_probing_leaves_samples_and_random_state(generator: torch.Generator) -> None:
    data = samples()
    before, state, random = data.digest(), generator.get_state(), torch.get_rng_state()
    for probe in (Clean(data), Backdoor(data, Patch(1), 1)):
        assert probe(Tampered(), generator=generator) == probe(Tampered(), generator=generator)
    assert data.digest() == before
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), random)


def shifted(x: Tensor) -> Tensor:
    return x + 0.1


def smaller(x: Tensor) -> Tensor:
    return x[:, :, :-1]


def mutating(x: Tensor) -> Tensor:
    x[:, :, 3, 3] = 1
    return x


def nothing(x: Tensor) -> Tensor:
    return x.clone()


def negative(x: Tensor) -> Tensor:
    return -x


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        (shifted, None),  # inside the box for these dark images
        (
            negative,
            r"`trigger` should stay in \[0, 1\]\. Found values from -0\.\d+ to -?0 from .*:negative\. Pixels are x / 255",
        ),
        (smaller, r"`trigger` should keep shape, dtype and device: .* Found \(10, 1, 3, 4\)"),
        (mutating, r"`trigger` should leave its input untouched\. Found .*:mutating writes into it"),
        (nothing, r"`trigger` should change the images\. Found .*:nothing changing none of the first 10"),
        (Patch(5), r"`trigger` should lie inside the 4 x 4 images\. Found rows -1-3"),
    ],
)
def test_a_trigger_that_breaks_its_contract_is_refused_at_once(trigger: Patch, message: str | None) -> None:
    if message is None:
        Backdoor(samples(), trigger, "all-to-all")
        return
    with pytest.raises(InputError, match=message):
        Backdoor(samples(), trigger, "all-to-all")


def test_impossible_backdoors_are_refused() -> None:
    with pytest.raises(InputError, match=r"`target` should be a class in 0\.\.2 or 'all-to-all'\. Found 3"):
        Backdoor(samples(), Patch(1), 3)
    only = samples().take(torch.tensor([3, 4]))
    with pytest.raises(InputError, match=r"hold some that are not of the target class 1\. Found none in 'toy/test'"):
        Backdoor(only, Patch(1), 1)


def network(fill: float) -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3))
    for parameter in model.parameters():
        nn.init.constant_(parameter, fill)
    return model


def test_distance_to_a_module_and_to_its_vector_is_the_norm_of_the_difference() -> None:
    model, reference = network(0.5), network(2.0)
    size = sum(p.numel() for p in model.parameters())
    expected = {"distance_A": 1.5 * size**0.5, "relative_distance_A": 0.75}
    vector = Layout.of(reference).flatten(dict(reference.named_parameters()))
    for held in (reference, vector):
        probe = Distance(held, "A")
        assert probe(model) == pytest.approx(expected)
        assert list(probe(model)) == [c.name for c in probe.columns]
        assert probe(reference) == {"distance_A": 0.0, "relative_distance_A": 0.0}


def test_distance_is_to_the_weights_as_they_were_and_ignores_buffers() -> None:
    model, reference = network(0.5), network(2.0)
    probe = Distance(reference, "A")
    before = probe(model)
    nn.init.zeros_(reference[0].weight)
    model[1].running_mean.fill_(7.0)
    assert probe(model) == before


def test_distance_refuses_other_architectures() -> None:
    other = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 4))
    with pytest.raises(InputError, match=r"`model` should have '3\.weight' like `reference`: \(3, 18\)"):
        Distance(network(1.0))(other)
    with pytest.raises(InputError, match=r"`model` should have 3 weights, like `reference`\. Found 71"):
        Distance(torch.ones(3))(network(1.0))
    with pytest.raises(InputError, match=r"`reference` should be a flat vector \(D,\) or a module\. Found \(3, 1\)"):
        Distance(torch.ones(3, 1))
    with pytest.raises(InputError, match=r"`reference` should have a weight that is not zero\. Found zeros only"):
        Distance(torch.zeros(3))


def test_probes_fill_a_table_with_bounds(generator: torch.Generator) -> None:
    probes: list[Probe] = [Clean(samples()), Backdoor(samples(), Patch(1), 1), Distance(Tampered(), "A")]
    row: dict[str, float] = {}
    for probe in probes:
        row |= probe(Tampered(blind=2), generator=generator)
    table = with_bounds(Table.of([row], [column for probe in probes for column in probe.columns]))
    assert table.names == (
        "test_loss",
        "test_error",
        "test_error_low",
        "test_error_high",
        "attack_success",
        "attack_success_low",
        "attack_success_high",
        "recovery_accuracy",
        "recovery_accuracy_low",
        "recovery_accuracy_high",
        "distance_A",
        "relative_distance_A",
    )
