"""`sharpness` and `trace`: the dense Hessian of functional calls, one point like many, the model left as it was."""

import pytest
import torch

import weights_example as example
from cli_example import call
from contracts.modules import untouched
from isthmus._check import InputError
from isthmus.geometry.build import bezier
from isthmus.probes import Sharpness, Trace
from isthmus.scan import scan
from isthmus.store import Card, save_bridge
from isthmus.training.adversary import Adversary
from isthmus.training.posing import posing


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(module, samples=None) -> torch.Tensor:
    samples = example.images(50) if samples is None else samples
    return example.dense_hessian(module, samples.inputs(), samples.y)


def test_both_are_those_of_the_dense_hessian_within_their_errors() -> None:
    samples, module = example.images(50), example.model()
    matrix = exact(module)
    with untouched(module):
        found = Sharpness(samples)(module, generator=generator())
    top = float(example.descending(matrix)[0])
    assert found["sharpness"] == pytest.approx(top, abs=found["sharpness_residual"] + 1e-5 * top)
    assert 0 < found["sharpness_residual"] <= 1e-3 * top
    probe = Trace(samples, products=40)
    with untouched(module):
        held = probe(module, generator=generator())
    assert held["trace"] == pytest.approx(float(matrix.trace()), abs=held["trace_high"] - held["trace"])
    assert held["trace_low"] == pytest.approx(2 * held["trace"] - held["trace_high"])
    assert held["trace_high"] - held["trace"] < 0.5 * float(matrix.trace())
    assert [(c.name, c.unit, c.n, c.better) for c in probe.columns] == [
        ("trace", "nat/weight²", 50, "lower"),
        ("trace_low", "nat/weight²", 50, "lower"),
        ("trace_high", "nat/weight²", 50, "lower"),
    ]


def test_parameters_that_are_frozen_count_and_stay_frozen() -> None:
    module = example.model()
    free = Sharpness(example.images(50))(module, generator=generator())
    module.requires_grad_(False)
    assert Sharpness(example.images(50))(module, generator=generator()) == free
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_every_setting_changes_the_result() -> None:
    samples, module = example.images(50), example.model()
    plain = Sharpness(samples)(module, generator=generator())
    assert Sharpness(samples)(module, generator=generator()) == plain
    short = Sharpness(samples, steps=3)(module, generator=generator())
    assert short["sharpness_residual"] > plain["sharpness_residual"]
    tight = Sharpness(samples, tolerance=1e-6)(module, generator=generator())
    assert tight["sharpness_residual"] < plain["sharpness_residual"]
    assert tight["sharpness"] == pytest.approx(plain["sharpness"], rel=1e-3)
    assert Sharpness(samples, batch_size=7)(module, generator=generator())["sharpness"] == pytest.approx(
        plain["sharpness"], rel=1e-5
    )
    assert Sharpness(samples)(module, generator=generator(1)) != plain
    moved = posing(Adversary(eps=(0.2,), steps=3).objective(), samples)
    harder = Sharpness(samples, moved, name="attacked")(module, generator=generator())
    assert list(harder) == ["sharpness_attacked", "sharpness_attacked_residual"]
    examples = torch.cat([problem.inputs[0] for problem in moved(module)])
    top = float(example.descending(example.dense_hessian(module, examples, samples.y))[0])
    assert harder["sharpness_attacked"] == pytest.approx(top, rel=1e-3)
    few, many = (Trace(samples, products=count)(module, generator=generator()) for count in (10, 40))
    assert few["trace"] != many["trace"]
    assert Trace(samples, split="validation").columns[0].name == "validation_trace"


def test_a_scan_of_several_points_is_several_scans() -> None:
    bridge = bezier([example.model(0), example.model(1)])
    probes = [Sharpness(example.images(30)), Trace(example.images(30), products=6)]
    whole = scan(bridge, [0.0, 0.4, 1.0], probes, settle=None, seed=3).rows()
    for row in whole:
        assert scan(bridge, [row["t"]], probes, settle=None, seed=3).rows()[0] == row
    top = float(example.descending(exact(bridge.at(0.4), example.images(30)))[0])
    assert whole[1]["sharpness"] == pytest.approx(top, rel=1e-3)


def test_the_command_knows_both(capsys, tmp_path) -> None:
    card = Card(arch=example.ARCH, width=example.WIDTH, num_classes=10, input_shape=(1, 8, 8), data="digits")
    save_bridge(bezier([example.model(0), example.model(1)]), tmp_path / "bridge.safetensors", meta=card)
    words = ["scan", tmp_path, "--points", "2", "--probe", "sharpness", "--probe", "trace", "--json"]
    done = call(capsys, *words, "--hessian-n", "40")
    assert done.code == 0, done.err
    names = ["t", "sharpness", "sharpness_residual", "trace", "trace_low", "trace_high", "speed"]
    assert [column["name"] for column in done.json["columns"]] == names
    assert done.json["columns"][1]["n"] == 40
    assert call(capsys, *words, "--hessian-n", "50").json["rows"][0] != done.json["rows"][0]
    assert {"sharpness", "trace"} <= set(call(capsys, "list", "probes", "--json").json)


def test_bad_settings_are_refused() -> None:
    samples = example.images(20)
    with pytest.raises(InputError, match=r"`tolerance` should lie between 0 and 1. Found 2"):
        Sharpness(samples, tolerance=2.0)
    with pytest.raises(InputError, match=r"`batch_size` should be at least 1. Found 0"):
        Sharpness(samples, batch_size=0)
    with pytest.raises(InputError, match=r"`products` should be at least 2, so that there is an error. Found 1"):
        Trace(samples, products=1)
    with pytest.raises(InputError, match=r"`batch_size` should be at least 1. Found 0"):
        Trace(samples, batch_size=0)
    noisy = torch.nn.Sequential(example.model(), Noise())
    with pytest.raises(InputError, match=r"should have the same loss and gradient at each evaluation"):
        Sharpness(samples)(noisy, generator=generator())


class Noise(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)
