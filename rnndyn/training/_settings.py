"""The options of `fit`, checked."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnndyn._validation import check_at_least
from rnndyn.training.callbacks import Callback


@dataclasses.dataclass(frozen=True)
class Settings:
    """The tuning options of `fit`, checked."""

    num_steps: int
    max_grad_norm: float | None
    validate_every: int
    target: float | None
    patience: int | None
    snapshots_every: int | None
    checkpoint: str | Path | None
    checkpoint_every: int
    resume: bool
    progress: bool
    trainable: Any = None
    precision: Any = None
    callbacks: Sequence[Callback] = ()

    def check(self, has_validation: bool) -> None:
        check_at_least("num_steps", self.num_steps, 1)
        check_at_least("validate_every", self.validate_every, 1)
        check_at_least("checkpoint_every", self.checkpoint_every, 1)
        if self.snapshots_every is not None:
            check_at_least("snapshots_every", self.snapshots_every, 1)
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm: expected a positive number or None, got {self.max_grad_norm}.")
        if self.patience is not None:
            check_at_least("patience", self.patience, 1)
        for name in ("target", "patience"):
            if getattr(self, name) is not None and not has_validation:
                raise ValueError(
                    f"{name}: is compared with the validation metric, and there is no validation. Pass validation= a "
                    "batch, or a function of a key that makes one."
                )
        for callback in self.callbacks:
            if not callable(callback):
                raise ValueError(
                    f"callbacks: expected functions of a rnndyn.training.TrainingEvent, got a "
                    f"{type(callback).__name__}."
                )
        if self.resume and self.checkpoint is None:
            raise ValueError("resume: needs checkpoint=, the file to continue from.")
        if self.checkpoint is not None and not self.resume and Path(self.checkpoint).exists():
            raise ValueError(
                f"checkpoint: {self.checkpoint} exists. Continue it with resume=True, delete it, or choose "
                "another path."
            )


def schedule_values(schedule: optax.Schedule, num_steps: int) -> np.ndarray:
    """The learning rate of the first `num_steps` steps."""
    if num_steps == 0:
        return np.zeros(0)
    # A length that many numbers of steps share, as those at which the members of an ensemble stop: each compiles.
    length = 1 << (num_steps - 1).bit_length()
    rates = jax.vmap(schedule)(jnp.arange(length))
    return np.broadcast_to(np.asarray(rates, np.float64), (length,))[:num_steps].copy()
