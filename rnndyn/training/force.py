"""FORCE learning: a readout that learns while it drives the network that it reads."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.results import Result
from rnndyn.training.recursive_least_squares import regression_step, start_regression


def force(
    cell: Any,
    targets: ArrayLike,
    *,
    inputs: ArrayLike | None = None,
    state: Any = None,
    weight: ArrayLike | None = None,
    alpha: ArrayLike = 1.0,
    update_every: int = 1,
) -> "ForceTraining":
    r"""Train a linear readout whose output is fed back into the network while it learns.

    $$s_t = F(s_{t-1}, [u_t, z_{t-1}]), \qquad r_t = r(s_t), \qquad z_t = W r_t,$$

    and, at every `update_every`-th step, a step of recursive least squares (see `recursive_least_squares`) with the
    error $e_t = z_t - y_t$ before it. The output that is fed back is close to the target from the first steps on, so
    the network is never driven by large errors; its chaos is suppressed, and what has to be learned is small changes
    of W that keep the errors small without further changes.

    **Arguments:**

    - `cell`: any cell `cell(state, input) -> state` with `output(state)`; its input is $[u, z]$: external inputs
      first, then the O outputs, whose input weights are the feedback.
    - `targets`: $y_t$, (T, O).
    - `inputs`: external inputs $u_t$, (T, I - O); none by default.
    - `state`: the state at the start; `cell.initial_state()` by default. A network with tanh units and without bias
      stays at zero: start it at random.
    - `weight`: W at the start, (O, H); zero by default.
    - `alpha`: as in `recursive_least_squares`; smaller ones learn faster. 1 to 100 in the paper.
    - `update_every`: steps between updates, 1 or more.

    **Returns:** a `ForceTraining`.

    **Raises:** `ValueError` for shapes that do not fit the cell, or settings out of range.

    Pure: `jit` and `vmap` work. Whether the network then runs by itself is to be tested: errors are small during
    training whatever has been learned, and only a W that no longer changes (`weight_changes`) can keep them so. For a
    `LeakyCell` or `VanillaCell` with feedback alone the trained network is the cell without input whose recurrent
    weight is `weight_hh + weight_ih @ weight`.

    ??? cite "Reference"
        D. Sussillo & L. F. Abbott (2009), "Generating coherent patterns of activity from chaotic neural networks",
        Neuron 63.
    """
    targets = jnp.asarray(targets)
    if targets.ndim != 2:
        raise ValueError(f"targets: expected shape (T, O), got {targets.shape}.")
    num_targets = targets.shape[1]
    check_at_least("update_every", update_every, 1)
    external = cell.input_size - num_targets
    inputs = jnp.zeros((len(targets), 0), targets.dtype) if inputs is None else jnp.asarray(inputs)
    if external < 0 or inputs.shape != (len(targets), external):
        raise ValueError(
            f"inputs: the cell takes {cell.input_size} inputs, of which the last {num_targets} are the outputs, "
            f"so expected shape {(len(targets), max(external, 0))}, got {inputs.shape}."
        )
    state = cell.initial_state() if state is None else jax.tree.map(jnp.asarray, state)
    rates = jax.eval_shape(cell.output, state)
    if rates.ndim != 1:
        raise ValueError(f"cell: expected an output of shape (H,), got {rates.shape}.")
    inverse, weight = start_regression(rates.shape[0], num_targets, alpha, weight, rates.dtype)
    targets, inputs = targets.astype(rates.dtype), inputs.astype(rates.dtype)
    updates = np.arange(1, len(targets) + 1) % update_every == 0
    return _force(cell, targets, inputs, state, inverse, weight, jnp.asarray(updates))


class ForceTraining(Result):
    """A readout after FORCE learning over T steps, and how it came about.

    - `weight`: W, `(O, H)`.
    - `outputs`: z_t before the update of each step, `(T, O)`.
    - `errors`: z_t minus the targets, `(T, O)`.
    - `weight_changes`: the length of the change of W at each step, zero where none was made, `(T,)`.
    - `inverse`: P of the recursive least squares, `(H, H)`.
    - `final_state`: of the network, from which it goes on.
    """

    weight: Float[Array, "O H"]
    outputs: Float[Array, "T O"]
    errors: Float[Array, "T O"]
    weight_changes: Float[Array, " T"]
    inverse: Float[Array, "H H"]
    final_state: Any


@compiled
def _force(cell, targets, inputs, state, inverse, weight, updates):
    def step(carry, now):
        state, output, inverse, weight = carry
        target, external, learns = now
        state = cell(state, jnp.concatenate([external, output]))
        features = cell.output(state)
        output = weight @ features
        error = output - target
        learn = lambda: regression_step(inverse, weight, features, error)
        inverse, after = jax.lax.cond(learns, learn, lambda: (inverse, weight))
        return (state, output, inverse, after), (output, error, jnp.linalg.norm(after - weight))

    start = (state, weight @ cell.output(state), inverse, weight)
    (state, _, inverse, weight), (outputs, errors, changes) = jax.lax.scan(step, start, (targets, inputs, updates))
    return ForceTraining(weight, outputs, errors, changes, inverse, state)
