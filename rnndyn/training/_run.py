"""A training run as it stands between two blocks of steps: what is recorded, what is saved, how it is read back.

Every quantity of a member (its losses, its best validation, why it stopped) has a leading member axis M here; one
network is an ensemble with M = 1 whose arrays on the device carry no member axis.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from rnndyn.training import checkpoint
from rnndyn.training._settings import Settings, schedule_values
from rnndyn.training._steps import Block
from rnndyn.training.history import History

_KIND = "training run"


@dataclasses.dataclass
class Run:
    """A training run as it stands after `step` steps; everything that continuing it needs."""

    model: Any
    opt_state: Any
    carry: Any
    best_model: Any
    best: np.ndarray  # (M,)
    best_step: np.ndarray  # (M,)
    num_worse: np.ndarray  # (M,) validations since the best one
    num_steps: np.ndarray  # (M,) steps taken, the failed one of a diverged member included
    losses: np.ndarray  # (M, step), NaN after a member has stopped
    grad_norms: np.ndarray  # (M, step)
    validation_steps: np.ndarray  # (V,)
    validation_losses: np.ndarray  # (M, V)
    snapshot_steps: np.ndarray  # (S,)
    snapshots: list[Any]
    step: int
    stopped: list[str | None]  # (M,) why, or None while it runs

    @staticmethod
    def new(model: Any, opt_state: Any, carry: Any, num_members: int) -> "Run":
        return Run(
            model=model,
            opt_state=opt_state,
            carry=carry,
            best_model=model,
            best=np.full(num_members, np.inf),
            best_step=np.zeros(num_members, np.int64),
            num_worse=np.zeros(num_members, np.int64),
            num_steps=np.zeros(num_members, np.int64),
            losses=np.zeros((num_members, 0)),
            grad_norms=np.zeros((num_members, 0)),
            validation_steps=np.zeros(0, np.int64),
            validation_losses=np.zeros((num_members, 0)),
            snapshot_steps=np.zeros(0, np.int64),
            snapshots=[],
            step=0,
            stopped=[None] * num_members,
        )

    @property
    def active(self) -> np.ndarray:
        return np.array([reason is None for reason in self.stopped])

    def history(self, member: int, learning_rate: optax.Schedule | None) -> History:
        num_steps = int(self.num_steps[member])
        rates = None if learning_rate is None else schedule_values(learning_rate, num_steps)
        made = num_steps - (self.stopped[member] == "diverged")
        # A member that stopped is not validated again.
        seen = self.validation_steps <= made
        return History(
            losses=self.losses[member, :num_steps],
            grad_norms=self.grad_norms[member, :num_steps],
            learning_rates=rates,
            validation_steps=self.validation_steps[seen],
            validation_losses=self.validation_losses[member, seen],
            best_step=int(self.best_step[member]) if np.isfinite(self.best[member]) else made,
            snapshot_steps=self.snapshot_steps[self.snapshot_steps <= made],
            stopped=self.stopped[member] or "num_steps",
        )


def record_block(run: Run, block: Block, length: int) -> None:
    """Take over what a block of `length` steps did."""
    rows = lambda array: np.asarray(array, np.float64).reshape(len(run.stopped), -1)[:, :length]
    num_updates = np.asarray(block.num_updates).reshape(-1)
    diverged = run.active & (num_updates < length)
    run.model, run.opt_state, run.carry = block.model, block.opt_state, block.carry
    run.losses = np.concatenate([run.losses, rows(block.losses)], axis=1)
    run.grad_norms = np.concatenate([run.grad_norms, rows(block.grad_norms)], axis=1)
    run.num_steps = run.num_steps + num_updates + diverged
    run.step += length
    for member in np.flatnonzero(diverged):
        run.stopped[member] = "diverged"


def record_validation(run: Run, values: np.ndarray, settings: Settings, ensemble: bool) -> None:
    """Take over the metric of every member: keep the best models, stop the members that are done."""
    active = run.active
    values = np.where(active, values, np.nan)
    run.validation_steps = np.append(run.validation_steps, run.step)
    run.validation_losses = np.concatenate([run.validation_losses, values[:, None]], axis=1)
    better = active & (values < run.best)
    run.best_model = choose(better, run.model, run.best_model, ensemble)
    run.best = np.where(better, values, run.best)
    run.best_step = np.where(better, run.step, run.best_step)
    run.num_worse = np.where(better, 0, run.num_worse + active)
    for member in np.flatnonzero(active):
        if settings.target is not None and values[member] <= settings.target:
            run.stopped[member] = "target"
        elif settings.patience is not None and run.num_worse[member] >= settings.patience:
            run.stopped[member] = "patience"


def choose(take: np.ndarray, new: Any, old: Any, ensemble: bool) -> Any:
    """Member by member `new` where `take`, else `old`."""
    if not ensemble:
        return new if take[0] else old

    def pick(a: Any, b: Any) -> Any:
        if not eqx.is_array(a):
            return a
        return jnp.where(jnp.asarray(take).reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)


def configure(
    loss: Callable,
    batches: Any,
    example: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    metric: Callable,
    validation: Any,
    model: Any,
    keys: Array,
    settings: Settings,
) -> dict[str, Any]:
    """What the numbers of a run depend on, as plain data: as far as that can be told, for functions have names only."""
    names = ("max_grad_norm", "validate_every", "target", "patience", "snapshots_every")
    return {
        "key": np.asarray(jax.random.key_data(keys)).tolist(),
        "loss": checkpoint.describe(loss),
        "batches": checkpoint.describe(batches) if callable(batches) else type(batches).__name__,
        "batch": checkpoint.describe(example),
        "metric": checkpoint.describe(metric),
        "validation": checkpoint.describe(validation),
        "optimizer_response": _response(optimizer, model),
        **{name: getattr(settings, name) for name in names},
    }


def _response(optimizer: optax.GradientTransformationExtraArgs, model: Any) -> float:
    """What the optimiser makes of parameters and gradients of all ones; tells learning rates and kinds apart."""
    ones = jax.tree.map(jnp.ones_like, eqx.filter(model, eqx.is_inexact_array))
    updates, _ = optimizer.update(ones, optimizer.init(ones), ones, value=jnp.ones(()))
    return math.fsum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(updates))


_ARRAYS = [field.name for field in dataclasses.fields(Run) if field.name not in ("step", "stopped")]


def write(path: Path, run: Run, configuration: dict[str, Any], schedule: optax.Schedule | None) -> None:
    """Write the run to `path`."""
    header = {
        "structure": checkpoint.describe((run.model, run.opt_state, run.carry)),
        "configuration": {**configuration, **_rate_at(schedule, run.step)},
        "step": run.step,
        "stopped": run.stopped,
        "num_validations": len(run.validation_steps),
        "num_snapshots": len(run.snapshots),
    }
    checkpoint.write(path, _KIND, header, {name: getattr(run, name) for name in _ARRAYS})


def read(path: Path, new: Run, configuration: dict[str, Any], schedule: optax.Schedule | None) -> Run:
    """The run that `write` saved, if it is the one that `new` begins."""
    header = checkpoint.read_header(path, _KIND)
    structure = checkpoint.describe((new.model, new.opt_state, new.carry))
    checkpoint.check_structure(path, header["structure"], structure, "resume")
    checkpoint.check_settings(path, header["configuration"], {**configuration, **_rate_at(schedule, header["step"])})
    num_members, step = len(new.stopped), header["step"]
    like = dataclasses.replace(
        new,
        losses=np.zeros((num_members, step)),
        grad_norms=np.zeros((num_members, step)),
        validation_steps=np.zeros(header["num_validations"], np.int64),
        validation_losses=np.zeros((num_members, header["num_validations"])),
        snapshot_steps=np.zeros(header["num_snapshots"], np.int64),
        snapshots=[new.model] * header["num_snapshots"],
    )
    arrays = checkpoint.read_arrays(path, {name: getattr(like, name) for name in _ARRAYS})
    return Run(**arrays, step=step, stopped=header["stopped"])


def _rate_at(schedule: optax.Schedule | None, step: int) -> dict[str, float]:
    return {} if schedule is None else {"learning_rate": float(jnp.asarray(schedule(max(step - 1, 0))))}
