"""A training run as it stands between two blocks of steps: what is recorded, what is saved, how it is read back.

Every quantity of a member (its losses, its best validation, why it stopped) has a leading member axis M here; one
network is an ensemble with M = 1 whose arrays on the device carry no member axis.
"""

import dataclasses
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
from rnndyn.training._optimizers import response, split
from rnndyn.training._settings import Settings, schedule_values
from rnndyn.training._steps import Block, Rule
from rnndyn.training._structure import check_settings, check_structure, describe
from rnndyn.training.callbacks import TrainingEvent
from rnndyn.training.history import History

_KIND = "training run"


@dataclasses.dataclass
class Record:
    """The callback that keeps what becomes the `History`. Rows are members M."""

    losses: np.ndarray  # (M, step), NaN after a member has stopped
    grad_norms: np.ndarray  # (M, step)
    validation_steps: np.ndarray  # (V,)
    validation_losses: np.ndarray  # (M, V)

    @staticmethod
    def new(num_members: int, num_steps: int = 0, num_validations: int = 0) -> "Record":
        return Record(
            losses=np.zeros((num_members, num_steps)),
            grad_norms=np.zeros((num_members, num_steps)),
            validation_steps=np.zeros(num_validations, np.int64),
            validation_losses=np.zeros((num_members, num_validations)),
        )

    def __call__(self, event: TrainingEvent) -> None:
        if event.kind == "steps":
            self.losses = np.concatenate([self.losses, event.losses], axis=1)
            self.grad_norms = np.concatenate([self.grad_norms, event.grad_norms], axis=1)
        elif event.kind == "validation":
            self.validation_steps = np.append(self.validation_steps, event.step)
            self.validation_losses = np.concatenate([self.validation_losses, event.validation_losses[:, None]], axis=1)


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
    record: Record
    snapshot_steps: np.ndarray  # (S,)
    snapshots: list[Any]
    step: int
    stopped: list[str | None]  # (M,) why, or None while it runs
    failures: dict[int, str] = dataclasses.field(default_factory=dict)  # what is known of why a member diverged
    was_interrupted: bool = False

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
            record=Record.new(num_members),
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
        record = self.record
        # A member that stopped is not validated again.
        seen = record.validation_steps <= made
        return History(
            losses=record.losses[member, :num_steps],
            grad_norms=record.grad_norms[member, :num_steps],
            learning_rates=rates,
            validation_steps=record.validation_steps[seen],
            validation_losses=record.validation_losses[member, seen],
            best_step=int(self.best_step[member]) if np.isfinite(self.best[member]) else made,
            snapshot_steps=self.snapshot_steps[self.snapshot_steps <= made],
            stopped=self.stopped[member] or ("interrupted" if self.was_interrupted else "num_steps"),
        )

    def event(self, kind: Any, num_steps: int, **what: np.ndarray) -> TrainingEvent:
        num_members = len(self.stopped)
        empty = {
            "losses": np.zeros((num_members, 0)),
            "grad_norms": np.zeros((num_members, 0)),
            "validation_losses": np.full(num_members, np.nan),
        }
        return TrainingEvent(
            kind=kind,
            step=self.step,
            num_steps=num_steps,
            model=self.model,
            best=self.best,
            stopped=tuple(self.stopped),
            **{**empty, **what},
        )


def advance(run: Run, block: Block, length: int) -> dict[str, np.ndarray]:
    """Take over what a block of `length` steps did; gives what there is to tell of it."""
    rows = lambda array: np.asarray(array, np.float64).reshape(len(run.stopped), -1)[:, :length]
    num_updates = np.asarray(block.num_updates).reshape(-1)
    diverged = run.active & (num_updates < length)
    told = {"losses": rows(block.losses), "grad_norms": rows(block.grad_norms)}
    run.model, run.opt_state, run.carry = block.model, block.opt_state, block.carry
    run.num_steps = run.num_steps + num_updates + diverged
    run.step += length
    for member in np.flatnonzero(diverged):
        run.stopped[member] = "diverged"
    return told


def take_validation(run: Run, values: np.ndarray, settings: Settings, ensemble: bool) -> np.ndarray:
    """Take over the metric of every member: keep the best models, stop the members that are done."""
    active = run.active
    values = np.where(active, values, np.nan)
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
    return values


def choose(take: np.ndarray, new: Any, old: Any, ensemble: bool) -> Any:
    """Member by member `new` where `take`, else `old`."""
    if not ensemble:
        return new if take[0] else old

    arrays, rest = eqx.partition(new, eqx.is_array)
    return eqx.combine(_choose_members(take, arrays, eqx.filter(old, eqx.is_array)), rest)


@jax.jit  # one program for all leaves
def _choose_members(take: Array, new: Any, old: Any) -> Any:
    pick = lambda a, b: jnp.where(take.reshape(-1, *[1] * (a.ndim - 1)), a, b)
    return jax.tree.map(pick, new, old)


def configure(
    loss: Callable,
    batches: Any,
    example: Any,
    rule: Rule,
    optimizer: Any,
    metric: Callable,
    validation: Any,
    model: Any,
    keys: Array,
    settings: Settings,
) -> dict[str, Any]:
    """What the numbers of a run depend on, as plain data: as far as that can be told, for functions have names only."""
    names = ("max_grad_norm", "validate_every", "target", "patience", "snapshots_every")
    parameters, _ = split(model, rule.trained)
    return {
        "key": np.asarray(jax.random.key_data(keys)).tolist(),
        "loss": describe(loss),
        "batches": describe(batches) if callable(batches) else type(batches).__name__,
        "batch": describe(example),
        "metric": describe(metric),
        "validation": describe(validation),
        "trained": [i for i, take in enumerate(rule.trained) if take],
        "precision": describe(rule.precision),
        "optimizer_response": response(optimizer, parameters),
        **{name: getattr(settings, name) for name in names},
    }


_ARRAYS = [
    field.name
    for field in dataclasses.fields(Run)
    if field.name not in ("step", "stopped", "record", "failures", "was_interrupted")
]
_RECORDS = [field.name for field in dataclasses.fields(Record)]


def contents(run: Run) -> dict[str, Any]:
    """The arrays of a run, by name."""
    return {name: getattr(run, name) for name in _ARRAYS} | {name: getattr(run.record, name) for name in _RECORDS}


def write(path: Path, run: Run, configuration: dict[str, Any], schedule: optax.Schedule | None) -> None:
    """Write the run to `path`."""
    header = {
        "structure": describe((run.model, run.opt_state, run.carry)),
        "configuration": {**configuration, **_rate_at(schedule, run.step)},
        "step": run.step,
        # One that was asked to stop may be continued.
        "stopped": [None if reason == "callback" else reason for reason in run.stopped],
        "num_validations": len(run.record.validation_steps),
        "num_snapshots": len(run.snapshots),
    }
    checkpoint.write(path, _KIND, header, contents(run))


def read(path: Path, new: Run, configuration: dict[str, Any], schedule: optax.Schedule | None) -> Run:
    """The run that `write` saved, if it is the one that `new` begins."""
    header = checkpoint.read_header(path, _KIND)
    if header["format"] < 2:
        raise ValueError(f"resume: {path} was written by an earlier version of rnndyn; start the run anew.")
    check_structure(path, header["structure"], (new.model, new.opt_state, new.carry), "resume")
    check_settings(path, header["configuration"], {**configuration, **_rate_at(schedule, header["step"])})
    like = dataclasses.replace(
        new,
        record=Record.new(len(new.stopped), header["step"], header["num_validations"]),
        snapshot_steps=np.zeros(header["num_snapshots"], np.int64),
        snapshots=[new.model] * header["num_snapshots"],
    )
    arrays = checkpoint.read_arrays(path, contents(like))
    record = Record(**{name: arrays.pop(name) for name in _RECORDS})
    return Run(**arrays, record=record, step=header["step"], stopped=header["stopped"])


def _rate_at(schedule: optax.Schedule | None, step: int) -> dict[str, float]:
    return {} if schedule is None else {"learning_rate": float(jnp.asarray(schedule(max(step - 1, 0))))}
