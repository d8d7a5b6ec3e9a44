"""`Engine`: the optimizer steps of a fit. A single model is a bridge with one point; everything else is the same."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from isthmus._check import require
from isthmus.data import Samples
from isthmus.geometry.bridge import Bridge, mix
from isthmus.geometry.sampling import sample, sample_by_area
from isthmus.layout import Bound, Layout, buffers_of, load_buffers, memory_format_for, placement
from isthmus.problem import Problem
from isthmus.randomness import seed_of, stream
from isthmus.training.ascent import ascend
from isthmus.training.guide import guides_of
from isthmus.training.objective import Objective
from isthmus.training.order import Order
from isthmus.training.plan import Plan, learning_rate

Point = dict[str, Any]
"""The free control points after a step and the buffers of that moment: {"step", "free", "buffers"}."""


@dataclass(eq=False)
class Engine:
    """The state of one fit between two steps: control points, optimizer, working copy, counters.

    sums: loss, misclassified and seen samples since somebody set it to zero.
    """

    bridge: Bridge
    samples: Samples
    plan: Plan
    objective: Objective
    seed: int
    fabric: Fabric
    step: int = 0
    draw: int = 0

    def __post_init__(self) -> None:
        plan, bridge = self.plan, self.bridge
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
        self.start = self.free.clone()
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
        self.guides = guides_of(self.objective)
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

    def take_step(self) -> None:
        """Take the next step."""
        plan, grad = self.plan, self.free.grad
        assert grad is not None
        self._seed_module()
        rate = learning_rate(plan, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts = self.order.batch(self.step).tensor_split(self.world * plan.accumulate)[self.rank :: self.world]
        count = plan.num_points * plan.accumulate * self.world
        draws = self._coordinates(count)[self.rank :: self.world]
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
        for guide in self.guides:
            guide.steer(self.live, grad)
        self.optimizer.step()
        self._constrain()
        self.step += 1

    def _coordinates(self, count: int) -> Tensor:
        """Return the coordinates (count, d) of this step, the same in every process."""
        generator = stream(self.seed, "u", self.step)
        if self.plan.sampling == "points":
            return self._sites(count)
        if self.plan.sampling == "area":
            return sample_by_area(self.live, count, generator=generator)
        return sample(self.live.basis, count, generator=generator, stratified=self.plan.sampling == "stratified")

    def _sites(self, count: int) -> Tensor:
        """Return the free points' own coordinates, in turn."""
        basis, free = self.live.basis, self.live.free_index
        rows = [basis.sites[free[k % len(free)]] for k in range(count)]
        return torch.tensor(rows, dtype=torch.float64).view(count, basis.dim)

    def _constrain(self) -> None:
        """Carry the weights back to what the objective allows; those that their owner froze to where they were."""
        for guide in self.guides:
            guide.place(self.live)
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
        self.bound.publish()
        generator = stream(self.seed, "objective", self.step, self.rank, self.draw)
        with self.fabric.autocast():
            problem = self.objective(self.bound.module, x, y, generator=generator, progress=self.step / self.plan.steps)
        gradient = self._backward(problem, y, share, count=True)
        if self.plan.sharpness is not None:
            ascend(self.plan, self.layout, self.bound.buffer, gradient)
            gradient = self._backward(problem, y, share, count=False)
            mix(self.live, weights, self.bound.buffer)  # the decay below acts on theta(u), not on where the ascent led
        return gradient

    def _backward(self, problem: Problem, y: Tensor, share: float, *, count: bool) -> Tensor:
        self.bound.publish()
        self.bound.forget_gradient()
        with self.fabric.autocast():
            losses, logits = problem()
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

    def share_buffers(self) -> None:
        """Average the buffers of all processes, where a single model is trained."""
        if self.world > 1 and self.own_state:
            for buffer in self.bound.module.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.fabric.all_reduce(buffer, reduce_op="mean"))  # pyright: ignore[reportArgumentType]

    def point(self, free: Tensor | None = None) -> Point:
        """Return the free points (or `free` in their place) with the buffers of this moment."""
        return {
            "step": self.step,
            "free": (self.free if free is None else free).detach().clone(),
            "buffers": buffers_of(self.bound.module),
        }

    def bridge_of(self, point: Point) -> Bridge:
        """Return a bridge with the free points and buffers of `point`, in the caller's layout and on the CPU."""
        back = self._moved(replace(self.live, free=point["free"]), self.layout, self.bridge.layout, torch.device("cpu"))
        buffers = {name: buffer.cpu() for name, buffer in point["buffers"].items()}
        return self.bridge.with_free(back.free, dict(self.bridge.states) | dict.fromkeys(self.own_state, buffers))

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on from here."""
        return {"optimizer": self.optimizer.state_dict(), "sums": self.sums, **self.point()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.step = state["step"]
        self.free.copy_(state["free"])
        self.optimizer.load_state_dict(state["optimizer"])
        load_buffers(self.bound.module, state["buffers"])
        self.sums.copy_(state["sums"])
