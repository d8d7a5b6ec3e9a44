"""A landscape is the probes on the models theta + a d1 + b d2, whatever slice is asked for."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli_example import model_file
from isthmus._check import InputError
from isthmus.data import load_data
from isthmus.evaluate import logits
from isthmus.losses import cross_entropy
from isthmus.probes import Clean, Robust
from isthmus.recipes import landscape as module
from isthmus.recipes.landscape import LandscapeRecipe, run_landscape, snapshots
from isthmus.runs import Run
from isthmus.settle import Recalibrate
from isthmus.store import Card, save_model
from landscape_case import QUICK, bridge_file, loaded, measured, moved, weights


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(model_file(tmp_path_factory.mktemp("m") / "m.safetensors"))


@pytest.fixture(scope="module")
def batchnorm(tmp_path_factory):
    return str(model_file(tmp_path_factory.mktemp("b") / "b.safetensors", arch="cnn"))


def ran(tmp_path, path, name="out", **settings):
    recipe = LandscapeRecipe(models=(path,), **(QUICK | settings))
    with Run.open(tmp_path / name, recipe) as run:
        return run_landscape(recipe, run)


def test_every_row_is_the_model_moved_along_the_saved_directions(file, tmp_path):
    done = ran(tmp_path, file, n=None, grid="5x3", range=0.7)
    d1, d2 = load_file(done.files["directions"])["vectors"]
    rows = done.table.rows()
    assert [row["a"] for row in rows[::3]] == pytest.approx([-0.7, -0.35, 0.0, 0.35, 0.7])
    assert [row["b"] for row in rows[:3]] == [-0.7, 0.0, 0.7]
    test = load_data("digits").test
    for row in (rows[0], rows[7], rows[11]):
        there = moved(loaded(file), row["a"] * d1 + row["b"] * d2)
        assert row["test_loss"] == pytest.approx(float(cross_entropy(logits(there, test), test.y).mean()), rel=1e-6)
    assert (rows[7]["a"], rows[7]["b"]) == (0.0, 0.0)
    axis = done.table.meta["axes"][0]
    assert axis["norm"] == pytest.approx(float(d1.norm()))
    assert done.table.column("a").about == "along random direction 1 (filter-normalised)"


def test_curvature_along_an_eigenvector_is_its_eigenvalue(tmp_path):
    """Second difference of the measured loss against the eigenvalue; GELU, so that the loss has a second derivative."""
    source = tmp_path / "smooth.py"
    source.write_text(
        "from torch import nn\n\ndef net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.GELU(), nn.Linear(6, num_classes))\n"
    )
    arch = f"{source}:net"
    path = model_file(tmp_path / "m.safetensors", arch=arch, width=None, card=False)
    step = 0.03
    table = measured(
        str(path), directions="eigen", arch=arch, data="digits", n=None, hessian_n=5000, grid="3", range=step, dim=1
    )
    low, centre, high = table.values("test_loss")
    axis = table.meta["axes"][0]
    assert (low + high - 2 * centre) / step**2 == pytest.approx(axis["eigenvalue"], rel=5e-3)
    assert axis["converged"] is True
    assert axis["images"] == 597
    assert axis["norm"] == pytest.approx(1)


def test_saved_eigenvectors_are_used_as_they_are(file, tmp_path):
    found = ran(tmp_path, file, directions="eigen", hessian_n=50)
    again = measured(file, directions="eigen", vectors=found.files["directions"])
    assert again.values("test_loss") == found.table.values("test_loss")
    longer = tmp_path / "longer.safetensors"
    vectors = load_file(found.files["directions"])["vectors"]
    save_file({"vectors": 3 * vectors}, longer)  # of another length, without a header
    assert measured(file, directions="eigen", vectors=str(longer)).values("test_loss") == pytest.approx(
        again.values("test_loss")
    )


def test_frozen_and_fresh_examples_agree_at_the_centre_alone(file):
    attack = {"adversary": "pgd", "eps": 0.1, "attack_steps": 3, "range": 0.5}
    fresh, frozen = (measured(file, frozen=kept, **attack) for kept in (False, True))
    middle = len(fresh) // 2
    losses = [table.values(name) for table, name in ((fresh, "robust_loss"), (frozen, "frozen_loss"))]
    assert losses[0][middle] == pytest.approx(losses[1][middle], rel=1e-6)
    assert all(abs(one - two) > 1e-4 for i, (one, two) in enumerate(zip(*losses, strict=True)) if i != middle)
    assert fresh.values("test_loss") == frozen.values("test_loss")
    assert all(row["frozen_loss"] > row["test_loss"] for row in frozen.rows())
    assert fresh.meta["examples"] == "crafted anew at each point (pgd-3, linf 0.1)"
    assert frozen.meta["examples"] == "crafted once at the centre and frozen (pgd-3, linf 0.1)"
    assert "the same at every point" in frozen.column("frozen_loss").about
    trained = measured(file, frozen=True, split="train", **attack)
    assert {"train_loss", "train_frozen_loss", "train_frozen_error"} <= set(trained.names)


def test_plane_marks_the_three_models_and_covers_them(tmp_path):
    paths = [str(model_file(tmp_path / f"{i}.safetensors", seed=i)) for i in range(3)]
    table = measured(paths, directions="plane", grid="4")
    anchors = table.meta["anchors"]
    assert [anchor["name"] for anchor in anchors] == paths
    thetas = [weights(loaded(path)) for path in paths]
    for i, one in enumerate(anchors):
        assert one["off"] == pytest.approx(0, abs=1e-6)
        for j, two in enumerate(anchors):
            apart = torch.tensor(one["at"]) - torch.tensor(two["at"])
            assert float(apart.norm()) == pytest.approx(float((thetas[i] - thetas[j]).norm()), rel=1e-6)
    for k, name in enumerate(("a", "b")):
        shown = [anchor["at"][k] for anchor in anchors]
        margin = 0.25 * (max(shown) - min(shown))
        assert min(table.values(name)) == pytest.approx(min(shown) - margin)
        assert max(table.values(name)) == pytest.approx(max(shown) + margin)
    wide = measured(paths, directions="plane", grid="4", range=1.0)
    assert min(wide.values("a")) == pytest.approx(-anchors[1]["at"][0])


def test_tangent_of_a_curve_and_of_a_surface(tmp_path):
    bridge = bridge_file(tmp_path, 2)
    table = measured(str(tmp_path), directions="tangent", at=(0.25,), range=2.0, n=None)
    assert [axis["label"] for axis in table.meta["axes"]] == ["tangent of the bridge along t"]
    centre = Clean(load_data("digits").test)(bridge.at(0.25))["test_loss"]
    assert table.values("test_loss")[1] == pytest.approx(centre, rel=1e-6)
    other = measured(str(tmp_path), directions="tangent", at=(0.75,), range=2.0, n=None)
    assert other.values("test_loss")[1] != table.values("test_loss")[1]
    roles = [(anchor["role"], anchor["off"] > 0) for anchor in table.meta["anchors"]]
    assert roles == [("centre", False), ("model", True), ("model", True)]
    (tmp_path / "s").mkdir()
    bridge_file(tmp_path / "s", 4)
    plane = measured(str(tmp_path / "s" / "bridge.safetensors"), directions="tangent", at=(0.5, 0.5))
    assert [axis["label"][-1] for axis in plane.meta["axes"]] == ["u", "v"]
    assert len(plane) == 9
    assert len(measured(str(tmp_path / "s"), directions="random", at=(0.5, 0.5))) == 9  # any slice through a point


def test_trajectory_spans_the_slice_or_is_projected_into_it(file, tmp_path):
    base, step = loaded(file), torch.Generator().manual_seed(0)
    first, second = torch.linalg.qr(torch.randn(weights(base).numel(), 2, generator=step).double()).Q.T
    card = Card(arch="mlp:depth=1", width=8, num_classes=10, input_shape=(1, 8, 8), data="digits")
    paths = []
    for i, (x, y) in enumerate(((3.0, 0.0), (2.0, 1.0), (1.0, 0.5))):
        paths.append(str(tmp_path / f"{i}.safetensors"))
        save_model(moved(loaded(file), x * first + y * second), paths[-1], card)
    table = measured(file, directions="trajectory", trajectory=tuple(paths), grid="4")
    anchors = table.meta["anchors"]
    assert [anchor["role"] for anchor in anchors] == ["centre", "trajectory", "trajectory", "trajectory"]
    for (x, y), anchor in zip(((3.0, 0.0), (2.0, 1.0), (1.0, 0.5)), anchors[1:], strict=True):
        assert anchor["off"] == pytest.approx(0, abs=1e-5)
        assert sum(v**2 for v in anchor["at"]) == pytest.approx(x**2 + y**2, rel=1e-4)
    assert sum(axis["share_percent"] for axis in table.meta["axes"]) == pytest.approx(100, rel=1e-4)
    apart = measured(file, trajectory=tuple(paths)).meta["anchors"][1:]
    assert all(anchor["off"] > 0.5 for anchor in apart)  # of a random slice nearly all is out


def test_a_training_folder_stands_for_its_snapshots_in_order(tmp_path):
    assert snapshots("a.pt") == ["a.pt"]
    with pytest.raises(
        InputError, match=r"`trajectory` should be weight files, or a folder with snapshots. Found none in .*--resets"
    ):
        snapshots(str(tmp_path))
    names = [f"snapshot-{i}.safetensors" for i in (1, 2, 10)]
    for name in reversed(names):
        (tmp_path / name).touch()
    assert snapshots(str(tmp_path)) == [str(tmp_path / name) for name in names]


def test_batchnorm_policy_is_that_stated(batchnorm):
    kept, again = (measured(batchnorm, settle=policy) for policy in (None, "recalibrate"))
    assert kept.meta["policy"] == "those of the centre at every point"
    assert again.meta["policy"] == "recomputed at every point on 1,200 training images"
    few = measured(batchnorm, settle="recalibrate", settle_n=20)
    rows = [table.values("test_loss") for table in (kept, again, few)]
    assert all(len({row[i] for row in rows}) == 3 for i in range(9))  # the centre too: no point has a policy of its own
    centre = loaded(batchnorm, "cnn")
    Recalibrate(load_data("digits").train)(centre)
    everything = measured(batchnorm, settle="recalibrate", n=None)
    assert everything.values("test_loss")[4] == pytest.approx(Clean(load_data("digits").test)(centre)["test_loss"])
    assert measured(batchnorm).values("test_loss") == rows[0]


CHANGES = [
    ({}, {"seed": 1}),
    ({}, {"n": 80}),
    ({}, {"range": 0.5}),
    ({}, {"normalise": "layer"}),
    ({}, {"normalise": "global"}),
    ({}, {"orthogonal": True}),
    ({}, {"dim": 1}),
    ({"directions": "eigen", "hessian_n": 40}, {"hessian_n": 90}),
    ({"directions": "eigen", "hessian_n": 40}, {"adversary": "pgd", "eps": 0.2, "attack_steps": 2}),
]
ATTACKS = [{"eps": 0.2}, {"norm": "l2"}, {"attack_steps": 1}, {"attack_step": 0.1}]


@pytest.mark.parametrize(("base", "change"), CHANGES, ids=[str(change) for _, change in CHANGES])
def test_each_setting_changes_the_losses(file, base, change):
    assert measured(file, **base).values("test_loss") != measured(file, **(base | change)).values("test_loss")


@pytest.mark.parametrize("change", ATTACKS, ids=str)
def test_each_setting_of_the_attack_changes_the_robust_loss(file, change):
    base = {"adversary": "pgd", "eps": 0.1, "attack_steps": 3, "dim": 1}
    assert measured(file, **base).values("robust_loss") != measured(file, **(base | change)).values("robust_loss")


def test_robust_values_are_the_probes_own(file):
    """At the centre of a grid of one image set, by the probe itself with the stream of that point."""
    from isthmus.attacks import PGD, Threat
    from isthmus.randomness import stream

    table = measured(file, n=None, adversary="pgd", eps=0.1, attack_steps=2, dim=1)
    probe = Robust(load_data("digits").test, Threat("linf", 0.1), PGD(2))
    found = probe(loaded(file), generator=stream(0, "scan", "Robust", 0.0))
    assert table.values("robust_loss")[1] == pytest.approx(found["robust_loss"], rel=1e-7)


def test_interrupted_and_resumed_gives_the_same_table(file, tmp_path, monkeypatch):
    settings = {**QUICK, "directions": "eigen", "hessian_n": 40}
    recipe = LandscapeRecipe(models=(file,), **settings)
    whole = run_landscape(recipe).table
    count, original = [], Clean.__call__

    def stopping(self, model, **kw):
        if len(count) == 4:
            raise KeyboardInterrupt
        count.append(0)
        return original(self, model, **kw)

    monkeypatch.setattr(Clean, "__call__", stopping)
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt), Run.open(tmp_path / "r", recipe) as run:
        run_landscape(recipe, run)
    monkeypatch.setattr(Clean, "__call__", lambda self, model, **kw: count.append(0) or original(self, model, **kw))
    monkeypatch.setattr(module, "find_directions", None)  # not searched for again
    with Run.open(tmp_path / "r", recipe, resume=True) as run:
        again = run_landscape(recipe, run).table
    assert again.rows() == whole.rows()
    assert len(count) == 9
    assert {k: v for k, v in again.meta.items() if k != "seconds"} == {
        k: v for k, v in whole.meta.items() if k != "seconds"
    }


def test_nothing_global_is_touched(file):
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    measured(file, adversary="pgd", attack_steps=1, frozen=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
