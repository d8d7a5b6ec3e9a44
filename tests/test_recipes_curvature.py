"""`run_curvature`: every number against the dense Hessian of functional calls in float64, every stage resumed to the same bits."""

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call, jacrev

import weights_example as example
from isthmus.data import Samples
from isthmus.layout import Layout
from isthmus.recipes.curvature import run_curvature
from isthmus.recipes.curvature_parts import CurvatureRecipe, tangent_rows
from isthmus.recipes.curvature_stages import density_entry
from isthmus.report.curvature import CurvatureDocument
from isthmus.tampering.triggers import Patch
from isthmus.training.adversary import Adversary
from isthmus.training.posing import posing

TIGHT = {"n": 60, "precision": "64-true", "tolerance": 1e-9, "top": 6}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(example.file(tmp_path_factory.mktemp("models") / "a.safetensors"))


def recipe(path, **more) -> CurvatureRecipe:
    return CurvatureRecipe.model_validate({"model": path, **TIGHT, **more})


def found(path, **more) -> CurvatureDocument:
    return CurvatureDocument.model_validate(run_curvature(recipe(path, **more)).to_json())


def test_eigenpairs_loss_and_gradient_are_those_of_the_dense_hessian(path) -> None:
    samples = example.images()
    matrix = example.dense_hessian(example.model(), samples.inputs(), samples.y)
    result = run_curvature(recipe(path, negative=True, gauss_newton=True))
    held = CurvatureDocument.model_validate(result.to_json())
    exact = example.descending(matrix)
    assert held.eigenvalues == pytest.approx(exact[:6].tolist(), rel=1e-7)
    assert all(held.converged)
    assert max(held.residuals) <= 1e-9 * held.eigenvalues[0]
    off = result.vectors @ matrix - torch.tensor(held.eigenvalues, dtype=torch.float64)[:, None] * result.vectors
    assert float(off.norm(dim=1).max()) <= 1e-8
    torch.testing.assert_close(result.vectors @ result.vectors.T, torch.eye(6, dtype=torch.float64))
    assert held.negative is not None
    assert held.negative.eigenvalues == pytest.approx(exact.flip(0)[:6].tolist(), rel=1e-7)
    loss, theta = example.mean_loss(example.model(), samples.inputs(), samples.y)
    assert held.loss == pytest.approx(float(loss(theta)))
    (gradient,) = torch.autograd.grad(loss(theta.requires_grad_()), theta)
    assert held.gradient_norm == pytest.approx(float(gradient.norm()))
    assert (held.n, held.parameters, held.split, held.frozen) == (60, len(theta), "test", False)
    assert held.gauss_newton is not None
    newton = example.descending(dense_newton(example.model(), samples))
    assert held.gauss_newton.eigenvalues == pytest.approx(newton[:6].tolist(), rel=1e-7)


def dense_newton(module: nn.Module, samples: Samples) -> torch.Tensor:
    """1/N sum J'(diag p - pp')J, with the Jacobians written out."""
    held = {name: parameter.detach().double() for name, parameter in module.named_parameters()}
    x = samples.inputs().double()
    rows = jacrev(lambda values: functional_call(module, values, (x,)))(held)
    jacobian = torch.cat([row.flatten(2) for row in rows.values()], 2)  # (N, C, D)
    p = functional_call(module, held, (x,)).softmax(1)
    bend = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return torch.einsum("nci,ncd,ndj->ij", jacobian, bend, jacobian) / len(x)


def test_trace_and_density_hold_the_dense_ones_within_their_errors(path) -> None:
    samples = example.images()
    matrix = example.dense_hessian(example.model(), samples.inputs(), samples.y)
    held = found(path, trace=True, density=True, probes=4, steps=25)
    assert held.trace is not None
    assert held.density is not None
    assert held.trace.value == pytest.approx(float(matrix.trace()), abs=held.trace.error)
    assert 0 < held.trace.error < float(matrix.trace())
    assert (held.trace.products, held.trace.confidence) == (100, 0.99)
    grid, values = torch.tensor(held.density.points), torch.tensor(held.density.values)
    assert float(torch.trapezoid(values, grid)) == pytest.approx(1, abs=1e-3)
    assert (held.density.probes, held.density.steps, held.density.products) == (4, 25, 100)
    exact = torch.linalg.eigvalsh(matrix)
    bells = torch.exp(-(((grid[:, None] - exact) / held.density.width) ** 2) / 2).mean(1)
    bells = bells / (held.density.width * (2 * torch.pi) ** 0.5)
    inside = (torch.tensor(held.density.low) <= bells + 1e-3) & (bells <= torch.tensor(held.density.high) + 1e-3)
    assert float(inside.double().mean()) > 0.95
    deflated = found(path, trace=True, trace_method="hutch++", trace_products=60)
    assert deflated.trace is not None
    assert deflated.trace.value == pytest.approx(float(matrix.trace()), abs=deflated.trace.error)
    assert deflated.trace.error < 0.5 * held.trace.error


@pytest.mark.parametrize("method", ["pgd", "trades"])
def test_the_adversarial_hessian_is_that_at_the_examples_found(path, method) -> None:
    adversary = Adversary.model_validate({"method": method, "eps": ("0.2",), "steps": 3})
    held = found(path, adversary=adversary.model_dump(), top=3)
    module = example.model().double()
    problems = list(posing(adversary.objective(), example.images(), seed=0)(module))
    if method == "trades":
        x, moved = problems[0].inputs
        loss, theta = trades(module, x, moved, example.images().y)
        exact = hessian(loss, theta)
    else:
        exact = example.dense_hessian(module, problems[0].inputs[0], example.images().y)
    assert held.eigenvalues == pytest.approx(example.descending(exact)[:3].tolist(), rel=1e-7)
    assert held.frozen
    assert "at frozen examples" in held.objective
    assert "crafted once, at these weights, and kept" in held.notes[0]


def trades(module, x, moved, y):
    held = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def loss(theta):
        pieces = theta.split([value.numel() for value in held.values()])
        values = {name: piece.view_as(held[name]) for name, piece in zip(held, pieces, strict=True)}
        p, q = (functional_call(module, values, (inputs,)).log_softmax(1) for inputs in (x, moved))
        return -p[torch.arange(len(y)), y].mean() + 6 * (p.exp() * (p - q)).sum(1).mean()

    return loss, torch.cat([value.flatten() for value in held.values()])


def test_the_backdoor_hessian_is_that_of_triggered_images_and_the_attackers_label(path) -> None:
    samples = example.images()
    kept = samples.y != 3
    x = Patch(2, at=(0, 0))(samples.inputs()[kept])
    exact = example.dense_hessian(example.model(), x, torch.full((len(x),), 3))
    held = found(path, loss="backdoor", test_trigger="patch:size=2,at=0x0", target="3")
    assert held.eigenvalues == pytest.approx(example.descending(exact)[:6].tolist(), rel=1e-7)
    assert held.n == len(x)
    assert held.objective == "backdoor loss, patch:size=2,at=0x0,pattern=solid,colour=1 sent to class 3"


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ({"n": 30}, {"n": 30}),
        ({"seed": 5}, {"seed": 5}),
        ({"split": "train"}, {"split": "train"}),
        ({"n": None}, {"n": None}),
        ({"batch_size": 7}, {}),
    ],
)
def test_images_are_those_asked_for_and_batches_change_nothing(path, changes, images) -> None:
    samples = example.images(**images)
    exact = example.descending(example.dense_hessian(example.model(), samples.inputs(), samples.y))
    held = found(path, top=2, **changes)
    assert held.eigenvalues == pytest.approx(exact[:2].tolist(), rel=1e-7)
    assert (held.n, held.data.rpartition("/")[2]) == (len(samples), changes.get("split", "test"))


def test_single_precision_and_a_loose_tolerance_say_how_far_off_they_are(path) -> None:
    samples = example.images()
    exact = example.descending(example.dense_hessian(example.model(), samples.inputs(), samples.y))
    loose = found(path, precision="32-true", tolerance=0.1)
    assert loose.products < found(path).products
    for value, residual in zip(loose.eigenvalues, loose.residuals, strict=True):
        assert float((exact - value).abs().min()) <= residual + 1e-5 * float(exact[0])
    short = run_curvature(recipe(path, max_products=8)).document
    assert not all(short["converged"])
    assert short["products"] == 8
    assert "did not meet the tolerance 1e-09 in 8 products" in short["warnings"][0]


def test_a_point_of_a_bridge_has_curvature_along_and_across_it(tmp_path) -> None:
    path, bridge = example.bridge_file(tmp_path)
    samples = example.images()
    matrix = example.dense_hessian(bridge.at(0.3), samples.inputs(), samples.y)
    assert found(path, at=(0.3,)).eigenvalues == pytest.approx(example.descending(matrix)[:6].tolist(), rel=1e-6)
    assert found(path, at=(0.7,)).eigenvalues[0] != pytest.approx(float(example.descending(matrix)[0]), rel=1e-2)
    h = 1e-3
    tangent = (bridge.theta(0.3 + h).double() - bridge.theta(0.3 - h).double()) / (2 * h)
    tangent = tangent / tangent.norm()
    rows = tangent_rows(bridge, (0.3,), Layout.of(bridge.template))
    assert float((rows[0] @ tangent).abs()) == pytest.approx(1, abs=1e-5)
    along = found(path, at=(0.3,), subspace="tangent", top=None)
    assert along.eigenvalues == pytest.approx([float(rows[0] @ matrix @ rows[0])], rel=1e-6)
    assert along.dimension == 1
    project = torch.eye(len(matrix), dtype=torch.float64) - rows.T @ rows
    across = run_curvature(recipe(path, at=(0.3,), subspace="normal"))
    exact = example.descending(project @ matrix @ project)[:6].tolist()
    assert across.document["eigenvalues"] == pytest.approx(exact, rel=1e-6)
    assert across.document["dimension"] == len(matrix) - 1
    assert float((across.vectors @ rows.T).abs().max()) < 1e-6


def linear_case(folder) -> tuple[str, dict[str, object]]:
    """Two classes and a linear model: the worst image of an L-infinity ball is known."""
    import numpy as np

    generator = np.random.default_rng(0)
    arrays = {
        f"x_{split}": (0.3 + 0.4 * generator.random((50, 4, 4))).astype(np.float32) for split in ("train", "test")
    }
    np.savez(folder / "d.npz", **arrays, **{f"y_{split}": np.arange(50) % 2 for split in ("train", "test")})
    code = (
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))\n"
    )
    (folder / "arch.py").write_text(code)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    net[1].weight.data.copy_(torch.randn(2, 16, generator=torch.Generator().manual_seed(1)))
    torch.save(net.state_dict(), folder / "m.pt")
    settings = {"arch": f"{folder / 'arch.py'}:net", "data": str(folder / "d.npz"), "n": None, "top": 1}
    return str(folder / "m.pt"), settings


def test_crafted_anew_the_curvature_is_that_of_the_closed_form(tmp_path) -> None:
    path, settings = linear_case(tmp_path)
    eps = 0.1
    worst = {"eps": (eps,), "steps": 1, "step": 2.0, "start": 0.0}
    steps = (1e-5, 1e-3)
    result = run_curvature(recipe(path, **settings, adversary=worst, recraft=True, recraft_steps=steps))
    import numpy as np

    data = np.load(tmp_path / "d.npz")
    x, y = torch.tensor(data["x_test"]).double().flatten(1), torch.tensor(data["y_test"])
    weight = torch.load(tmp_path / "m.pt")["1.weight"].double()

    def true_loss(theta):
        w = theta.view(2, 16)
        u = (w[0] - w[1]) * (1.0 - 2.0 * y)[:, None]
        return torch.nn.functional.softplus(-(x * u).sum(1) + eps * u.abs().sum(1)).mean()

    exact = hessian(true_loss, weight.flatten())
    rows = result.document["finite_difference"]
    assert [(row["direction"], row["step"]) for row in rows] == [
        (name, step) for name in ("top eigenvector", "random") for step in steps
    ]
    v = result.vectors[0]
    assert rows[0]["recrafted"] == pytest.approx(float(v @ exact @ v), rel=1e-5)
    assert rows[0]["frozen"] == pytest.approx(result.document["eigenvalues"][0], rel=1e-6)
    assert rows[0]["kept"] == pytest.approx(rows[0]["frozen"], rel=1e-5)
    kinked = run_curvature(recipe(path, **settings, adversary=worst, recraft=True, recraft_steps=(2.0,))).document
    first = kinked["finite_difference"][0]
    theta, slope = weight.flatten(), torch.func.grad(true_loss)
    expected = (slope(theta + 2 * v) - slope(theta - 2 * v)) @ v / 4
    assert first["recrafted"] == pytest.approx(
        float(expected), rel=1e-6
    )  # some weights changed sign, and the images with them
    assert abs(first["recrafted"] - first["kept"]) > 0.05 * first["kept"]


def test_a_density_has_students_interval_over_its_probes() -> None:
    from isthmus.curvature.density import Density

    nodes = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    weights = torch.tensor([[0.5, 0.5], [0.6, 0.4], [0.4, 0.6]], dtype=torch.float64)
    held = density_entry(Density(nodes, weights, 6))
    places = torch.tensor(held["points"])
    at = int(places.abs().argmin())
    bell = torch.exp(-(places[at] ** 2) / (2 * 0.01**2)) / (0.01 * (2 * torch.pi) ** 0.5)
    assert held["values"][at] == pytest.approx(0.5 * float(bell), rel=1e-6)
    half = 9.9248 * 0.1 / 3**0.5 * float(bell)  # Student's t of 2 degrees, 99 %; the deviation of the weights is 0.1
    assert held["high"][at] - held["values"][at] == pytest.approx(half, rel=1e-4)
    assert min(held["low"]) >= 0
