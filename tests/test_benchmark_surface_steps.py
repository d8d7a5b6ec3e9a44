"""The benchmark of steps for a surface: the recipe of Ren et al. against dense gradients on paper, cells and tables on tiny networks."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional

from isthmus._check import InputError
from isthmus.data import Augment, Samples
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import surface
from isthmus.recipes.surfaces_scales import SIZES
from isthmus.table import Column, Table

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = (
    "official_surface",
    "surface_steps_page",
    "surface_steps",
)  # the later import the earlier, their neighbours as scripts


@pytest.fixture(scope="module")
def benchmark() -> dict[str, ModuleType]:
    for name in NAMES:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return {name: sys.modules[name] for name in NAMES}


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double()


@pytest.fixture
def bridge() -> Bridge:
    with torch.random.fork_rng(devices=[]):
        return surface([net(seed) for seed in range(4)])


@pytest.fixture
def samples() -> Samples:
    generator = torch.Generator().manual_seed(5)
    x, y = torch.rand(24, 1, 4, 4, generator=generator), torch.randint(3, (24,), generator=generator)
    return Samples(x, y, 3)


def reference(bridge: Bridge, points: torch.Tensor, at, x, y) -> torch.Tensor:
    """Return the gradient (9, D) of the mean loss over the places (u, v), all of it by autograd over De Casteljau and plain formulas."""
    points = points.clone().requires_grad_()
    losses = []
    for u, v in at:
        net = points.reshape(3, 3, -1)
        for _ in range(2):
            net = (1 - u) * net[:-1] + u * net[1:]
            net = (1 - v) * net[:, :-1] + v * net[:, 1:]
        values = bridge.layout.unflatten(net[0, 0])
        hidden = torch.tanh(functional.conv2d(x, values["0.weight"], values["0.bias"])).flatten(1)
        logits = hidden @ values["3.weight"].T + values["3.bias"]
        losses.append((logits.logsumexp(1) - logits[torch.arange(len(y)), y]).mean())
    (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), points)
    return gradient


def test_its_surface_is_that_of_the_library(benchmark, bridge: Bridge, samples: Samples) -> None:
    official = benchmark["official_surface"]
    points = list(torch.randn(9, bridge.layout.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    bent = bridge.with_free(torch.stack([points[k] for k in bridge.free_index]))
    for u, v in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.3), (0.25, 0.6), (0.5, 0.5)):
        found = official.blend(list(bent.points), official.surface_weights(u, v))
        torch.testing.assert_close(found, bent.theta([u, v]), rtol=0, atol=1e-13)
    for i, u in ((0, 0.0), (2, 1.0)):
        found = official.blend(list(bent.points), official.edge_weights(i, 0.3))
        torch.testing.assert_close(found, bent.theta([u, 0.3]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("edges", [True, False])
def test_gradients_are_those_of_autograd(benchmark, bridge: Bridge, samples: Samples, edges: bool) -> None:
    official = benchmark["official_surface"]
    trainer = official.Official(bridge, samples, official.Settings(batch=8), 0)
    x, y = trainer.batch()
    u, v = 0.3, 0.8
    at = [(0.0, v), (1.0, v)] if edges else [(u, v)]
    loss = trainer.edge_loss(v, x, y) if edges else trainer.loss(official.surface_weights(u, v), x, y)
    loss.backward()
    expected = reference(bridge, bridge.points, at, x, y)
    for k, point in zip(bridge.free_index, trainer.free, strict=True):
        if edges and k in (3, 4, 5):
            assert point.grad is None  # the middles of the other edges and of the surface
            assert expected[k].count_nonzero() == 0
        else:
            found = trainer.layout.reordered(point.grad, bridge.layout)
            torch.testing.assert_close(found, expected[k], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("edges", [True, False])
def test_steps_are_those_of_sgd_on_paper(benchmark, bridge: Bridge, samples: Samples, edges: bool) -> None:
    official = benchmark["official_surface"]
    settings = official.Settings(batch=8, draws=2, learning_rate=0.1, momentum=0.5, weight_decay=0.01)
    trainer = official.Official(bridge, samples, settings, 3)
    points, speed, seen = bridge.points, torch.zeros_like(bridge.points), []
    trained = [1, 7] if edges else [1, 3, 4, 5, 7]
    for step in range(3):
        x, y = trainer.batch()
        seen.append(x)
        drawn = torch.rand(2, generator=official.stream(3, "uv", step), dtype=torch.float64).tolist()
        at = [(0.0, drawn[1]), (1.0, drawn[1])] if edges else [tuple(drawn)]
        gradient = reference(bridge, points, at, x, y) + 0.01 * points
        speed = gradient if step == 0 else 0.5 * speed + gradient
        points = points.clone()
        points[trained] -= 0.1 * speed[trained]
        trainer.train(1, edges=edges)
        torch.testing.assert_close(trainer.bridge().points, points, rtol=1e-12, atol=1e-14)
    assert torch.equal(seen[0], seen[1])  # two draws for each batch
    assert not torch.equal(seen[1], seen[2])
    untouched = [k for k in range(9) if k not in trained]
    assert torch.equal(trainer.bridge().points[untouched], bridge.points[untouched])


def test_settings_change_what_is_trained(benchmark, bridge: Bridge, samples: Samples) -> None:
    official = benchmark["official_surface"]

    def trained(seed=0, **settings) -> torch.Tensor:
        trainer = official.Official(bridge, samples, official.Settings(**{"batch": 8, "draws": 2} | settings), seed)
        trainer.train(3, edges=False)
        return trainer.bridge().free

    plain = trained()
    assert torch.equal(plain, trained())
    changes = {"batch": 6, "draws": 3, "learning_rate": 0.01, "momentum": 0.5, "weight_decay": 0.1}
    for name, value in changes.items():
        assert not torch.equal(plain, trained(**{name: value})), name
    assert not torch.equal(plain, trained(augment=Augment(1)))
    assert not torch.equal(plain, trained(seed=1))


def test_mixed_precision_runs_the_network_in_bfloat16(benchmark, samples: Samples) -> None:
    official = benchmark["official_surface"]
    with torch.random.fork_rng(devices=[]):
        bridge = surface([net(seed).float() for seed in range(4)])
    losses = []
    for mixed in (False, True):
        trainer = official.Official(bridge, samples, official.Settings(batch=8, mixed=mixed), 0)
        losses.append(trainer.loss(official.surface_weights(0.3, 0.8), *trainer.batch()).item())
    assert 0 < abs(losses[1] - losses[0]) < 2**-7 * losses[0]  # eight bits of a number, in two layers


def test_a_restored_training_goes_on_as_if_never_stopped(benchmark, bridge: Bridge, samples: Samples, tmp_path) -> None:
    official = benchmark["official_surface"]
    settings = official.Settings(batch=8, draws=4)
    whole, first, second = (official.Official(bridge, samples, settings, 0) for _ in range(3))
    whole.train(3, edges=True)
    whole.train(6, edges=False)
    first.train(3, edges=True)
    first.train(1, edges=False)
    torch.save(first.state(), tmp_path / "state.pt")
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    second.train(5, edges=False)
    assert torch.equal(whole.bridge().points, second.bridge().points)


def test_costs_of_the_recipes(benchmark) -> None:
    page = benchmark["surface_steps_page"]
    assert page.whole(50_000) == (203_320, 250_240)  # 640 epochs of 391 batches
    assert page.stages(page.SCALED, 203_320) == (46_920, 156_400)
    assert page.stages(page.TRUNCATED, 390) == (390, 0)
    assert page.stages(page.PATCH, 390) == page.stages(page.TOGETHER, 390) == (0, 390)
    assert [page.gradients(name, 1560) for name in page.TITLES] == [1560, 1560, 1560, 1560, 1920, 3120]


def test_steps_to_an_equal_loss(benchmark) -> None:
    reached = benchmark["surface_steps_page"].reached
    curve = [(100, 2.0), (400, 1.0), (800, 1.5), (1600, 0.5)]
    assert reached(curve, 1.5) == ("200", 200)  # half way in the logarithm
    assert reached(curve, 1.0) == ("400", 400)
    assert reached(curve, 0.75) == ("1,345", round(800 * 2**0.75))
    assert reached(curve, 2.5) == ("at most 100", 100)
    assert reached(curve, 0.1) == ("not within 1,600", None)


def scanned(page: ModuleType, recipe: str, steps: int, hill: float, seed: int = 0):
    """Return a surface with losses 1 and 2 at the corners, `hill` in the middle; test losses are higher by 1, errors 10 times the loss."""
    rows = []
    for u in (0.0, 0.5, 1.0):
        for v in (0.0, 0.5, 1.0):
            loss = hill if u == v == 0.5 else 1.0 + u
            rows.append({"u": u, "v": v, "train_loss": loss, "test_loss": loss + 1})
            rows[-1] |= {"train_error": 10 * loss, "test_error": 10 * loss + 10}
    return page.Result.of(recipe, steps, seed, Table.of(rows, [Column(name) for name in rows[0]]))


def test_the_page_says_what_was_found(benchmark, tmp_path: Path) -> None:
    page = benchmark["surface_steps_page"]
    found = [scanned(page, page.FLAT, 0, 9.0)]
    found += [
        scanned(page, page.TOGETHER, steps, hill, seed) for seed in (0, 1) for steps, hill in ((10, 5.0), (40, 3.0))
    ]
    found += [scanned(page, page.SCALED, 26, 4.0), scanned(page, page.SCALED, 104, 3.5)]
    block = SIZES["smoke"].blocks[0]
    about = page.About("smoke", "digits", "cnn of width 4", block.plan, block.surface, 100, 200, "3x3")
    page.write(about, found, tmp_path / "steps.md")
    text = (tmp_path / "steps.md").read_text()
    lines = [line.replace(" ", "") for line in text.splitlines()]
    assert "|thefourmodels,theirmean|-|-|1.500|-|15.0|2.500|25.0|" in lines
    assert "|bilinearpatch,untrained|0|0|9.000|2.333|90.0|10.000|100.0|" in lines
    twice = ["5.000(5.000,5.000)", "1.889(1.889,1.889)", "50.0(50.0,50.0)", "6.000(6.000,6.000)", "60.0(60.0,60.0)"]
    assert f"|Isthmus,allpointstogether|10|10|{'|'.join(twice)}|" in lines
    assert "|Renetal.,bothstages,shortened|26|32|4.000|1.778|40.0|5.000|50.0|" in lines
    # 10 x 4^((5 - 3.5) / 2), and the other never gets so low
    assert "|Renetal.,bothstages,shortened,104steps|3.500|28(28)|104(128)|" in lines
    assert "|Isthmus,allpointstogether,40steps|3.000|40(40)|notwithin104|" in lines
    assert "![Highest loss over the surface by steps](steps.svg)" in text
    assert "2 repeats" in text
    drawn = page.figure(found)
    assert [axis.get_lines()[0].get_ydata().tolist() for axis in drawn.axes] == [[5.0, 3.0], [6.0, 4.0]]
    assert (tmp_path / "steps.svg").read_text().count('id="scaled"') == 2


def test_cells_are_made_once_and_measured_alike(benchmark, tmp_path: Path) -> None:
    steps, page = benchmark["surface_steps"], benchmark["surface_steps_page"]
    counts = dict.fromkeys((page.TOGETHER, page.EDGES_FIRST, page.PATCH, page.TRUNCATED), (8,)) | {
        page.SCALED: (13, 26)
    }
    scale = steps.Scale(SIZES["smoke"], 50, "2x3", counts)
    bench = steps.prepare(scale, tmp_path, ())
    work = steps.jobs(scale, 1)
    found = [steps.measured(bench, job) for job in work]
    assert [one.recipe for one in found] == [
        "flat",
        "together",
        "edges-first",
        "patch",
        "truncated",
        "scaled",
        "scaled",
    ]
    points = [steps.surface(bench, job).free for job in work]
    assert not any(torch.equal(one, other) for k, one in enumerate(points) for other in points[:k])
    assert (
        len({tuple(one.corners.items()) for one in found}) == 1
    )  # the models are the same, measured on the same images
    assert {path.stem for path in (tmp_path / "states").glob("official-*")} == {
        f"official-{done}-0" for done in ("0-8", "8-0", "3-0", "3-10", "6-0", "6-20")
    }
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = steps.prepare(scale, tmp_path, ())
    assert [steps.measured(again, job) for job in work] == found
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not torch.equal(steps.surface(bench, steps.Job(page.PATCH, 8, 1)).free, points[3])
    models = [tmp_path / "cells" / f"corner-cnn-0-{k}" / "model.safetensors" for k in (1, 0, 2, 3)]
    with pytest.raises(
        InputError, match=r"`out` should hold results between these models\. Found results between others"
    ):
        steps.prepare(scale, tmp_path, models)


def test_a_shared_first_stage_changes_nothing(benchmark, tmp_path: Path) -> None:
    steps, page = benchmark["surface_steps"], benchmark["surface_steps_page"]
    scale = steps.Scale(SIZES["smoke"], 50, "2x2", {})
    bench = steps.prepare(scale, tmp_path / "one", ())
    corners = [tmp_path / "one" / "cells" / f"corner-cnn-0-{k}" / "model.safetensors" for k in range(4)]
    other = steps.prepare(scale, tmp_path / "other", corners)
    steps.surface(bench, steps.Job(page.SCALED, 13, 0))
    shared = steps.surface(bench, steps.Job(page.SCALED, 26, 0))
    assert torch.equal(shared.free, steps.surface(other, steps.Job(page.SCALED, 26, 0)).free)


def test_jobs_of_the_scales(benchmark) -> None:
    steps = benchmark["surface_steps"]
    names = [job.name for job in steps.jobs(steps.SCALES["small"], 2)]
    assert names[:3] == ["flat-0-0", "together-195-0", "together-390-0"]
    assert len(names) == len(set(names)) == 1 + 2 * sum(map(len, steps.SCALES["small"].counts.values()))
