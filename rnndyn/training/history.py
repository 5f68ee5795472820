"""The record of a training run."""

import numpy as np
from jaxtyping import Float, Int

from rnndyn.results import Result


class History(Result):
    """What happened at every step of a training run.

    Step t counts updates from 1: `losses[t - 1]` is the loss that update t was computed from, before it was made.
    """

    losses: Float[np.ndarray, " T"]
    """The training loss of every step."""
    grad_norms: Float[np.ndarray, " T"]
    """The global norm of the gradient at every step, before clipping; infinite where mixed precision skipped a step."""
    learning_rates: Float[np.ndarray, " T"] | None
    """The learning rate of every step, where `fit` was given one."""
    validation_steps: Int[np.ndarray, " V"]
    """How many updates had been made at each validation; the first is 0, the untrained model."""
    validation_losses: Float[np.ndarray, " V"]
    """The metric at each validation."""
    best_step: int
    """How many updates had been made to the model that `fit` returns."""
    snapshot_steps: Int[np.ndarray, " S"]
    """How many updates had been made to each snapshot."""
    stopped: str
    """Why training ended: "num_steps" (it ran to the end), "target", "patience", "diverged", "callback" (one asked for
    it), "interrupted" (by Ctrl-C), or "unknown" (it may go on)."""

    @property
    def steps(self) -> Int[np.ndarray, " T"]:
        """The number of each step, 1 ... T: what to draw `losses` over."""
        return np.arange(1, len(self.losses) + 1)

    @property
    def best_validation_loss(self) -> float | None:
        """The smallest metric of all validations, or `None` without any finite one."""
        finite = self.validation_losses[np.isfinite(self.validation_losses)]
        return float(finite.min()) if finite.size else None

    def table(self) -> str:
        num_steps = len(self.losses)
        lines = [f"History: {num_steps} steps, stopped by {self.stopped}"]
        if num_steps:
            lines.append(f"  training loss    {self.losses[0]:.4g} -> {self.losses[-1]:.4g}")
        if self.best_validation_loss is not None:
            lines.append(
                f"  validation loss  {self.validation_losses[0]:.4g} -> {self.best_validation_loss:.4g} "
                f"(best, after step {self.best_step})"
            )
        return "\n".join(lines)
