"""Two processes on the CPU: each draws its own coordinates, and together they take the step that one process would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fit_example import batches, inputs, mixing_gradient, toy
from isthmus.geometry.build import single
from isthmus.geometry.sampling import sample
from isthmus.randomness import stream
from isthmus.training.fit import fit
from two_processes import RUN, SEED, STEP, curve, small

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two processes saw and ended with. The launcher finds a free port itself."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = [str(HERE), str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(HERE / "two_processes.py"), str(folder)],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def test_each_process_draws_its_own_coordinates_and_its_own_share_of_the_batch(ranks: list[dict[str, Any]]) -> None:
    bridge, samples = curve(), toy()
    count = 2 * STEP.num_points * STEP.accumulate
    draws = sample(bridge.basis, count, generator=stream(SEED, "u", 0))
    expected = [bridge.theta(u) for u in draws]
    found = [[call["theta"] for call in rank["calls"]] for rank in ranks]
    assert [len(calls) for calls in found] == [4, 4]
    for calls, own in zip(found, (expected[0::2], expected[1::2]), strict=True):
        torch.testing.assert_close(torch.stack(calls), torch.stack(own), rtol=1e-12, atol=1e-13)
    assert len({float(u) for u in draws}) == count
    order = batches(samples, STEP, SEED)[0]
    parts = {int(x[0, 0, 0, 0] * 255 + 0.5) for x in inputs(samples, order).split(1)}
    seen = [int(x * 255 + 0.5) for rank in ranks for call in rank["calls"][::2] for x in call["x"][:, 0, 0, 0]]
    assert (set(seen), len(seen)) == (parts, len(order))  # each sample of the batch in one process only


def test_the_step_is_the_one_that_a_single_process_would_take_with_all_of_them(ranks: list[dict[str, Any]]) -> None:
    bridge, samples = curve(), toy()
    draws = sample(bridge.basis, 8, generator=stream(SEED, "u", 0))
    parts = batches(samples, STEP, SEED)[0].tensor_split(4)
    micro = [(inputs(samples, part), samples.y[part]) for part in parts]
    # Process r holds draws r, r + 2, ...: its micro-batches are parts r and r + 2, two coordinates each.
    per_part = torch.stack([draws[[0, 2]], draws[[1, 3]], draws[[4, 6]], draws[[5, 7]]])
    expected = mixing_gradient(bridge, micro, per_part.view(8, 1))
    for rank in ranks:
        torch.testing.assert_close(bridge.free - rank["step"], expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["step", "longer", "model", "normed"])
def test_both_end_with_the_same_points(ranks: list[dict[str, Any]], name: str) -> None:
    assert torch.equal(ranks[0][name], ranks[1][name])


def test_running_statistics_are_averaged_once_at_the_end(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["buffers"] for rank in ranks)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["1.running_mean"].abs().max() > 0
    assert int(first["1.num_batches_tracked"]) == RUN.steps


def test_a_model_without_batch_statistics_trains_as_in_one_process(ranks: list[dict[str, Any]]) -> None:
    alone = fit(single(small(0)), toy(), RUN, seed=SEED)
    torch.testing.assert_close(ranks[0]["model"], alone.bridge.free, rtol=1e-9, atol=1e-11)
    losses = torch.tensor(alone.history.frame["loss"].tolist(), dtype=torch.float64)
    for rank in ranks:  # the history is about both shares
        torch.testing.assert_close(rank["loss"], losses, rtol=1e-9, atol=1e-11)
