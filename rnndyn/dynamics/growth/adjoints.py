"""Adjoints: what backpropagation through time carries from step to step."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from rnndyn.dynamics.growth._arguments import check_growth_arguments
from rnndyn.dynamics.numerics.statistics import batch_means, block_sums
from rnndyn.results import Result


def adjoints(
    f: Callable[..., Array],
    x0: ArrayLike,
    inputs: ArrayLike | None,
    loss: Callable[[Array], Array],
    *,
    num_steps: int | None = None,
) -> "Adjoints":
    r"""The gradient of a loss with respect to every state, and each step's share of the gradient of the parameters.

    For $L(x_1, \dots, x_T)$ along $x_{t+1} = F(x_t, u_t; \theta)$, the total derivatives $a_t = dL/dx_t$ obey

    $$a_T = \frac{\partial L}{\partial x_T}, \qquad
    a_t = \frac{\partial L}{\partial x_t} + DF(x_t)^T a_{t+1}, \qquad
    \frac{dL}{d\theta} = \sum_{t=0}^{T-1} \Bigl(\frac{\partial F(x_t, u_t)}{\partial\theta}\Bigr)^T a_{t+1}$$

    **Arguments:**

    - `f`: the map, `f(x, u) -> x`; its floating-point arrays (an `eqx.Module`'s leaves) are the parameters.
    - `x0`: the initial state, (N,).
    - `inputs`: one row per step, (T, ...); or `None` for a map `f(x)`, and then `num_steps` says how many.
    - `loss`: a function of the states after each step, (T, N) -> scalar. `lambda xs: loss_of(xs[-1])` looks at the
      last state only.
    - `num_steps`: T, needed without inputs.

    **Returns:** an `Adjoints`. Vectors are kept as direction and log length, so neither an exploding nor a vanishing
    gradient leaves the floating-point range, however long the sequence.

    **Raises:** `ValueError` for wrong shapes, or when neither `inputs` nor `num_steps` is given.

    With a loss of the last state, $\ln(|a_0| / |a_T|) / T$ tends to the largest Lyapunov exponent: in chaos gradients
    explode. Memory O(T N + P) for P parameters; `parameter_contributions`, computed when asked for, takes O(T P).
    Pure: `jit` and `vmap` work.

    ??? cite "Reference"
        R. Pascanu, T. Mikolov & Y. Bengio (2013), "On the difficulty of training recurrent neural networks", ICML;
        J. Mikhaeil, Z. Monfared & D. Durstewitz (2022), "On the difficulty of learning chaotic dynamics with RNNs",
        NeurIPS.
    """
    if inputs is None and num_steps is None:
        raise ValueError("num_steps: without inputs, say how many steps to take.")
    if inputs is not None:
        num_rows = np.shape(inputs)[0] if np.ndim(inputs) else 0
        if num_steps is not None and num_steps != num_rows:
            raise ValueError(f"num_steps: got {num_steps}, but inputs has {num_rows} rows. Leave num_steps out.")
        num_steps = num_rows
    assert num_steps is not None
    x0, rows, _ = check_growth_arguments(f, x0, num_steps, 0, inputs, 1)
    shape = jax.eval_shape(loss, jax.ShapeDtypeStruct((num_steps, x0.shape[0]), x0.dtype))
    if getattr(shape, "shape", None) != ():
        raise ValueError(f"loss: expected a scalar from states of shape {(num_steps, x0.shape[0])}, got {shape}.")
    return _adjoints(f, x0, rows, loss, num_steps)


class Adjoints(Result):
    """Total derivatives of a loss along a trajectory; row t belongs to $x_t$, t = 0 ... T."""

    states: Float[Array, "T_plus_1 N"]
    """$x_0, \\dots, x_T$."""
    directions: Float[Array, "T_plus_1 N"]
    """$a_t / |a_t|$ (zero where the adjoint vanishes)."""
    log_norms: Float[Array, " T_plus_1"]
    """$\\ln |a_t|$ (-inf where it vanishes)."""
    local_growth: Float[Array, " T"]
    """$\\ln(|DF(x_t)^T a_{t+1}| / |a_{t+1}|)$: the growth of the backpropagated vector over each step."""
    growth_rate: Float[Array, ""]
    """Its mean, in nats per step: gradients grow (positive) or vanish (negative) at this rate backwards in time."""
    growth_rate_stderr: Float[Array, ""]
    """The standard error of that (batch means)."""
    parameter_gradient: dict[str, Float[Array, "..."]]
    """$dL/d\\theta$, by parameter; the key is the path of the array in `f`."""
    contribution_norms: dict[str, Float[Array, " T"]]
    """The Frobenius norm of what each step contributes to the gradient of each parameter."""

    @property
    def vectors(self) -> Float[Array, "T_plus_1 N"]:
        """$a_t = dL/dx_t$ itself; it overflows and underflows where the gradient does."""
        # 0 * exp(-inf) is 0, as it should be.
        return jnp.exp(jnp.asarray(self.log_norms))[..., None] * self.directions


def parameter_contributions(
    f: Callable[..., Array], inputs: ArrayLike | None, result: Adjoints
) -> dict[str, Float[Array, "T ..."]]:
    r"""What every step adds to the gradient of each parameter: $(\partial F(x_t, u_t) / \partial\theta)^T a_{t+1}$.

    **Arguments:**

    - `f`, `inputs`: as given to `adjoints`.
    - `result`: what it returned.

    **Returns:** for each parameter, by its path in `f`, an array (T, *shape of the parameter); mind the memory.
    """
    rows = None if inputs is None else jnp.asarray(inputs)
    return _contributions(f, rows, jnp.asarray(result.states), jnp.asarray(result.vectors))


@eqx.filter_jit
def _contributions(f, inputs, states, vectors):
    parameters, rest = eqx.partition(f, eqx.is_inexact_array)

    def one(x, u, a):
        step = lambda p: eqx.combine(p, rest)(x, *(() if inputs is None else (u,)))
        return _named(jax.vjp(step, parameters)[1](a)[0])

    return jax.vmap(one, in_axes=(0, None if inputs is None else 0, 0))(states[:-1], inputs, vectors[1:])


@eqx.filter_jit
def _adjoints(f, x0, inputs, loss, num_steps):
    parameters, rest = eqx.partition(f, eqx.is_inexact_array)

    def call(p, x, u):
        return eqx.combine(p, rest)(x, *(() if inputs is None else (u,)))

    def forward(x, u):
        x_next = call(parameters, x, u)
        return x_next, x_next

    _, later = jax.lax.scan(forward, x0, inputs, length=num_steps)
    states = jnp.concatenate([x0[None], later])
    sources = jax.grad(lambda xs: loss(xs).astype(x0.dtype))(later)
    directions, log_norms = jax.vmap(_polar)(sources)

    def backward(carry, xs):
        (direction, log_norm), gradient = carry
        x, u, source, log_source = xs
        _, pull = jax.vjp(lambda p, y: call(p, y, u), parameters, x)
        per_parameter, pulled = pull(direction)
        pulled, log_growth = _polar(pulled)
        share = jax.tree.map(lambda g: g * jnp.exp(log_norm), per_parameter)
        norms = jax.tree.map(lambda g: jnp.exp(jnp.log(jnp.linalg.norm(g)) + log_norm), per_parameter)
        gradient = jax.tree.map(jnp.add, gradient, share)
        before = _add((pulled, log_norm + log_growth), (source, log_source))
        return (before, gradient), (before, log_growth, norms)

    # x_0 has no direct part in the loss.
    nothing = (jnp.zeros((1, x0.size), x0.dtype), jnp.full(1, -jnp.inf, x0.dtype))
    earlier = (jnp.concatenate([nothing[0], directions[:-1]]), jnp.concatenate([nothing[1], log_norms[:-1]]))
    start = ((directions[-1], log_norms[-1]), jax.tree.map(jnp.zeros_like, parameters))
    (_, gradient), (found, log_growth, norms) = jax.lax.scan(
        backward, start, (states[:-1], inputs, *earlier), length=num_steps, reverse=True
    )
    blocks, block = block_sums(jnp.where(jnp.isneginf(log_growth), 0, log_growth)[:, None])
    return Adjoints(
        states=states,
        directions=jnp.concatenate([found[0], directions[-1:]]),
        log_norms=jnp.concatenate([found[1], log_norms[-1:]]),
        local_growth=log_growth,
        growth_rate=log_growth.mean(),
        growth_rate_stderr=batch_means(blocks / block)[0][0],
        parameter_gradient=_named(gradient),
        contribution_norms=_named(norms),
    )


def _polar(vector):
    """Unit direction and log length; the zero vector is (0, -inf)."""
    scale = jnp.max(jnp.abs(vector))  # keeps the squares of small and large entries in range
    length = jnp.linalg.norm(vector / jnp.where(scale > 0, scale, 1))
    direction = vector / jnp.where(scale > 0, scale, 1) / jnp.where(scale > 0, length, 1)
    return direction, jnp.log(scale) + jnp.log(jnp.where(scale > 0, length, 1))


def _add(first, second):
    (d1, l1), (d2, l2) = first, second
    top = jnp.maximum(l1, l2)
    top = jnp.where(jnp.isneginf(top), 0, top)
    direction, log_norm = _polar(d1 * jnp.exp(l1 - top) + d2 * jnp.exp(l2 - top))
    return direction, log_norm + top


def _named(tree: Any) -> dict[str, Array]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in leaves}
