"""How strongly to force: from the Jacobians of the network, or every so many steps from its largest exponent."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnndyn._validation import check_at_least
from rnndyn.networks.adapters import as_cell
from rnndyn.training.losses import mean_squared_error
from rnndyn.training.teacher_forcing import generalized_teacher_forcing, nearest_state


def forcing_strength(f: Callable[[Array], Array], states: Any, *, growth: str = "product") -> Float[Array, ""]:
    r"""The weakest forcing under which gradients do not grow along these states.

    Forced states move by $(1 - \alpha) DF$ a step, so that gradients stay bounded for

    $$\alpha = \max\bigl(0,\; 1 - 1 / g\bigr), \qquad
    g = \Bigl\| \prod_{t=1}^{T} DF(x_t) \Bigr\|_2^{1/T} \quad\text{or}\quad g = \max_t \|DF(x_t)\|_2 .$$

    **Arguments:**

    - `f`: the map, such as `rnndyn.as_map(cell)`.
    - `states`: (T, N), of the data or of the network.
    - `growth`: `"product"`, the mean growth along the states, in their order, which tends to $e^{\lambda_1}$; or
        `"largest"`, that of the worst step, a bound for any order, often far too strong.

    **Returns:** $\alpha$, a scalar in [0, 1), without gradient: the strength is a setting, not a thing to be learned.

    **Raises:** `ValueError` for states of another shape or an unknown `growth`.

    Pure. The product is scaled at every step, so that long stretches neither overflow nor vanish.

    ??? cite "Reference"
        F. Hess, Z. Monfared, M. Brenner & D. Durstewitz (2023), "Generalized teacher forcing for learning chaotic
        dynamics", ICML.
    """
    if growth not in ("product", "largest"):
        raise ValueError(f"growth: expected 'product' or 'largest', got {growth!r}.")
    states = jnp.asarray(states)
    if states.ndim != 2 or 0 in states.shape:
        raise ValueError(f"states: expected shape (T, N) with at least one state, got {states.shape}.")
    jacobians = jax.lax.stop_gradient(jax.vmap(jax.jacfwd(f))(jax.lax.stop_gradient(states)))
    if growth == "largest":
        rate = jnp.log(jnp.linalg.norm(jacobians, ord=2, axis=(1, 2)).max())
    else:

        def step(carry: tuple[Array, Array], jacobian: Array) -> tuple[tuple[Array, Array], None]:
            product, log_scale = carry
            product = jacobian @ product
            scale = jnp.linalg.norm(product)
            # A product that is zero stays so, with a logarithm of minus infinity and no NaN.
            return (product / jnp.where(scale > 0, scale, 1), log_scale + jnp.log(scale)), None

        first = (jnp.eye(states.shape[1], dtype=jacobians.dtype), jnp.zeros((), jacobians.dtype))
        (product, log_scale), _ = jax.lax.scan(step, first, jacobians)
        rate = (log_scale + jnp.log(jnp.linalg.norm(product, ord=2))) / len(states)
    return jnp.maximum(0, -jnp.expm1(-rate))


def forcing_interval(exponent: float, dt: float = 1.0) -> int:
    r"""After how many steps to force a chaotic network wholly: its predictability time, $\tau = \ln 2 / \lambda_1$.

    **Arguments:**

    - `exponent`: the largest Lyapunov exponent $\lambda_1$ of the data, per unit of time, above 0.
    - `dt`: the time of one step.

    **Returns:** the number of steps, at least 1.

    **Raises:** `ValueError` for an exponent or time that is not positive.

    ??? cite "Reference"
        J. M. Mikhaeil, Z. Monfared & D. Durstewitz (2022), "On the difficulty of learning chaotic dynamics with RNNs",
        NeurIPS.
    """
    for name, value in (("exponent", exponent), ("dt", dt)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}: expected a positive number, got {value}.")
    return max(1, round(math.log(2) / (exponent * dt)))


def sparse_forcing(num_steps: int, interval: int) -> Float[Array, " T"]:
    """Strengths for `generalized_teacher_forcing` that force wholly every `interval` steps and not at all between.

    **Arguments:**

    - `num_steps`: T.
    - `interval`: as of `forcing_interval`; 1 is teacher forcing.

    **Returns:** ones and zeros (T,): the states after steps `interval`, 2 `interval`, ... are put on the data.

    **Raises:** `ValueError` for counts below 1.
    """
    check_at_least("num_steps", num_steps, 1)
    check_at_least("interval", interval, 1)
    return (jnp.arange(1, num_steps + 1) % interval == 0).astype(jnp.result_type(float))


def forced_loss(alpha: Any = "adaptive", *, decay: float = 0.99, fixed_readout: bool = False) -> "ForcedLoss":
    r"""The squared error of a network whose state is drawn towards the data, over stretches of series.

    ```python
    windows = rd.tasks.dynamical_systems.SeriesWindows(series, 30, 16)
    loss = rd.training.forced_loss(0.2)
    rd.fit(model, loss, windows, optax.adam(1e-3), carry=loss.first_carry(), ...)
    ```

    **Arguments:**

    - `alpha`: the strength: a number in [0, 1] (0 runs freely); strengths for every step (T,), such as those of
        `sparse_forcing`; a schedule of the number of updates, such as those of optax; or `"adaptive"`: what
        `forcing_strength` gives for the Jacobians of the network along the data of a batch, the largest of its
        stretches, smoothed over updates:
        $\alpha \leftarrow \gamma \alpha + (1 - \gamma) \alpha_{batch}$, from 1 on.
    - `decay`: $\gamma$ of the adaptive strength.
    - `fixed_readout`: keep the readout as it is, where the state is the output.

    **Returns:** a `ForcedLoss`, `loss(model, batch, carry) -> (scalar, carry)` of an `RNN` with a linear readout and a
    batch (B, T + 1, N) of stretches whose first entries are where runs start. `rnndyn.fit` takes it with
    `carry=loss.first_carry()`: the strength, and the number of updates made.

    **Raises:** `ValueError` for a decay outside [0, 1).

    ??? cite "Reference"
        F. Hess, Z. Monfared, M. Brenner & D. Durstewitz (2023), "Generalized teacher forcing for learning chaotic
        dynamics", ICML.
    """
    if isinstance(alpha, str) and alpha != "adaptive":
        raise ValueError(f"alpha: expected numbers, a schedule, or 'adaptive', got {alpha!r}.")
    if not 0 <= decay < 1:
        raise ValueError(f"decay: expected a number in [0, 1), got {decay}.")
    if not callable(alpha) and not isinstance(alpha, str):
        alpha = tuple(map(float, alpha)) if jnp.ndim(alpha) else float(alpha)
    return ForcedLoss(alpha, decay, fixed_readout)


class ForcedLoss(eqx.Module):
    """What `forced_loss` returns."""

    # Static, so that two losses of the same settings are one to jit.
    alpha: Any = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    fixed_readout: bool = eqx.field(static=True)

    def first_carry(self) -> tuple[Array, Array]:
        """The strength and the number of updates to begin with: the `carry` of `rnndyn.fit`."""
        return jnp.ones(()), jnp.zeros((), int)

    def __call__(self, model: Any, batch: Any, carry: Any) -> tuple[Array, Any]:
        strength, step = carry
        batch = jnp.asarray(batch)
        if batch.ndim != 3 or batch.shape[1] < 2:
            raise ValueError(f"batch: expected stretches of shape (B, T + 1, N), T at least 1, got {batch.shape}.")
        if self.fixed_readout:
            model = eqx.tree_at(lambda m: m.readout, model, jax.lax.stop_gradient(model.readout))
        if isinstance(self.alpha, str):
            found = jax.vmap(lambda stretch: forcing_strength(_held(model), _states(model, stretch[:-1])))(batch)
            strength = self.decay * strength + (1 - self.decay) * found.max().astype(strength.dtype)
            alpha: Any = strength
        else:
            alpha = self.alpha(step) if callable(self.alpha) else jnp.asarray(self.alpha)

        def one(stretch: Array) -> Array:
            start = nearest_state(model, start_vector(model, stretch.dtype), stretch[0])
            outputs = generalized_teacher_forcing(model, stretch[1:], alpha, state=start)
            return mean_squared_error(outputs, stretch[1:])

        return jnp.mean(jax.vmap(one)(batch)), (jax.lax.stop_gradient(strength), step + 1)


def start_vector(model: Any, dtype: Any) -> Array:
    """The state that a model starts from.

    **Raises:** `ValueError` for a state that is not one vector, such as an LSTM's.
    """
    state = model.start()
    if not isinstance(state, jax.Array) or state.ndim != 1:
        raise ValueError(
            f"model: expected its state to be one vector, all read out, got {jax.tree.map(jnp.shape, state)}."
        )
    return state.astype(dtype)


def _held(model: Any) -> Callable[[Array], Array]:
    cell: Any = as_cell(model.cell)
    return lambda x: cell(x, jnp.zeros(cell.input_size, x.dtype))


def _states(model: Any, outputs: Array) -> Array:
    start = start_vector(model, outputs.dtype)
    return jax.vmap(lambda output: nearest_state(model, start, output))(outputs)
