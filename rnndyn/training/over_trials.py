"""From the loss of one trial to that of a batch: each trial weighs the same, or each step does."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from rnndyn.networks._call import call_model, takes
from rnndyn.networks.tokens import check_tokens
from rnndyn.training._norm import wide
from rnndyn.training.batch import Batch, as_batch, counting
from rnndyn.training.losses import accuracy, error_rate, softmax_cross_entropy, without_index

_OF_CLASSES = (softmax_cross_entropy, accuracy, error_rate)


def over_trials(trial_loss: Callable[..., Any], *, ignore_index: int | None = None) -> "OverTrials":
    r"""A loss for `rnndyn.fit`: the mean of a trial's loss over the trials of a batch in which a step counts.

    $$L = \frac{\sum_b [W_b > 0]\, \ell_b}{\sum_b [W_b > 0]}, \qquad W_b = \sum_t m_{bt}$$

    ```python
    loss = rd.training.over_trials(rd.training.mean_squared_error)
    loss(model, rd.training.Batch(inputs, targets, exists=mask))      # (B, T, I), (B, T, O), (B, T)
    ```

    **Arguments:**

    - `trial_loss`: `trial_loss(outputs, targets, mask)` -> scalar, for one trial, the mask saying which steps count;
      without a mask in the batch it is called with the first two.
    - `ignore_index`: a class number in the targets that marks steps which do not count, such as -100.

    **Returns:** a function `(model, batch, key=None)` of a model, which maps inputs `(T, I)` to outputs `(T, O)`, and a
    `Batch`, a `rnndyn.tasks` trial (whose mask says what counts) or `(inputs, targets)`, with a leading axis of trials.
    What exists reaches the model as `mask`, and a key is split into one for each trial where the model draws at random.
    Every trial weighs the same, however many of its steps count; `over_steps` weighs every step the same. 0 when no
    step of the batch counts.

    **Raises:** (the function) `ValueError` for a batch of another kind, a mask without a name, padding and a model that
    takes no mask, or token numbers out of range where they are not traced (traced ones give NaN).
    """
    return _make(trial_loss, "trials", ignore_index)


def over_steps(trial_loss: Callable[..., Any], *, ignore_index: int | None = None) -> "OverTrials":
    r"""A loss for `rnndyn.fit`: the mean over all steps of a batch that count, as of the tokens of a text.

    $$L = \frac{\sum_b W_b\, \ell_b}{\sum_b W_b}, \qquad W_b = \sum_t m_{bt}$$

    **Arguments, returns, raises:** as of `over_trials`; `trial_loss` is the mean over the steps of a trial that count,
    as all losses of `rnndyn.training` are.
    """
    return _make(trial_loss, "steps", ignore_index)


def perplexity(loss: Callable[..., Any]) -> "Perplexity":
    r"""A metric for `rnndyn.fit`: the exponential of a loss in nats, $e^L$; the mean is taken before, as it must be.

    ```python
    metric = rd.training.perplexity(rd.training.over_steps(rd.training.softmax_cross_entropy))
    ```

    **Arguments:**

    - `loss`: a function of a model and a batch, in nats per token.
    """
    return Perplexity(loss)


class Perplexity(eqx.Module):
    """What `perplexity` returns."""

    # Static, so that two made of one loss are one to jit.
    loss: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, model: Any, batch: Any) -> Float[Array, ""]:
        return jnp.exp(self.loss(model, batch))


class OverTrials(eqx.Module):
    """What `over_trials` and `over_steps` return."""

    # Static, so that two losses made of one function are one to jit.
    trial_loss: Callable[..., Any] = eqx.field(static=True)
    weigh: Literal["trials", "steps"] = eqx.field(static=True)
    ignore_index: int | None = eqx.field(static=True)

    def __call__(self, model: Callable[..., Any], batch: Any, *, key: Any = None) -> Float[Array, ""]:
        batch = as_batch(batch, takes(model, "mask"))
        check_classes(self.trial_loss, self.ignore_index, model, batch)
        num_trials = jnp.shape(batch.inputs)[0]
        keys = None if key is None else jax.random.split(key, num_trials)

        def trial(inputs: Any, targets: Any, counts: Any, exists: Any, key: Any) -> tuple[Array, Array]:
            outputs = call_model(model, inputs if exists is None else _without_padding(inputs, exists), exists, key)
            return self.of_outputs(outputs, targets, counting(counts, exists))

        return self.mean(*jax.vmap(trial)(batch.inputs, batch.targets, batch.counts, batch.exists, keys))

    def of_outputs(self, outputs: Any, targets: Any, counts: Any) -> tuple[Array, Array]:
        """The loss of one trial and its weight."""
        counts = without_index(targets, counts, self.ignore_index)
        rest = () if counts is None else (counts,)
        if counts is not None and jnp.issubdtype(jnp.result_type(targets), jnp.integer):
            # Marks of steps that do not count, as -100, are no classes.
            targets = jnp.where(jnp.asarray(counts) != 0, targets, 0)
        loss = jnp.asarray(self.trial_loss(outputs, targets, *rest))
        weight = jnp.asarray(jnp.shape(outputs)[0]) if counts is None else jnp.sum(wide(counts))
        return loss, weight

    def mean(self, losses: Float[Array, " B"], weights: Array) -> Float[Array, ""]:
        """The loss of a batch."""
        weights = (weights if self.weigh == "steps" else weights > 0).astype(losses.dtype)
        total = jnp.sum(weights)
        return jnp.sum(jnp.where(weights > 0, weights * losses, 0)) / jnp.where(total > 0, total, 1)


def check_classes(trial_loss: Callable[..., Any], ignore_index: int | None, model: Any, batch: Batch) -> None:
    """Raise for token numbers out of range, before `vmap` hides them; traced ones are passed over.

    Of the targets only a loss of classes says the range: the number of outputs.
    """
    if hasattr(model, "check_tokens"):
        model.check_tokens(batch.inputs, batch.exists)
    if any(trial_loss is known for known in _OF_CLASSES) and not isinstance(batch.targets, Tracer):
        if not jnp.issubdtype(jnp.result_type(batch.targets), jnp.integer):
            return
        first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), batch)
        outputs = eqx.filter_eval_shape(call_model, model, first.inputs, first.exists)
        counts = without_index(batch.targets, counting(batch.counts, batch.exists), ignore_index)
        check_tokens("targets", batch.targets, outputs.shape[-1], counts)


def _make(trial_loss: Callable[..., Any], weigh: Literal["trials", "steps"], ignore_index: int | None) -> OverTrials:
    # A partial is taken apart: two alike are not equal, and a trial whose every class is ignored must not count.
    if isinstance(trial_loss, functools.partial) and trial_loss.func in _OF_CLASSES and not trial_loss.args:
        keywords = dict(trial_loss.keywords)
        inner = keywords.pop("ignore_index", None)
        if not keywords and (ignore_index is None or inner == ignore_index):
            return OverTrials(trial_loss.func, weigh, inner)
    return OverTrials(trial_loss, weigh, ignore_index)


def _without_padding(inputs: Any, exists: Any) -> Any:
    """Zeros where there is no entry: a NaN there would come back through the gradient of a model that hides it."""
    shape = (-1, *[1] * (jnp.ndim(inputs) - 1))
    return jnp.where(jnp.reshape(exists, shape), inputs, jnp.zeros_like(inputs))
