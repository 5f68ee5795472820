"""Gradient flossing: training a network's Lyapunov exponents."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.dynamics.growth.lyapunov import lyapunov_spectrum
from rnndyn.results import Result
from rnndyn.training._optimizers import start


def flossing_loss(
    f: Callable[..., Array],
    x0: ArrayLike,
    num_steps: int,
    num_exponents: int,
    *,
    target: ArrayLike = 0.0,
    inputs: ArrayLike | None = None,
    num_transient: int = 0,
    qr_every: int | None = None,
    remat_every: int | None = None,
) -> Float[Array, ""]:
    r"""The mean squared distance of the first k Lyapunov exponents from where they should be.

    $$L = \frac1k \sum_{i=1}^k (\lambda_i - \lambda_i^*)^2$$

    Exponents near zero let gradients pass through many steps without vanishing or exploding. Add the loss to that of a
    task, or minimise it alone before or between epochs of training (`floss`).

    **Arguments:**

    - `f`: the map, `f(x)` or `f(x, u)`; gradients flow to its arrays.
    - `x0`: the initial state, (N,).
    - `num_steps`: steps the exponents are measured over. Gradients of a chaotic network grow with it: some tens to a
      hundred are enough.
    - `num_exponents`: k. As many directions as the task has to keep through time.
    - `target`: $\lambda^*$, a number or one per exponent (k,), descending.
    - `inputs`, `num_transient`, `qr_every`, `remat_every`: as in `lyapunov_spectrum`.

    **Returns:** the loss, a scalar.

    **Raises:** `ValueError` for wrong shapes or counts.

    Pure: `jit`, `vmap` and `grad` work.

    ??? cite "Reference"
        R. Engelken (2023), "Gradient flossing: improving gradient descent through dynamic control of Jacobians",
        NeurIPS.
    """
    if np.ndim(target) and np.shape(target) != (num_exponents,):
        raise ValueError(
            f"target: expected a number or {num_exponents} of them (num_exponents), got {np.shape(target)}."
        )
    spectrum = lyapunov_spectrum(
        f,
        x0,
        num_steps,
        inputs=inputs,
        num_exponents=num_exponents,
        num_transient=num_transient,
        qr_every=qr_every,
        remat_every=remat_every,
    )
    return jnp.mean((spectrum.exponents - jnp.asarray(target)) ** 2)


def floss(
    f: Callable[..., Array],
    x0: ArrayLike,
    num_updates: int,
    num_steps: int,
    num_exponents: int,
    *,
    target: ArrayLike = 0.0,
    inputs: ArrayLike | None = None,
    inputs_per_update: bool = False,
    num_transient: int = 0,
    optimizer: optax.GradientTransformation | None = None,
) -> "FlossingResult":
    r"""Gradient flossing on its own: adjust the arrays of a map until its first exponents are where they should be.

    **Arguments:**

    - `f`, `x0`, `num_steps`, `num_exponents`, `target`, `num_transient`: as in `flossing_loss`. Of a network,
      `rnndyn.as_driven_map(cell)` or `rnndyn.as_map(cell)`; the trained cell is `result.f.cell`.
    - `num_updates`: steps of the optimiser.
    - `inputs`: (num_transient + num_steps, ...), the same at every update.
    - `inputs_per_update`: `inputs` has one sequence per update, (num_updates, num_transient + num_steps, ...).
    - `optimizer`: an optax optimiser (default: Adam at 1e-3).

    **Returns:** a `FlossingResult`.

    **Raises:** `ValueError` for wrong shapes or counts.
    """
    check_at_least("num_updates", num_updates, 1)
    optimizer = optax.adam(1e-3) if optimizer is None else optimizer
    rows = None if inputs is None else jnp.asarray(inputs)
    if inputs_per_update:
        wanted = (num_updates, num_transient + num_steps)
        if rows is None or rows.shape[:2] != wanted:
            raise ValueError(
                f"inputs: with inputs_per_update, expected shape {wanted} + the shape of one input, "
                f"got {None if rows is None else rows.shape}."
            )
    x0, target = jnp.asarray(x0), jnp.asarray(target)
    counts = (num_steps, num_exponents, num_transient)
    first = rows[0] if rows is not None and inputs_per_update else rows
    loss_before = _loss(f, x0, target, first, *counts)  # also checks the shapes before anything is trained
    trained, losses = _descend(f, x0, target, rows, optimizer, num_updates, inputs_per_update, *counts)
    flossed = eqx.combine(trained, f)
    loss_after = _loss(flossed, x0, target, first, *counts)
    return FlossingResult(flossed, FlossingHistory(np.asarray(losses), float(loss_before), float(loss_after)))


@compiled
def _loss(f, x0, target, inputs, num_steps, num_exponents, num_transient):
    return flossing_loss(f, x0, num_steps, num_exponents, target=target, inputs=inputs, num_transient=num_transient)


@compiled
def _descend(f, x0, target, rows, optimizer, num_updates, per_update, num_steps, num_exponents, num_transient):
    """The trained arrays of `f`, and the losses on the way; another map of these shapes compiles nothing new."""
    parameters, rest = eqx.partition(f, eqx.is_inexact_array)

    def loss(parameters, inputs):
        f = eqx.combine(parameters, rest)
        return flossing_loss(f, x0, num_steps, num_exponents, target=target, inputs=inputs, num_transient=num_transient)

    def update(carry, sequence):
        parameters, state = carry
        value, gradient = jax.value_and_grad(loss)(parameters, sequence if per_update else rows)
        with jax.numpy_dtype_promotion("standard"):  # optimisers mix counts and rates
            updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), value

    carry = (parameters, start(optimizer, parameters))
    (parameters, _), losses = jax.lax.scan(update, carry, rows if per_update else None, length=num_updates)
    return parameters, losses


class FlossingHistory(Result):
    """How the exponents approached their targets."""

    losses: Float[np.ndarray, " num_updates"]
    """The mean squared distance from the target before each update."""
    loss_before: float
    """The same before the first update, and"""
    loss_after: float
    """after the last, on the (first) sequence of inputs."""


class FlossingResult(eqx.Module):
    """A map whose exponents were trained.

    Returned by `floss`. `f` is ready for any analysis; `history` has the loss on the way, the mean squared distance of
    the exponents from their targets in (nats per step)^2.

    Reference: R. Engelken (2023), *Gradient flossing: improving gradient descent through dynamic control of Jacobians*.
    """

    f: Any
    """The map, with its arrays adjusted."""
    history: FlossingHistory
    """The loss on the way."""

    def __str__(self) -> str:
        return str(self.history)
