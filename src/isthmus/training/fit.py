"""`fit`: the one training engine. A single model is a bridge with one point; everything else is the same."""

from dataclasses import dataclass, field, replace
from math import isfinite
from time import perf_counter
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from isthmus._check import InputError, require
from isthmus.data import Samples
from isthmus.files import digest
from isthmus.geometry.bridge import Bridge, mix
from isthmus.geometry.build import single
from isthmus.geometry.sampling import sample
from isthmus.layout import Bound, Layout, buffers_of, load_buffers, memory_format_for, placement
from isthmus.randomness import seed_of, stream
from isthmus.table import Table
from isthmus.training.checkpoint import Checkpoint
from isthmus.training.objective import Objective, Supervised
from isthmus.training.order import Order
from isthmus.training.plan import Plan, learning_rate
from isthmus.training.session import HISTORY, Fitted, Session


def fit(
    bridge: Bridge,
    samples: Samples,
    plan: Plan,
    *,
    seed: int,
    objective: Objective | None = None,
    session: Session | None = None,
) -> Fitted:
    """Return `bridge` with its free control points trained to minimise E_u mean loss(theta(u)) over `samples`.

    Each step draws u, mixes theta(u) into a working copy of the module, and gives control point i its basis weight times the
    gradient found there (Garipov et al. 2018, eq. 2). The bridge passed in, the caller's random state and modes stay as they are.
    With several processes each draws its own u and its own share of the batch; gradients are averaged. Resumes from
    `session.checkpoint` where that file exists, and then ends bitwise as if it had never stopped (CPU).
    Raises InputError for a bridge without free points, or a loss that is no longer finite (the step is named).
    """
    require(
        bridge.free.shape[0] > 0, "bridge", "have at least one free control point", 0, "A segment has nothing to train."
    )
    with torch.random.fork_rng(devices=[]):  # a module may draw while its memory format is tried
        run = _Run(bridge, samples, plan, objective or Supervised(), seed, session or Session())
    devices = [run.fabric.device] if run.fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        run.train()
    return run.result()


def fit_module(
    module: nn.Module,
    samples: Samples,
    plan: Plan,
    *,
    seed: int,
    objective: Objective | None = None,
    session: Session | None = None,
) -> tuple[nn.Module, Fitted]:
    """Return a trained copy of `module`, in the caller's mode, and the record of its training."""
    fitted = fit(single(module), samples, plan, seed=seed, objective=objective, session=session)
    return fitted.bridge.at(()), fitted


@dataclass(eq=False)
class _Run:
    """The state of one fit."""

    bridge: Bridge
    samples: Samples
    plan: Plan
    objective: Objective
    seed: int
    session: Session
    step: int = 0
    draw: int = 0
    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list[dict[str, float]])

    def __post_init__(self) -> None:
        plan, bridge = self.plan, self.bridge
        self.fabric = self.session.fabric or Fabric(accelerator="auto", devices=1, precision=plan.precision)
        device = self.fabric.device
        self.world, self.rank = self.fabric.world_size, self.fabric.global_rank
        least = plan.accumulate * self.world
        require(plan.batch_size >= least, "batch_size", f"be at least accumulate x processes, {least}", plan.batch_size)
        probe = self.samples.inputs(torch.arange(1)).to(device, bridge.layout.dtypes[0])
        template = Bound(bridge.template, bridge.layout, device).module
        tried = memory_format_for(template, probe) if plan.channels_last is not False else torch.contiguous_format
        self.format = torch.channels_last if plan.channels_last else tried
        self.layout = Layout.of(bridge.template, channels_last=self.format == torch.channels_last)
        self.bound = Bound(bridge.template, self.layout, device)
        self.bound.module.train()
        self.live = self._moved(bridge, bridge.layout, self.layout, device)
        self.free = self.live.free
        self.free.grad = torch.zeros_like(self.free)
        self.own_state = [i for i in bridge.free_index if i in bridge.states]
        if self.own_state:
            load_buffers(self.bound.module, bridge.states[self.own_state[0]])
        own, places = (
            dict(self.bound.module.named_parameters()),
            zip(self.layout.names, self.layout.slices, strict=True),
        )
        frozen = [place for name, place in places if not own[name].requires_grad]
        self.held = [(place, self.free[:, place].clone()) for place in frozen]
        self.optimizer = self._optimizer()
        self.x, self.y = self.samples.x.to(device), self.samples.y.to(device)
        self.order = Order(len(self.samples), plan.batch_size, self.seed)
        self.sums = torch.zeros(3, dtype=torch.float64)

    @staticmethod
    def _moved(bridge: Bridge, old: Layout, new: Layout, device: torch.device) -> Bridge:
        def rows(points: Tensor) -> Tensor:
            moved = [old.reordered(point, new) for point in points]
            return (torch.stack(moved) if moved else points.clone()).to(device)

        return replace(bridge, layout=new, fixed=rows(bridge.fixed), free=rows(bridge.free))

    def _optimizer(self) -> torch.optim.Optimizer:
        plan = self.plan
        decay = plan.weight_decay if plan.decay == "points" else 0.0
        fused = self.free.dtype in (torch.float32, torch.float64)
        if plan.optimizer == "sgd":
            return torch.optim.SGD(
                [self.free], plan.learning_rate, plan.momentum, weight_decay=decay, nesterov=plan.nesterov, fused=fused
            )
        return torch.optim.AdamW([self.free], plan.learning_rate, weight_decay=decay, fused=fused)

    def train(self) -> None:
        """Run from the checkpoint, if there is one, to the last step."""
        store = Checkpoint(self.session.checkpoint, self._fingerprint()) if self.session.checkpoint else None
        if store is not None and (state := store.load()) is not None:
            self._restore(state)
        every = max(1, self.plan.steps // 100)
        began = saved = perf_counter()
        before = self.seconds
        while self.step < self.plan.steps:
            self._take_step()
            self.step += 1
            self.seconds = before + perf_counter() - began
            if self.step % every == 0 or self.step == self.plan.steps:
                self._log()
            due = perf_counter() - saved > self.session.every_seconds or self.step == self.plan.steps
            if store is not None and due and self.fabric.is_global_zero:
                store.save(self._state())
                saved = perf_counter()
        self._share_buffers()

    def _take_step(self) -> None:
        plan, grad = self.plan, self.free.grad
        assert grad is not None
        self._seed_module()
        rate = learning_rate(plan, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts = self.order.batch(self.step).tensor_split(self.world * plan.accumulate)[self.rank :: self.world]
        count = plan.num_points * plan.accumulate * self.world
        draws = sample(
            self.live.basis,
            count,
            generator=stream(self.seed, "u", self.step),
            stratified=plan.sampling == "stratified",
        )[self.rank :: self.world]
        share = self.world / plan.batch_size / plan.num_points
        self.draw = 0
        for k, index in enumerate(parts):
            augmenting = stream(self.seed, "augment", self.step, self.rank, k)
            x = plan.augment(self._inputs(index), generator=augmenting).contiguous(memory_format=self._format(self.x))
            for u in draws[k * plan.num_points : (k + 1) * plan.num_points]:
                weights = tuple(self.live.basis(u).tolist())
                gradient = self._gradient(weights, x, self.y[index], share)
                self._chain_rule(weights, gradient, grad, len(index) * share)
                self.draw += 1
        if self.world > 1:
            grad.copy_(self.fabric.all_reduce(grad, reduce_op="mean"))  # pyright: ignore[reportArgumentType]
        self.optimizer.step()
        for place, start in self.held:  # the optimizer's decay knows nothing of frozen parameters
            self.free[:, place] = start

    def _seed_module(self) -> None:
        """Seed dropout and the like for this step, inside fork_rng. Not torch.manual_seed, which costs milliseconds here."""
        seed = seed_of(self.seed, "module", self.step, self.rank)
        torch.default_generator.manual_seed(seed)
        if self.fabric.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _inputs(self, index: Tensor) -> Tensor:
        """Return inputs in the dtype the module expects; bytes become [0, 1]; integers (tokens) stay."""
        x, (_, dtype) = self.x[index], placement(self.bound.module)
        if x.dtype == torch.uint8:
            return x.to(dtype).div_(255)
        return x.to(dtype) if x.is_floating_point() else x

    def _format(self, x: Tensor) -> torch.memory_format:
        return self.format if x.ndim == 4 else torch.contiguous_format

    def _gradient(self, weights: tuple[float, ...], x: Tensor, y: Tensor, share: float) -> Tensor:
        """Return `share` times the gradient of the summed loss at theta(u), or past an ascent step from it."""
        mix(self.live, weights, self.bound.buffer)
        gradient = self._backward(x, y, share, count=True)
        if self.plan.sharpness is not None:
            # Adaptive SAM (Kwon et al. 2021, eq. 8) on the point of the curve: up by rho T^2 g / ||T g||, T = |theta(u)|.
            scaled = gradient * self.bound.buffer
            norm = scaled.norm().clamp_min(1e-12)  # a gradient of zero leads nowhere, and underflow must not blow up
            scaled.mul_(self.bound.buffer).mul_(self.plan.sharpness / norm)
            self.bound.buffer.add_(scaled)
            gradient = self._backward(x, y, share, count=False)
            mix(self.live, weights, self.bound.buffer)  # the decay below acts on theta(u), not on where the ascent led
        return gradient

    def _backward(self, x: Tensor, y: Tensor, share: float, *, count: bool) -> Tensor:
        self.bound.publish()
        self.bound.forget_gradient()
        generator = stream(self.seed, "objective", self.step, self.rank, self.draw)
        with self.fabric.autocast():
            losses, logits = self.objective(self.bound.module, x, y, generator=generator)
        (losses.to(torch.promote_types(losses.dtype, torch.float32)).sum() * share).backward()
        if count:
            wrong = (logits.detach().argmax(1) != y).sum()
            counts = [losses.detach().double().sum(), wrong.double(), wrong.new_tensor(len(y)).double()]
            self.sums += torch.stack(counts).cpu()
        return self.bound.collect()

    def _chain_rule(self, weights: tuple[float, ...], gradient: Tensor, grad: Tensor, part: float) -> None:
        """Add each free point's weight times the gradient at the point; `part` is this micro-batch's share of the step."""
        if self.plan.clip is not None:
            gradient.mul_((self.plan.clip * part / gradient.norm().clamp_min(1e-12)).clamp(max=1.0))
        if self.plan.decay == "theta" and self.plan.weight_decay > 0:
            gradient.add_(self.bound.buffer, alpha=self.plan.weight_decay * part)
        self.bound.silence_frozen()
        for row, i in zip(grad, self.bridge.free_index, strict=True):
            if self.draw == 0:
                torch.mul(gradient, weights[i], out=row)
            else:
                row.add_(gradient, alpha=weights[i])

    def _log(self) -> None:
        sums = self.fabric.all_reduce(self.sums, reduce_op="sum") if self.world > 1 else self.sums
        loss, wrong, count = sums.tolist()  # pyright: ignore[reportAttributeAccessIssue]
        self.sums.zero_()
        if not isfinite(loss) or not torch.isfinite(self.free).all():
            raise InputError(
                f"`learning_rate` should keep the loss finite, and the weights. Found a loss of {loss / count} by step {self.step} at "
                f"{self.plan.learning_rate}. Lower it, or set `clip`."
            )
        rate = learning_rate(self.plan, self.step - 1)
        row = {"step": self.step, "loss": loss / count, "error": 100 * wrong / count, "learning_rate": rate}
        self.rows.append(row)
        self.fabric.log_dict({k: v for k, v in row.items() if k != "step"}, step=self.step)
        if self.session.monitor is not None and self.fabric.is_global_zero:
            self.session.monitor(self.step, self.plan.steps, row)

    def _share_buffers(self) -> None:
        if self.world > 1 and self.own_state:
            for buffer in self.bound.module.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.fabric.all_reduce(buffer, reduce_op="mean"))  # pyright: ignore[reportArgumentType]

    def _fingerprint(self) -> str:
        bridge, layout = self.bridge, self.bridge.layout
        contents = (digest({"fixed": bridge.fixed, "free": bridge.free}), self.samples.digest())
        return repr((self.plan, self.seed, bridge.basis, layout.names, layout.shapes, *contents, self.world))

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "free": self.free.detach(),
            "optimizer": self.optimizer.state_dict(),
            "buffers": buffers_of(self.bound.module),
            "rows": self.rows,
            "sums": self.sums,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]
        self.free.copy_(state["free"])
        self.optimizer.load_state_dict(state["optimizer"])
        load_buffers(self.bound.module, state["buffers"])
        self.sums.copy_(state["sums"])

    def result(self) -> Fitted:
        """Return what was trained, back in the caller's layout and on the CPU."""
        back = self._moved(self.live, self.layout, self.bridge.layout, torch.device("cpu"))
        trained = {k: v.cpu() for k, v in buffers_of(self.bound.module).items()}
        states = dict(self.bridge.states) | dict.fromkeys(self.own_state, trained)
        meta = {"seed": self.seed, "seconds": self.seconds, "plan": self.plan.model_dump(mode="json")}
        table = Table.of(self.rows, HISTORY, meta)
        evaluations = self.step * self.plan.evaluations // self.plan.steps
        return Fitted(self.bridge.with_free(back.free, states), table, self.seconds, evaluations)
