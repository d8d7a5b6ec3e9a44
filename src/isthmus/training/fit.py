"""`fit`: the one way to train. A single model is a bridge with one point; everything else is the same."""

from dataclasses import dataclass, field
from math import isfinite
from re import sub
from time import perf_counter
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from isthmus._check import InputError, require
from isthmus.data import Samples
from isthmus.files import digest
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.build import single
from isthmus.layout import buffers_of
from isthmus.randomness import stream
from isthmus.settle import Recalibrate, running_layers
from isthmus.training.checkpoint import Checkpoint
from isthmus.training.engine import Engine
from isthmus.training.objective import Objective, Supervised
from isthmus.training.plan import Plan, learning_rate
from isthmus.training.record import Record
from isthmus.training.session import Fitted, Session


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
        session = session or Session()
        fabric = session.fabric or Fabric(accelerator="auto", devices=1, precision=plan.precision)
        run = _Run(Engine(bridge, samples, plan, objective or Supervised(), seed, fabric), session)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
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
    """An engine at work, and what is written down meanwhile."""

    engine: Engine
    session: Session
    seconds: float = 0.0
    record: Record = field(init=False)

    def __post_init__(self) -> None:
        self.record = Record(self.session.follow, self.engine.seed)

    def train(self) -> None:
        """Run from the checkpoint, if there is one, to the last step."""
        engine, steps = self.engine, self.engine.plan.steps
        store = Checkpoint(self.session.checkpoint, self._fingerprint()) if self.session.checkpoint else None
        if store is not None and (state := store.load()) is not None:
            self.seconds = state["seconds"]
            engine.restore(state["engine"])
            self.record.restore(state["record"])
        began = saved = perf_counter()
        before = self.seconds
        while engine.step < steps and not self.record.halted:
            engine.take_step()
            self._write_down()
            self.seconds = before + perf_counter() - began
            ended = engine.step == steps or self.record.halted
            due = perf_counter() - saved > self.session.every_seconds or ended
            if store is not None and due and engine.fabric.is_global_zero:
                store.save({"seconds": self.seconds, "engine": engine.state(), "record": self.record.state()})
                saved = perf_counter()
        engine.share_buffers()

    def _write_down(self) -> None:
        engine, plan, record = self.engine, self.engine.plan, self.record
        if plan.average is not None:
            record.averaged(engine.free, plan.average)
        if engine.step % (plan.log_every or max(1, plan.steps // 100)) == 0 or engine.step == plan.steps:
            self._log()
        if plan.resets and engine.step in plan.cycle_ends:
            engine.share_buffers()
            record.snapshots.append(engine.point())
        if record.due(engine.step, plan.steps):
            engine.share_buffers()  # every process then measures the same, and all halt together
            point = engine.point()
            record.measure(engine.bridge_of(point), point)

    def _log(self) -> None:
        engine, plan = self.engine, self.engine.plan
        sums = engine.fabric.all_reduce(engine.sums, reduce_op="sum") if engine.world > 1 else engine.sums
        loss, wrong, count = sums.tolist()  # pyright: ignore[reportAttributeAccessIssue]
        engine.sums.zero_()
        if not isfinite(loss) or not torch.isfinite(engine.free).all():
            raise InputError(
                f"`learning_rate` should keep the loss finite, and the weights. Found a loss of {loss / count} by step {engine.step} at "
                f"{plan.learning_rate}. Lower it, or set `clip`."
            )
        assert engine.free.grad is not None
        row = {
            "step": engine.step,
            "loss": loss / count,
            "error": 100 * wrong / count,
            "learning_rate": learning_rate(plan, engine.step - 1),
            "gradient_norm": engine.free.grad.norm().item(),
            "distance": (engine.free - engine.start).norm().item(),
            **engine.objective.settings((engine.step - 1) / plan.steps),
        }
        self.record.rows.append(row)
        self.record.halted |= plan.until is not None and row["loss"] < plan.until
        engine.fabric.log_dict({k: v for k, v in row.items() if k != "step"}, step=engine.step)
        if self.session.monitor is not None and engine.fabric.is_global_zero:
            self.session.monitor(engine.step, plan.steps, row)

    def _fingerprint(self) -> str:
        """Return what a checkpoint has to agree with to be gone on from."""
        engine, bridge, layout = self.engine, self.engine.bridge, self.engine.bridge.layout
        contents = (digest({"fixed": bridge.fixed, "free": bridge.free}), engine.samples.digest())
        settings: tuple[Any, ...] = (engine.plan, engine.seed, bridge.basis, layout.names, layout.shapes, engine.world)
        objective = sub(
            r" at 0x[0-9a-f]+", "", repr(engine.objective)
        )  # a function's address differs between processes
        return repr((*settings, *contents, objective))

    def _averaged(self) -> Bridge | None:
        """Return the bridge with the average points; a single model's BatchNorm statistics are of its own weights again."""
        engine = self.engine
        if self.record.average is None:
            return None
        bridge = engine.bridge_of(engine.point(self.record.average))
        if bridge.basis.dim > 0 or not running_layers(bridge.template):
            return bridge
        module = bridge.at(())
        count = min(2000, len(engine.samples))
        Recalibrate(engine.samples.subset(count, generator=stream(engine.seed, "settle")))(module)
        return bridge.with_free(bridge.free, dict.fromkeys(bridge.states, buffers_of(module)))

    def result(self) -> Fitted:
        """Return what was trained."""
        engine, record, best = self.engine, self.record, self.record.best
        meta: dict[str, object] = {
            "seed": engine.seed,
            "seconds": self.seconds,
            "plan": engine.plan.model_dump(mode="json"),
        }
        return Fitted(
            engine.bridge_of(engine.point()),
            record.history(meta),
            self.seconds,
            engine.step * engine.plan.evaluations_with(engine.objective.crafting) // engine.plan.steps,
            measured=record.measurements(),
            best=None if best is None else engine.bridge_of(best),
            best_step=None if best is None else int(best["step"]),
            snapshots=tuple(engine.bridge_of(point) for point in record.snapshots),
            averaged=self._averaged(),
            warnings=tuple(record.warnings),
        )
