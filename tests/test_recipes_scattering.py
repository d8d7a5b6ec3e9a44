"""The recipe of gradient scattering: its numbers are the probe's, its directions those asked for, interrupted runs go on."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cli_example import model_file
from isthmus._check import InputError
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.operator import dense, hessian
from isthmus.data import load_data
from isthmus.geometry.build import bezier
from isthmus.models import load_model
from isthmus.probes.scattering import random_direction, scattering, scattering_along
from isthmus.probes.similarity import Crafting
from isthmus.randomness import stream
from isthmus.recipes import scattering as module
from isthmus.recipes.scattering import (
    CraftingPlan,
    ScatterAlongRecipe,
    ScatterRecipe,
    read_vectors,
    run_scatter,
    run_scatter_along,
)
from isthmus.runs import Run
from isthmus.settle import Recalibrate
from isthmus.store import Card, save_bridge
from isthmus.table import Table
from isthmus.training.adversarial import Adversarial
from isthmus.training.budget import Budget
from isthmus.training.posing import posing

WIDTH = 4
PLAN = CraftingPlan(eps=0.1, steps=2, n=30)


def loaded(path: Path, arch: str = "mlp:depth=1") -> nn.Module:
    return load_model(arch, path, num_classes=10, input_shape=(1, 8, 8), width=WIDTH)[0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return model_file(tmp_path / "m.safetensors", width=WIDTH)


def recipe(file: Path, **more: object) -> ScatterRecipe:
    settings = {"model": str(file), "amounts": (0.0, 0.5, 2.0), "eigen": 0, "random": 2, "crafting": PLAN}
    return ScatterRecipe.model_validate(settings | more)


def own(model: nn.Module, directions: dict[str, torch.Tensor], plan: CraftingPlan = PLAN, seed: int = 0) -> Table:
    """The table by the probe itself."""
    splits = load_data("digits")
    samples = (splits.test if plan.split == "test" else splits.train).subset(30, generator=stream(seed, plan.split))
    crafting = Crafting(samples, plan.threat, plan.attack, plan.split, plan.batch_size, seed)
    return scattering(model, directions, (0.5, 2.0), crafting)


def size_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_random_directions_are_drawn_by_the_seed_and_nothing_is_written(file: Path, tmp_path: Path) -> None:
    model, before = loaded(file), sorted(tmp_path.iterdir())
    for seed in (0, 1):
        found = run_scatter(recipe(file, seed=seed))
        drawn = {
            f"random {k + 1}": random_direction(size_of(model), generator=stream(seed, "direction", k))
            for k in range(2)
        }
        assert found.table.rows() == own(model, drawn, seed=seed).rows()
        assert found.files == {}
    assert sorted(tmp_path.iterdir()) == before


def test_the_eigenvector_is_that_of_the_loss_under_the_same_attack(tmp_path: Path) -> None:
    file = model_file(tmp_path / "small.safetensors", arch="mlp:depth=1", width=1)
    model = load_model("mlp:depth=1", file, num_classes=10, input_shape=(1, 8, 8), width=1)[0]
    found = run_scatter(recipe(file, eigen=1, random=0, hessian_n=40))
    part = load_data("digits").train.subset(40, generator=stream(0, "hessian"))
    objective = Adversarial(PLAN.attack, (PLAN.threat,), Budget(target=1.0))
    values, vectors = torch.linalg.eigh(dense(hessian(LossAt(model, posing(objective, part, batch_size=250)))))
    assert found.table.meta["eigenvalues"] == pytest.approx([float(values[-1])], rel=1e-3)
    assert found.table.meta["hessian_n"] == 40
    # A sign of the vector is arbitrary, and swaps the two models: compare what does not know it.
    want = own(model, {"eigenvector 1": vectors[:, -1]}).values("cosine")
    assert found.table.values("cosine") == pytest.approx(want, abs=0.1)
    assert len(load_data("digits").train) > 40
    other = run_scatter(recipe(file, eigen=1, random=0, hessian_n=41))
    assert other.table.meta["eigenvalues"] != found.table.meta["eigenvalues"]


def test_eigenvectors_come_from_a_file_and_go_before_random_ones(file: Path, tmp_path: Path) -> None:
    model = loaded(file)
    vectors = torch.randn(3, size_of(model), generator=stream(0, "v"))
    save_file({"vectors": vectors}, tmp_path / "v.safetensors")
    found = run_scatter(recipe(file, vectors=str(tmp_path / "v.safetensors"), eigen=2, random=1))
    directions = {"eigenvector 1": vectors[0], "eigenvector 2": vectors[1]}
    directions["random 1"] = random_direction(size_of(model), generator=stream(0, "direction", 0))
    assert found.table.rows() == own(model, directions).rows()
    assert found.table.meta["vectors"] == str(tmp_path / "v.safetensors")


@pytest.mark.parametrize("change", [{"split": "train"}, {"norm": "l2"}, {"eps": 0.2}, {"start": 0.0}, {"step": 0.6}])
def test_every_setting_of_the_perturbations_reaches_them(file: Path, change: dict[str, object]) -> None:
    plan = PLAN.model_copy(update=change)
    found = run_scatter(recipe(file, crafting=plan))
    model = loaded(file)
    drawn = {f"random {k + 1}": random_direction(size_of(model), generator=stream(0, "direction", k)) for k in range(2)}
    assert found.table.rows() == own(model, drawn, plan).rows()
    assert found.table.values("cosine") != run_scatter(recipe(file)).table.values("cosine")


def test_all_images_are_taken_where_n_is_none_or_large(file: Path) -> None:
    for n in (None, 10_000):
        found = run_scatter(recipe(file, random=1, amounts=(1.0,), crafting=PLAN.model_copy(update={"n": n})))
        assert found.table.column("robust_error").n == len(load_data("digits").test)


def test_an_interrupted_run_goes_on(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(file, eigen=1, random=1, hessian_n=30)
    with Run.open(tmp_path / "whole", asked) as run:
        whole = run_scatter(asked, run)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == {
        "eigenvectors.safetensors",
        "images.safetensors",
        "manifest.json",
        "recipe.json",
        "scattering.json",
        "table.csv",
    }
    assert Table.load(tmp_path / "whole" / "scattering.json").rows() == whole.table.rows()
    assert (tmp_path / "whole" / "table.csv").read_text().startswith("direction,amount,cosine,")
    told: list[int] = []

    def stop(step: int, _steps: int, _metrics: object) -> None:
        told.append(step)
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Run.open(tmp_path / "cut", asked) as run:
        run_scatter(asked, run, monitor=stop)
    monkeypatch.setattr(module, "top_eigenpairs", lambda *_args, **_more: pytest.fail("found again"))
    with Run.open(tmp_path / "cut", asked, resume=True) as run:
        again = run_scatter(asked, run, monitor=lambda step, steps, _: told.append(10 * steps + step))
    assert again.table.rows() == whole.table.rows()
    assert told == [1, 2, 3, 54, 55]  # the third was written before it was told of
    held = load_file(tmp_path / "cut" / "images.safetensors")
    assert set(held) == {"@0.0", *(f"{name}@{a!r}" for name in ("eigenvector 1", "random 1") for a in (0.5, 2.0))}
    assert held["random 1@2.0"].shape == (7, 30)


def test_along_a_bridge(tmp_path: Path) -> None:
    arch = "preresnet:depth=8"
    files = [model_file(tmp_path / f"{k}.safetensors", seed=k, arch=arch, width=WIDTH) for k in range(2)]
    bridge = bezier([loaded(path, arch) for path in files], degree=2)
    card = Card(arch=arch, width=WIDTH, num_classes=10, input_shape=(1, 8, 8), data="digits")
    save_bridge(bridge, tmp_path / "bridge.safetensors", meta=card)
    asked = ScatterAlongRecipe(bridge=str(tmp_path), points=3, settle_n=100, crafting=PLAN)
    with Run.open(tmp_path / "o", asked) as run:
        found = run_scatter_along(asked, run)
    splits = load_data("digits")
    crafting = PLAN.crafting(splits, seed=0)
    settle = Recalibrate(splits.train.subset(100, generator=stream(0, "settle")))
    want = scattering_along(bridge, (0.0, 0.5, 1.0), 0.25, crafting, settle=settle)
    assert found.table.rows() == want.rows()
    assert found.table.meta["step"] == 0.25
    near = run_scatter_along(asked.model_copy(update={"step": 0.01}))
    assert near.table.values("cosine")[1] > found.table.values("cosine")[1]
    with Run.open(tmp_path / "o", asked, resume=True) as run:
        assert run_scatter_along(asked, run).table.rows() == want.rows()


def test_what_cannot_be_used_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`eigen` should be at least 1 where there are no random directions. Found 0"):
        run_scatter(recipe(file, random=0))
    with pytest.raises(InputError, match=r"`split` should be train or test. Found validation"):
        run_scatter(recipe(file, crafting=PLAN.model_copy(update={"split": "validation"})))
    save_file({"vectors": torch.ones(1, 5)}, tmp_path / "v.safetensors")
    save_file({"other": torch.ones(1, 5)}, tmp_path / "o.safetensors")
    (tmp_path / "t.safetensors").write_text("text")
    with pytest.raises(InputError, match=r"`directions\['eigenvector 1'\]` should have shape"):
        run_scatter(recipe(file, eigen=1, vectors=str(tmp_path / "v.safetensors")))
    with pytest.raises(InputError, match=r"`eigen` should be at most the 1 vectors in .*v.safetensors'. Found 2"):
        read_vectors(str(tmp_path / "v.safetensors"), 2)
    for name, found in (("o", "other in"), ("t", "Error while deserializing|header"), ("none", "No such file")):
        with pytest.raises(
            InputError, match=rf"`vectors` should be a safetensors file with a tensor `vectors` .*({found})"
        ):
            read_vectors(str(tmp_path / f"{name}.safetensors"), 1)
