"""`plan_memory`: what a spectrum will take in memory, found on a few samples before anything large is started."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from isthmus._check import InputError, require
from isthmus.curvature.loss_at import LossAt, losses_of
from isthmus.problem import Posed, Problem

_PROBES = (2, 4)  # samples whose graphs are weighed
_PASSING = 2.0  # what flows back through a graph during a product, in graphs: measured 1.9 on a LeNet, 1.9 on a ResNet
_SPARE = 4  # vectors beside the basis
_SHARE = 0.5  # of the free memory that may be used
_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes that Hessian- or Gauss-Newton-vector products and a Krylov basis take, and how many batches may keep their graphs."""

    basis: int
    """Of the Krylov basis."""
    graphs: tuple[int, ...]
    """Of the graph of each batch."""
    fixed: int
    """Of one graph whatever the batch."""
    budget: int | None
    """What may be used; None where the system does not say."""

    @property
    def batch(self) -> int:
        """Return the bytes of one product over the largest batch, at its peak and with nothing kept."""
        return int((1 + _PASSING) * max(self.graphs))

    @property
    def kept(self) -> int:
        """Return how many batches, the first ones, keep their graph from product to product."""
        if self.budget is None or self._with(len(self.graphs)) <= self.budget:
            return len(self.graphs)
        return next((k for k in range(len(self.graphs) - 1, 0, -1) if self._with(k) <= self.budget), 0)

    @property
    def needed(self) -> int:
        """Return the bytes that will be in use at the peak."""
        return self._with(self.kept)

    def _with(self, kept: int) -> int:
        rebuilt = max(self.graphs) if kept < len(self.graphs) else 0
        return self.basis + sum(self.graphs[:kept]) + rebuilt + int(_PASSING * max(self.graphs))


def plan_memory(loss: LossAt, *, steps: int = 0, budget: int | None = None) -> Memory:
    """Return what products over `loss` and a Krylov basis of `steps` vectors in float64 will take, weighed on a few samples.

    The tensors that autograd saves for a gradient and its derivative are counted on two and on four samples of the largest batch, which
    gives those of each batch; problems whose model and loss are not told apart (not `Posed`) are weighed whole. Model, images and what
    torch takes for itself come on top.

    budget: bytes that may be used; None for half of what is free on the device now.
    Raises InputError where a single batch without any kept graph does not fit, with the batch size that would, and where the basis does
    not, with the number of steps that would.
    """
    require(steps >= 0, "steps", "be at least 0", steps)
    require(budget is None or budget > 0, "budget", "be above 0 bytes", budget)
    if budget is None:
        free = free_memory(loss.subject.device)
        budget = None if free is None else int(_SHARE * free)
    graphs, fixed = _graphs(loss)
    basis = 8 * loss.size * (min(steps, loss.size) + (_SPARE if steps else 0))
    plan = Memory(basis, graphs, fixed, budget)
    if budget is not None:
        _require_fits(plan, loss, budget)
    return plan


def _require_fits(plan: Memory, loss: LossAt, budget: int) -> None:
    enough = max(0, (budget - plan.batch) // (8 * loss.size) - _SPARE)
    if plan.batch < budget < plan.batch + plan.basis:
        fix = f"Take at most {enough:,} steps, or a smaller batch size." if enough else "Take a smaller batch size."
        raise InputError(
            f"`steps` should fit into {in_words(budget)}. Found {in_words(plan.basis)} for their basis. {fix}"
        )
    largest = max(loss.sizes)
    each = max(1.0, (max(plan.graphs) - plan.fixed) / largest)
    fitting = int(((budget - plan.basis) / (1 + _PASSING) - plan.fixed) / each)
    fix = f"Take a batch size of at most {fitting:,}." if fitting > 0 else "Not one sample fits: give more memory."
    found = f"{largest:,} samples at once, which take about {in_words(plan.batch)}"
    require(plan.batch + plan.basis <= budget, "batch_size", f"fit into {in_words(budget)}", found, fix)


def _graphs(loss: LossAt) -> tuple[tuple[int, ...], int]:
    """Return the bytes of each batch's graph, and the part of them that belongs to the weights, whatever the batch."""
    place = loss.sizes.index(max(loss.sizes))
    problem, size = loss.problems[place], loss.sizes[place]
    with loss.measured():
        few = [_first(problem, count) for count in _PROBES] if size > _PROBES[-1] else [None]
        told = [one for one in few if one is not None]
        parameters = loss.subject.parameters
        if len(told) < len(_PROBES):
            whole = saved_bytes(lambda: _gradient(problem, parameters), parameters)
            return tuple(whole * one // size for one in loss.sizes), 0
        small, large = (saved_bytes(lambda one=one: _gradient(one, parameters), parameters) for one in told)
    each = max(0, large - small) / (_PROBES[1] - _PROBES[0])
    fixed = int(max(0.0, small - each * _PROBES[0]))
    return tuple(int(each * one) + fixed for one in loss.sizes), fixed


def _first(problem: Problem, count: int) -> Problem | None:
    """Return the first samples of a problem, where they can be told and its loss takes them."""
    if not isinstance(problem, Posed):
        return None
    few = replace(problem, inputs=tuple(x[:count] for x in problem.inputs), y=problem.y[:count])
    try:
        return few if len(losses_of(few)) == count else None
    except InputError:
        return None  # its loss holds something for each sample of the whole batch


def _gradient(problem: Problem, parameters: list[torch.nn.Parameter]) -> object:
    total = losses_of(problem).sum()
    if not total.requires_grad or not parameters:
        return None
    return torch.autograd.grad(total, parameters, create_graph=True, allow_unused=True)


def saved_bytes(run: Callable[[], object], known: list[torch.nn.Parameter]) -> int:
    """Return the bytes of the storages that autograd saves during `run`, each once, those of `known` tensors left out."""
    apart = {tensor.untyped_storage().data_ptr() for tensor in known}
    found: dict[int, int] = {}
    alive: list[Tensor] = []  # else a storage that is freed meanwhile could lend its address to the next

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in apart:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()
    del kept
    return sum(found.values())


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device, None if unknown: of a machine what is there without swapping, within a container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [limit for limit in (_machine(), _container()) if limit is not None]
    return min(limits, default=None)


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _container() -> int | None:
    try:
        limit = (_GROUPS / "memory.max").read_text().strip()
        return None if limit == "max" else max(0, int(limit) - int((_GROUPS / "memory.current").read_text()))
    except (OSError, ValueError):
        return None


def in_words(count: int) -> str:
    """Return bytes in words: `1.5 GiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"
