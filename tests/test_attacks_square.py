"""Square: its schedule and tiles from their definitions, linear models whose optimum is known, and the published implementation."""

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from contracts.attacks import check_attack, check_points
from digits_example import DIGITS_EPS, Counted, hard_digits
from isthmus._check import InputError
from isthmus.attacks.square import Square
from isthmus.attacks.square_tiles import Draws, mosaic, moved_mass, painted, share_at, stripes, tile, window_sides
from isthmus.attacks.threat import Norm, Threat
from isthmus.attacks.victim import Victim, attacked
from isthmus.evaluate import correct
from isthmus.losses import margin

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
OFFICIAL = {"linf": "Linf", "l2": "L2", "l1": "L1"}
SHAPES = [(1, 7, 7), (3, 4, 9), (2, 9, 4), (1, 1, 1), (3, 1, 6), (13,)]


def test_the_share_is_halved_after_the_published_proposals() -> None:
    table = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 200: 4, 201: 8, 500: 8, 501: 16, 1000: 16, 1001: 32, 2000: 32, 2001: 64}
    table |= {4000: 64, 4001: 128, 6000: 128, 6001: 256, 8000: 256, 8001: 512, 10**6: 512}
    assert {k: share_at(0.8, k) for k in table} == {k: 0.8 / divisor for k, divisor in table.items()}


def test_sides_of_windows() -> None:
    # max(round(sqrt(p h w)), 1) where it fits
    assert [window_sides(32, 32, 0.8 / 2**k) for k in range(0, 10, 3)] == [(29, 29), (10, 10), (4, 4), (1, 1)]
    # at least 3, and odd
    assert [window_sides(32, 32, 0.8 / 2**k, tiles=True) for k in range(0, 10, 3)] == [
        (29, 29),
        (11, 11),
        (5, 5),
        (3, 3),
    ]
    assert window_sides(28, 28, 1.0, tiles=True) == (28, 28)
    # along the longer side where it does not fit; the whole of a small image
    assert window_sides(4, 100, 0.5) == (4, 50)
    assert window_sides(100, 4, 0.5) == (50, 4)
    assert window_sides(1, 64, 0.25) == (1, 16)
    assert window_sides(2, 2, 0.8, tiles=True) == (2, 2)
    for height, width in ((1, 1), (5, 3), (3, 40)):
        for share in (1.0, 0.3, 0.001):
            for tiles in (False, True):
                a, b = window_sides(height, width, share, tiles=tiles)
                assert 1 <= a <= height
                assert 1 <= b <= width


def test_tiles_are_two_pyramids_of_opposite_sign() -> None:
    # One of 3 x 3 by hand: 1 + 1/4 in the middle, 1/4 around it.
    own = torch.full((3, 3), 0.25, dtype=torch.float64)
    own[1, 1] = 1.25
    upper = own / own.norm()
    torch.testing.assert_close(tile(6, 3, True), torch.cat([upper, -upper]))
    torch.testing.assert_close(tile(3, 6, False), torch.cat([upper.T, -upper.T], 1))
    assert torch.equal(tile(1, 1, True), torch.ones(1, 1, dtype=torch.float64))
    assert tile(1, 4, True).shape == (1, 4)  # cut along the only side there is
    assert float(tile(1, 4, True).sum()) == pytest.approx(0)
    for sides in ((5, 5), (5, 2), (2, 7)):
        found = tile(*sides, True)
        assert found.shape == sides
        first = sides[0] // 2
        assert bool((found[:first] > 0).all())
        assert bool((found[first:] < 0).all())


@pytest.mark.parametrize("sides", [(1, 1), (2, 3), (4, 6)])
def test_every_place_is_drawn_the_last_row_and_column_included(
    sides: tuple[int, int], generator: torch.Generator
) -> None:
    draws = Draws.of(3000, torch.zeros(1, 2, 4, 6), generator)
    for second in (False, True):
        seen = [draws.window(k, (4, 6), sides, second=second) for k in range(3000)]
        counts = torch.zeros(5 - sides[0], 7 - sides[1])
        for rows, columns in seen:
            assert (rows.stop - rows.start, columns.stop - columns.start) == sides
            counts[rows.start, columns.start] += 1
        expected = 3000 / counts.numel()
        assert bool(((counts - expected).abs() < 5 * expected**0.5 + 1).all())
    signs = draws.signs.flatten()
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 0.05


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_points_stay_in_ball_and_box_for_every_shape(
    norm: Norm, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    size = torch.Size(shape).numel()
    for dtype in (torch.float32, torch.float64):
        model = nn.Sequential(nn.Flatten(), nn.Linear(size, 3, dtype=dtype))
        x = (torch.rand(5, *shape, generator=generator, dtype=dtype) * 4 - 2.5).clamp(-2, 1)
        y = model(x).argmax(1)
        radius = torch.tensor([0.01, 0.1, 0.4, 1.0, 0.3 * size if norm != "linf" else 0.9])
        threat = Threat(norm, radius.clamp_max(3 * size**0.5), -2.0, 1.0)
        with attacked(model, num_classes=3) as victim:
            found = Square(queries=80)(victim, threat, x, y, generator=generator, keep="loss")
            for points in (found.worst, found.first):
                check_points(threat, x, points)
            torch.testing.assert_close(found.loss, margin(victim.logits(found.worst), y))
        assert bool((found.loss >= margin(model(x), y)).any())


def linear(size: int, classes: int, generator: torch.Generator) -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).double()
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


@pytest.mark.parametrize(("shape", "queries"), [((1, 4, 5), 700), ((12,), 300), ((2, 3, 3), 700)])
def test_linf_reaches_the_optimum_of_a_linear_model(
    shape: tuple[int, ...], queries: int, generator: torch.Generator
) -> None:
    size = torch.Size(shape).numel()
    model = linear(size, 2, generator)
    x = torch.rand(10, *shape, generator=generator, dtype=torch.float64)
    y = torch.arange(10) % 2
    w = model[1].weight.detach()
    threat = Threat("linf", 0.3)  # the box cuts some pixels
    best = margin(model(threat.best_response(x, (w[1 - y] - w[y]).reshape(x.shape))), y)
    with attacked(model) as victim:
        found = Square(queries=queries, p=0.1)(victim, threat, x, y, generator=generator, keep="loss")
    torch.testing.assert_close(found.loss, best, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_l2_and_l1_come_near_the_optimum_of_a_linear_model(norm: Norm, generator: torch.Generator) -> None:
    model = linear(36, 2, generator)
    x = torch.rand(10, 1, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.arange(10) % 2
    w = model[1].weight.detach()
    threat = Threat(norm, {"l2": 0.5, "l1": 1.0}[norm], -9, 9)
    start = margin(model(x), y).detach()
    most = threat.radius * threat.dual(w[1 - y] - w[y])
    with attacked(model) as victim:
        found = Square(queries=600)(victim, threat, x, y, generator=generator, keep="loss")
    share = (found.loss - start) / most
    assert bool((share <= 1 + 1e-9).all())
    assert float(share.min()) > {"l2": 0.6, "l1": 0.4}[norm], share.tolist()


@pytest.mark.parametrize(
    ("attack", "stronger"), [(Square(queries=30, p=0.05), Square(queries=30, p=0.05, restarts=2))], ids=["restarts"]
)
def test_the_contract_of_every_attack(attack: Square, stronger: Square) -> None:
    check_attack(attack, stronger=stronger)


class Blind(nn.Module):
    """Always the first class, by a margin that depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        own = 1 + self.weight * x.flatten(1).mean(1)
        return torch.stack([own, -own], 1)


class Recorder(Victim):
    """Keeps what it was asked."""

    asked: list[Tensor]

    def logits(self, x: Tensor) -> Tensor:
        self.asked = [*getattr(self, "asked", []), x.clone()]
        return super().logits(x)


@pytest.mark.parametrize("norm", NORMS)
def test_queries_are_counted_and_the_unchanged_are_not_asked(norm: Norm, generator: torch.Generator) -> None:
    x = torch.rand(6, 1, 5, 5, generator=generator)
    y = torch.zeros(6, dtype=torch.long)
    threat = Threat(norm, 0.2)
    for restarts in (1, 2):
        with attacked(Blind()) as victim:
            found = Square(queries=60, restarts=restarts)(victim, threat, x, y, generator=generator)
        assert not found.fooled.any()
        assert victim.gradients == 0
        if norm == "linf":  # dark is worst: what is dark already and painted dark again is not asked
            assert 6 * 10 < victim.queries < 6 * 60 * restarts
        else:
            assert victim.queries == 6 * 60 * restarts
    # Replayed by hand for one image: every draw in order, a query where the picture changes.
    image, count = x[:1], 1
    replay = torch.Generator().manual_seed(5)
    start, next_one = (stripes, painted) if norm == "linf" else (mosaic, moved_mass)
    points = start(threat, image, replay)
    draws = Draws.of(59, image, replay)
    best = margin(Blind()(points), y[:1])
    for k in range(59):
        candidate, _ = next_one(draws, k, 0.8)(threat, image, points)
        if not torch.equal(candidate, points):
            count += 1
            value = margin(Blind()(candidate), y[:1])
            points, best = (candidate, value) if bool(value > best) else (points, best)
    with attacked(Blind()) as victim:
        found = Square(queries=60)(victim, threat, image, y[:1], generator=torch.Generator().manual_seed(5))
    assert victim.queries == count
    torch.testing.assert_close(found.worst, points)
    torch.testing.assert_close(found.loss, best)


def test_only_images_still_attacked_are_asked_and_a_tie_is_no_verdict(generator: torch.Generator) -> None:
    class Tie(nn.Module):
        """Both logits are equal at every input, and the first counts; bright images are the second class."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            bright = (x.flatten(1).mean(1) > 0.7).float() * self.weight
            return torch.stack([0 * bright, bright], 1)

    x = torch.tensor([0.1, 0.9, 0.2]).reshape(3, 1, 1, 1).expand(3, 1, 6, 6).clone()
    y = torch.zeros(3, dtype=torch.long)
    victim = Recorder(Tie())
    found = Square(queries=8)(victim, Threat("linf", 0.05), x, y, generator=generator)
    assert found.fooled.tolist() == [False, True, False]
    assert len(victim.asked[0]) == 3
    assert all(float(batch.amax()) < 0.5 for batch in victim.asked[1:])
    assert all(len(batch) <= 2 for batch in victim.asked[1:])


def test_every_setting_changes_what_is_found(generator: torch.Generator) -> None:
    model = linear(49, 3, generator)
    x = torch.rand(8, 1, 7, 7, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)

    def loss(attack: Square, norm: Norm, seed: int = 0) -> Tensor:
        with attacked(model, num_classes=3) as victim:
            draw = torch.Generator().manual_seed(seed)
            return attack(victim, Threat(norm, 0.1), x, y, generator=draw, keep="loss").loss

    for norm in NORMS:
        usual = loss(Square(queries=30), norm)
        assert torch.equal(usual, loss(Square(queries=30), norm))
        others = [Square(queries=60), Square(queries=30, p=0.2), Square(queries=30, restarts=2)]
        assert all(not torch.equal(usual, loss(other, norm)) for other in others)
        assert not torch.equal(usual, loss(Square(queries=30), norm, seed=1))


@pytest.mark.parametrize("norm", NORMS)
def test_as_strong_as_the_published_implementation(norm: Norm) -> None:
    model, x, y = hard_digits()
    threat = Threat(norm, DIGITS_EPS[norm])
    with attacked(model, num_classes=10) as victim:
        ours = Square(queries=200)(victim, threat, x, y, generator=torch.Generator().manual_seed(0))
    check_points(threat, x, ours.points)
    assert torch.equal(~correct(model(ours.points), y), ours.fooled)
    counted = Counted(model)
    with torch.random.fork_rng():
        published = SquareAttack(
            counted, OFFICIAL[norm], n_queries=200, eps=DIGITS_EPS[norm], resc_schedule=False, device="cpu"
        )
        theirs = ~correct(model(published.perturb(x, y)), y)
    assert 0.1 * len(x) < int(theirs.sum()) < 0.9 * len(x), "a test in which all or none fall shows nothing"
    # Both search at random, and only ours reaches the last row and column.
    assert -0.03 * len(x) <= int(ours.fooled.sum()) - int(theirs.sum()) <= 0.15 * len(x)
    assert int((ours.fooled != theirs).sum()) <= 0.15 * len(x)
    assert victim.queries <= counted.forwards


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "`queries` should be at least 1. Found 0."),
        ({"p": 0.0}, "`p` should be above 0 and at most 1, a share of the image. Found 0.0."),
        ({"p": 1.5}, "`p` should be above 0 and at most 1, a share of the image. Found 1.5."),
        ({"restarts": 0}, "`restarts` should be at least 1. Found 0."),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Square(**settings)


def test_inputs_without_rows_and_columns_are_refused(generator: torch.Generator) -> None:
    x, y = torch.rand(2, 3, 4), torch.zeros(2, dtype=torch.long)
    message = r"`x` should be images \(B, c, h, w\) or vectors \(B, D\). Found \(2, 3, 4\). Reshape it"
    with attacked(Blind()) as victim, pytest.raises(InputError, match=message):
        Square()(victim, Threat("linf", 0.1), x, y, generator=generator)


def test_names() -> None:
    assert Square().name == "square"
    assert Square(restarts=3).name == "squarex3"
