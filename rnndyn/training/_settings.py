"""The options of `fit`, checked, and the optimiser with its learning rate."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnndyn._validation import check_at_least


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
        if self.resume and self.checkpoint is None:
            raise ValueError("resume: needs checkpoint=, the file to continue from.")
        if self.checkpoint is not None and not self.resume and Path(self.checkpoint).exists():
            raise ValueError(
                f"checkpoint: {self.checkpoint} exists. Continue it with resume=True, delete it, or choose "
                "another path."
            )


def resolve_optimizer(
    optimizer: Any, learning_rate: Any
) -> tuple[optax.GradientTransformationExtraArgs, optax.Schedule | None]:
    """The optimiser, and the schedule of its learning rate where that is known."""
    made = isinstance(optimizer, optax.GradientTransformation)
    if not made and not callable(optimizer):
        raise ValueError(
            f"optimizer: expected an optax optimiser such as optax.adam(1e-3), or its constructor optax.adam together "
            f"with learning_rate=; got a {type(optimizer).__name__}."
        )
    if made and learning_rate is not None:
        raise ValueError(
            "learning_rate: the optimizer has one already. Pass the constructor, optimizer=optax.adam with "
            "learning_rate=1e-3, or the optimiser alone, optimizer=optax.adam(1e-3)."
        )
    if isinstance(optimizer, optax.GradientTransformation):
        return optax.with_extra_args_support(optimizer), None
    if learning_rate is None:
        raise ValueError(
            "learning_rate: the optimizer is a constructor and needs one. Pass learning_rate=1e-3 or an optax "
            "schedule, or an optimiser that has been made, such as optax.adam(1e-3)."
        )
    if not callable(learning_rate) and not learning_rate > 0:
        raise ValueError(f"learning_rate: expected a positive number or a schedule, got {learning_rate}.")
    schedule: Any = learning_rate if callable(learning_rate) else optax.constant_schedule(learning_rate)
    constructed: Any = optimizer(learning_rate)
    return optax.with_extra_args_support(constructed), schedule


def schedule_values(schedule: optax.Schedule, num_steps: int) -> np.ndarray:
    """The learning rate of the first `num_steps` steps."""
    if num_steps == 0:
        return np.zeros(0)
    rates = jax.vmap(schedule)(jnp.arange(num_steps))
    return np.broadcast_to(np.asarray(rates, np.float64), (num_steps,)).copy()
