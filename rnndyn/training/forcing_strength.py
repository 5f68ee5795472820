"""How strongly to force: from the Jacobians of the network, or every so many steps from its largest exponent."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnndyn._validation import check_at_least


def forcing_strength(
    f: Callable[..., Array], states: Any, *, inputs: Any = None, growth: str = "product"
) -> Float[Array, ""]:
    r"""The weakest forcing under which gradients do not grow along these states.

    Forced states move by $(1 - \alpha) DF$ a step, so that gradients stay bounded for

    $$\alpha = \max\bigl(0,\; 1 - 1 / g\bigr), \qquad
    g = \Bigl\| \prod_{t=1}^{T} DF(x_t) \Bigr\|_2^{1/T} \quad\text{or}\quad g = \max_t \|DF(x_t)\|_2 .$$

    **Arguments:**

    - `f`: the map, such as `rnndyn.as_map(cell)`; with `inputs` the driven map `f(x, u)`.
    - `states`: (T, N), of the data or of the network.
    - `inputs`: what drives the step from each state, (T, I).
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
    if inputs is not None and len(inputs) != len(states):
        raise ValueError(f"inputs: expected one for each of the {len(states)} states, got {len(inputs)}.")
    along = (states,) if inputs is None else (states, jnp.asarray(inputs))
    jacobians = jax.lax.stop_gradient(jax.vmap(jax.jacfwd(f))(*jax.lax.stop_gradient(along)))
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
