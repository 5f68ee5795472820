"""Training one network by gradient descent."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from rnndyn.training._loop import Settings, train
from rnndyn.training.callbacks import Callback
from rnndyn.training.history import History


def fit(
    model: Any,
    loss: Callable[..., Any],
    batches: Any,
    optimizer: Any,
    *,
    num_steps: int,
    key: PRNGKeyArray,
    learning_rate: Any = None,
    max_grad_norm: float | None = None,
    validation: Any = None,
    metric: Callable[[Any, Any], Any] | None = None,
    carry: Any = None,
    validate_every: int = 100,
    target: float | None = None,
    patience: int | None = None,
    snapshots_every: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
    progress: bool = True,
    trainable: Any = None,
    precision: Any = None,
    callbacks: Sequence[Callback] = (),
) -> "FitResult":
    r"""Train a model by gradient descent on a loss.

    Step t = 1, 2, ... makes one update from one batch b_t,

    $$\theta_t = \theta_{t-1} + \text{optimizer}\bigl(c_t\,\nabla_\theta L(\theta_{t-1}, b_t)\bigr), \qquad
    c_t = \min\bigl(1, \text{max\_grad\_norm} / \|\nabla_\theta L\|_2\bigr)$$

    with the norm taken over all parameters together (Pascanu, Mikolov & Bengio 2013).

    **Arguments:**

    - `model`: an Equinox module or any tree; its floating-point arrays are trained.
    - `loss`: `loss(model, batch)` -> scalar, pure. `rnndyn.training.over_trials` makes one of a loss of one trial. One
      with a keyword `key` is given a new key at every step, which `over_trials` and `truncated_bptt` hand on to models
      with noise or dropout; validation calls it without, so that it sees the network without noise.
    - `batches`: either a pure function `batches(key)` -> batch (a tree of arrays), which is compiled into the step
      and so makes new data on the device at every step (`rnndyn.tasks.batches` is one); or an iterable of batches that
      can be iterated again: `rnndyn.training.Minibatches`, `rnndyn.training.Buckets`, a list, a data loader. A shorter
      one is started again. Arrays may be of NumPy, JAX or PyTorch; every new shape is compiled once.
    - `optimizer`: an optax optimiser such as `optax.adam(1e-2)`, or its constructor together with `learning_rate`,
      `optax.adam, learning_rate=1e-2`; only then are learning rates part of the history. Two that compute the same
      share one compilation, however often they are made. See `trainable` for a dictionary.
    - `num_steps`: updates to make.
    - `key`: fixes the batches and the validation batch that functions of a key draw, and the keys of the loss.
    - `learning_rate`: a number, or an optax schedule of the step (its argument is 0 at the first update).
    - `max_grad_norm`: gradients longer than this are scaled to it.
    - `validation`: a batch, or a function of a key, drawn once and used at every validation.
    - `metric`: `metric(model, batch)` -> scalar, smaller is better; the loss by default.
    - `carry`: what the loss hands from one update to the next, a tree of arrays: the first one. The loss is then
      `loss(model, batch, carry)` -> `(scalar, carry)`, and no gradient passes from one update to another. States of a
      stream (`rnndyn.training.truncated_bptt`) are one, the number of updates made (`rnndyn.training.with_step`) is
      another. Validation without a `metric` starts from the first carry.
    - `validate_every`: steps between validations; the untrained and the last model are validated too.
    - `target`: stop once the validation metric is at most this.
    - `patience`: stop after this many validations in a row without a new best.
    - `snapshots_every`: keep the model of every so many steps in memory, the untrained one first.
    - `checkpoint`: a file that the run is written to every `checkpoint_every` steps and at its end, complete or not at
      all, with a checksum. A disk that is full is a warning: the run goes on, and the file stays as it was.
    - `resume`: continue the run of the checkpoint, where the file exists. The numbers are those of a run that was
      never interrupted, to the last bit on the same machine and versions. `num_steps` may be larger than before (the
      end of the earlier run stays in the history as one more validation).
    - `progress`: show a bar with the loss on a terminal.
    - `trainable`: which arrays are trained, all floating-point ones by default: a filter `leaf -> bool`, or a tree of
      booleans with the structure of the model or the upper part of it
      (`eqx.tree_at(lambda m: m.readout, jax.tree.map(lambda _: False, model), True)`), or a tree of labels. The label
      "frozen" is not trained, and for the others `optimizer` is a dictionary of one optimiser each.
    - `precision`: `"bfloat16"`, `"float16"` (with a dynamic scale of the loss) or a `rnndyn.training.MixedPrecision`:
      compute in half precision, with weights and optimiser in their own.
    - `callbacks`: functions of a `rnndyn.training.TrainingEvent`, called between blocks of steps; one that returns what
      is true ends the training. `rnndyn.training.LossCurve(path)` writes losses to a file as they come.

    **Returns:** a `FitResult`: `.model`, the best validated model (the last, without validation), `.history`, ...

    **Raises:** `DivergenceError` at the first step whose loss or gradient is not finite; its `result` holds the run
    up to there, and where it lies in the data it says in which array and at which index. `ValueError` for a loss that
    is no scalar, batches of changing structure, an optimiser that does not fit the model, a checkpoint that exists and
    is not to be resumed, that cannot be written, that another run is writing, or that comes from another model, key,
    optimiser or other setting (functions are told apart by their names only).

    Ctrl-C ends the training after the block of steps that is being made, as if it had come to its end:
    `history.stopped` is "interrupted", the checkpoint is written, and can be resumed. A second one interrupts at once.

    The steps run in blocks on the device and return to Python a few times a second; how they are cut into blocks
    does not change the numbers, and one compilation serves all of them.

    ??? cite "Reference"
        R. Pascanu, T. Mikolov & Y. Bengio (2013), "On the difficulty of training recurrent neural networks", ICML.
    """
    settings = Settings(
        num_steps=num_steps,
        max_grad_norm=max_grad_norm,
        validate_every=validate_every,
        target=target,
        patience=patience,
        snapshots_every=snapshots_every,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        progress=progress,
        trainable=trainable,
        precision=precision,
        callbacks=tuple(callbacks),
    )
    run, schedule = train(
        model,
        loss,
        batches,
        optimizer,
        keys=key,
        learning_rate=learning_rate,
        validation=validation,
        metric=metric,
        carry=carry,
        settings=settings,
        ensemble=False,
    )
    result = FitResult(
        model=run.best_model,
        last_model=run.model,
        snapshots=tuple(run.snapshots),
        history=run.history(0, schedule),
    )
    if result.history.stopped == "diverged":
        raise DivergenceError(result, run.failures.get(0))
    return result


class FitResult(eqx.Module):
    """A trained model and how it came about."""

    model: Any
    """The model with the best validation metric; the last model where there was no validation."""
    last_model: Any
    """The model after the last update."""
    snapshots: tuple[Any, ...]
    """The models at `history.snapshot_steps`, where `snapshots_every` was given."""
    history: History
    """Losses, gradient norms, learning rates, validations."""

    def __str__(self) -> str:
        return str(self.history)


class DivergenceError(FloatingPointError):
    """Training met a loss or a gradient that is not finite."""

    step: int
    """The step that failed, counted from 1."""
    result: FitResult
    """The run up to there; its `last_model` is the one whose loss or gradient is not finite."""
    in_data: str | None
    """Where in the batch of that step the cause lies: the array and the index; `None` when it is not the data."""

    def __init__(self, result: FitResult, in_data: str | None = None):
        history = result.history
        self.step = len(history.losses)
        self.result = result
        self.in_data = in_data
        if in_data is not None:
            super().__init__(
                f"Training stopped at step {self.step} (loss {history.losses[-1]:.4g}) because of the data: {in_data}. "
                "Mend it, or mark the step as padding (exists) or as not counting (counts). The model before this step "
                "is in error.result.last_model."
            )
            return
        before = history.losses[:-1]
        norms = history.grad_norms[:-1]
        past = (
            f"the step before had loss {before[-1]:.4g} and gradient norm {norms[-1]:.4g}, the largest norm was "
            f"{np.max(norms):.4g} at step {np.argmax(norms) + 1}"
            if before.size
            else "it is the first step, so look at the initial weights and the data for NaN, infinity or huge values"
        )
        super().__init__(
            f"Training diverged at step {self.step}: loss {history.losses[-1]:.4g}, gradient norm "
            f"{history.grad_norms[-1]:.4g} ({past}). Try max_grad_norm=1, a smaller learning rate, a smaller initial "
            "gain of the recurrent weights, or shorter sequences. The model before this step is in "
            "error.result.last_model."
        )
