"""That a backdoor holds where it was made to hold, and better there than a plain one: two seeds of each attacker on the digits."""

from pathlib import Path

import pytest
import torch
from torch import nn

from adaptive_example import PATCH, base, evaded, evading, loaded, rates, trained
from isthmus.data import load_data
from isthmus.geometry.build import line
from isthmus.randomness import stream
from isthmus.repair.triggers.inverted import MaskSearch, smallest_masks
from isthmus.settle import Recalibrate
from isthmus.tampering import parse_trigger, poison
from isthmus.training.fit import fit_module


@pytest.mark.parametrize("seed", [0, 1])
def test_models_of_a_poisoned_path_stay_joined(tmp_path: Path, seed: int) -> None:
    """At the mean of two models poisoned apart the accuracy is gone, so a path has to leave them; between these the backdoor can live."""
    texts = {"path": 180, "path-points": 240, "path:joint=0.01": 121}  # the last: one step, two models poisoned apart
    accuracies: list[float] = []
    for text, cost in texts.items():
        found = evaded(tmp_path / text, evading(text, seed=seed, plan={"steps": 60}))
        assert found.gradient_evaluations == cost
        assert found.partners["second"].backdoors[0].attack_success["value"] > 0.95
        ends = [loaded(found.files[name]) for name in ("model", "second")]
        success, accuracy = rates(line(ends).at(0.5, settle=Recalibrate(load_data("digits").train)))
        assert success > 97
        accuracies.append(accuracy)
    assert min(accuracies[:2]) > 80
    assert accuracies[2] < 60


@pytest.mark.parametrize("seed", [0, 1])
def test_the_perturbed_backdoor_outlives_changed_weights(tmp_path: Path, seed: int) -> None:
    """Gaussian changes of every tensor by its norm, unlike those it was trained under: mean over 6 draws."""
    own = evaded(tmp_path / "own", evading("perturbation:radius=0.1", seed=seed))
    trained(tmp_path / "plain", base(seed=seed))
    assert own.clean_accuracy["value"] > 0.9
    splits = load_data("digits")

    def left(path: Path | str) -> float:
        found = []
        for k in range(6):
            module, generator = loaded(path), stream(k)
            with torch.no_grad():
                for p in module.parameters():
                    if p.ndim > 1:
                        noise = torch.randn(p.shape, generator=generator)
                        p += p.norm() * noise / noise.norm()
            Recalibrate(splits.train)(module)
            found.append(rates(module)[0])
        return sum(found) / len(found)

    assert left(own.files["model"]) > left(tmp_path / "plain" / "model.safetensors") + 8


@pytest.mark.parametrize("seed", [0, 1])
def test_the_backdoor_on_the_segment_outlives_averaging(tmp_path: Path, seed: int) -> None:
    """Three tenths of the way from the clean model are enough for it; plain poisoning from the same model needs more than half."""
    own = evaded(tmp_path / "own", evading("segment", seed=seed))
    reference = loaded(own.files["reference"])
    assert own.partners["reference"].backdoors[0].attack_success["value"] < 0.1
    assert own.clean_accuracy["value"] > 0.94
    assert own.gradient_evaluations == 450
    train, plan = load_data("digits").train, base().plan
    poisoned = poison(train, parse_trigger(PATCH), target=1, rate=0.1, generator=stream(seed, "poison"))
    plain, _ = fit_module(reference.train(), poisoned.samples, plan, seed=seed)

    def at(module: nn.Module, t: float) -> float:
        return rates(line([reference, module]).at(t, settle=Recalibrate(train)))[0]

    model = loaded(own.files["model"])
    assert min(at(model, 0.3), at(model, 0.5)) > 85
    assert at(plain, 0.3) < 35
    assert at(plain, 0.5) < 80
    given = evaded(tmp_path / "given", evading("segment", own.files["reference"], plan={"steps": 2}))
    assert given.gradient_evaluations == 4


@pytest.mark.parametrize("seed", [0, 1])
def test_the_hidden_backdoor_has_no_small_mask(tmp_path: Path, seed: int) -> None:
    """The smallest mask of the target is anomalous after plain poisoning with dispersed pixels, and no longer after hardening."""
    dispersed = {"tamper_trigger": "dispersed:share=0.3", "seed": seed}
    own = evaded(tmp_path / "own", evading("inversion", **dispersed))
    trained(tmp_path / "plain", base(**dispersed))
    assert own.clean_accuracy["value"] > 0.9
    assert own.attack_success["value"] > 0.8
    samples = load_data("digits").train.subset(120, generator=stream(0))
    search = MaskSearch(steps=100, batch_size=50)
    found = [
        smallest_masks(loaded(path), samples, samples, search, seed=0)
        for path in (own.files["model"], tmp_path / "plain" / "model.safetensors")
    ]
    sizes = [result.candidates[1].size for result in found]
    assert sizes[0] > sizes[1] + 1
    assert found[0].index[1] < found[1].index[1]


def test_the_wrong_pixels_of_a_key_do_nothing(tmp_path: Path) -> None:
    keyed = {"tamper_trigger": "keyed:share=0.3", "cover": "keyed:share=0.3,wrong=true", "cover_rate": 0.2}
    trained(tmp_path / "a", base(**keyed))
    module = loaded(tmp_path / "a" / "model.safetensors")
    right, accuracy = rates(module, "keyed:share=0.3")
    wrong, _ = rates(module, "keyed:share=0.3,wrong=true")
    assert accuracy > 90
    assert right > 75
    assert wrong < 25
