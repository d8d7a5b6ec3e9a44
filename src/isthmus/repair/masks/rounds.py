"""`Rounds`: steps on something other than the weights of a bridge, at a fit's precision, order, augmentation, progress and checkpoints."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import isfinite
from time import perf_counter
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.files import digest
from isthmus.layout import arranged, buffers_of, load_buffers, placement
from isthmus.randomness import seed_of, stream
from isthmus.table import Table
from isthmus.training.checkpoint import Checkpoint
from isthmus.training.order import Order
from isthmus.training.plan import Plan, learning_rate
from isthmus.training.record import HISTORY
from isthmus.training.session import Session

Turn = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""turn(x, y, generator) -> (the loss to descend, logits on which the training error is counted)."""


@dataclass(eq=False)
class Rounds:
    """A private working copy of `module` in training mode and the batches that it sees.

    Every process does the whole work. rows: of the history. steps: taken so far, those before a resumption included.
    """

    name: str
    module: nn.Module
    samples: Samples
    plan: Plan
    seed: int
    session: Session
    rows: list[dict[str, float]] = field(default_factory=list[dict[str, float]], init=False)
    steps: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):  # a module may draw while its memory format is tried
            own = self.session.fabric
            self.fabric = own or Fabric(accelerator="auto", devices=1, precision=self.plan.precision)
            self.module = deepcopy(self.module).to(self.fabric.device)
            first = self.samples.inputs(torch.arange(1)).to(*placement(self.module))
            self.format = arranged(self.module, first)
        self.module.train()
        self.order = Order(len(self.samples), self.plan.batch_size, self.seed)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels of a step, on the device of the working copy."""
        device, dtype = placement(self.module)
        index = self.order.batch(step)
        x = self.plan.augment(self.samples.inputs(index), generator=stream(self.seed, "augment", step))
        return x.to(device, dtype).contiguous(memory_format=self.format), self.samples.y[index].to(device)

    def descend(
        self,
        variables: Sequence[Tensor],
        turn: Turn,
        *,
        after: Callable[[], None] | None = None,
        floor: float | None = None,
    ) -> None:
        """Take the steps of the plan on `variables` by SGD, in place. after: called behind each, to project for instance.

        floor: stop behind the first batch of which at most this share was classified correctly. Resumes from the session's checkpoint.
        Raises InputError where the loss is no longer finite.
        """
        plan = self.plan
        optimizer = torch.optim.SGD(
            list(variables), plan.learning_rate, plan.momentum, weight_decay=plan.weight_decay, nesterov=plan.nesterov
        )
        store = self._store(variables)
        done, saved = self._resume(store, variables, optimizer), perf_counter()
        with torch.random.fork_rng(devices=[self.fabric.device] if self.fabric.device.type == "cuda" else []):
            while not done:
                right = self._step(variables, optimizer, turn)
                if after is not None:
                    after()
                done = self.steps == plan.steps or (floor is not None and right <= floor)
                due = done or perf_counter() - saved > self.session.every_seconds
                if store is not None and due and self.fabric.is_global_zero:
                    store.save({**self._state(variables, optimizer), "done": done})
                    saved = perf_counter()

    def _step(self, variables: Sequence[Tensor], optimizer: torch.optim.Optimizer, turn: Turn) -> float:
        """Take a step; return the share of its samples that were classified correctly before it."""
        plan, step = self.plan, self.steps
        self._seed_module(step)
        x, y = self.batch(step)
        loss, logits = turn(x, y, stream(self.seed, "turn", step))
        gradients = torch.autograd.grad(loss, list(variables), allow_unused=True)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.grad = gradient
        if plan.clip is not None:
            torch.nn.utils.clip_grad_norm_(list(variables), plan.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan, step)
        optimizer.step()
        self.steps += 1
        wrong = int((logits.detach().argmax(1) != y).sum())
        self._log(loss.item(), 100 * wrong / len(y))
        return 1 - wrong / len(y)

    def _seed_module(self, step: int) -> None:
        """Seed dropout and the like for this step, inside fork_rng, as a fit does."""
        seed = seed_of(self.seed, "module", step)
        torch.default_generator.manual_seed(seed)
        if self.fabric.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _log(self, loss: float, error: float) -> None:
        if not isfinite(loss):
            raise InputError(
                f"`learning_rate` should keep the loss finite. Found a loss of {loss} by step {self.steps} of {self.name} at "
                f"{self.plan.learning_rate}. Lower it."
            )
        row = {
            "step": self.steps,
            "loss": loss,
            "error": error,
            "learning_rate": learning_rate(self.plan, self.steps - 1),
        }
        self.rows.append(row)
        if self.session.monitor is not None and self.fabric.is_global_zero:
            self.session.monitor(self.steps, self.plan.steps, row)

    def _store(self, variables: Sequence[Tensor]) -> Checkpoint | None:
        path = self.session.part(self.name).checkpoint
        if path is None:
            return None
        contents = {name: tensor.detach().cpu() for name, tensor in self.module.state_dict().items()}
        start = digest(contents | {f"variable {i}": v.detach().cpu() for i, v in enumerate(variables)})
        fingerprint = repr((self.name, self.plan, self.seed, start, self.samples.digest()))
        return Checkpoint(path, fingerprint)

    def _state(self, variables: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "rows": self.rows,
            "variables": [variable.detach().cpu() for variable in variables],
            "optimizer": optimizer.state_dict(),
            "buffers": buffers_of(self.module),
        }

    def _resume(self, store: Checkpoint | None, variables: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> bool:
        """Go on from the checkpoint, where there is one; return whether nothing is left to do."""
        state = None if store is None else store.load()
        if state is None:
            return False
        self.steps, self.rows = state["steps"], state["rows"]
        with torch.no_grad():
            for variable, value in zip(variables, state["variables"], strict=True):
                variable.copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        load_buffers(self.module, state["buffers"])
        return state["done"]

    def history(self) -> Table:
        """Return the rows, described."""
        present = {name for row in self.rows for name in row}
        meta = {"seed": self.seed, "plan": self.plan.model_dump(mode="json")}
        return Table.of(self.rows, [column for column in HISTORY if column.name in present], meta)
