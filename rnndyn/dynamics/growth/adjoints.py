"""Adjoints: what backpropagation through time carries from step to step."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from rnndyn._programs import Program, as_program, compiled
from rnndyn._validation import check_state
from rnndyn.dynamics.growth._arguments import check_growth_arguments
from rnndyn.dynamics.growth._polar import polar, scaled
from rnndyn.dynamics.growth.verdicts import GrowthVerdict
from rnndyn.dynamics.numerics.statistics import batch_means, block_sums
from rnndyn.results import Judged


def adjoints(
    f: Callable[..., Array],
    x0: ArrayLike,
    inputs: PyTree[ArrayLike] | None,
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
    - `inputs`: one row per step, (T, ...), or a tree of such arrays, `(inputs, keys)` for one; or `None` for a map
      `f(x)`, and then `num_steps` says how many.
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
        inputs = jax.tree.map(jnp.asarray, inputs)
        lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(inputs)}
        if len(lengths) != 1:
            raise ValueError(f"inputs: expected arrays with one row per step, got the lengths {sorted(lengths)}.")
        num_rows = lengths.pop()
        if num_steps is not None and num_steps != num_rows:
            raise ValueError(f"num_steps: got {num_steps}, but inputs has {num_rows} rows. Leave num_steps out.")
        num_steps = num_rows
    assert num_steps is not None
    if inputs is None or jax.tree_util.treedef_is_leaf(jax.tree.structure(inputs)):
        program, x0, rows, _ = check_growth_arguments(f, x0, num_steps, 0, inputs, 1)
    else:
        check_state("x0", x0)
        x0, rows = jnp.asarray(x0), inputs
        row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)
        program = as_program(f, x0, row, double=False)
    states = jax.ShapeDtypeStruct((num_steps, x0.shape[0]), x0.dtype)
    shape = jax.eval_shape(loss, states)
    if getattr(shape, "shape", None) != ():
        raise ValueError(f"loss: expected a scalar from states of shape {(num_steps, x0.shape[0])}, got {shape}.")
    # A loss is mostly a closure over what it compares with: one program for all of them.
    loss = as_program(loss, states, double=False, name="loss", keeps_state=False)
    # Parameters are named by their place in `f`; a plain function has none, and is called as the program that it is.
    return _adjoints(f if isinstance(f, eqx.Module) else program, x0, rows, loss, num_steps)


class Adjoints(Judged):
    """Total derivatives $a_t = dL/dx_t$ of a loss along a trajectory; row t belongs to $x_t$, t = 0 ... T.

    Directions and logarithms of lengths are kept apart, so that neither vanishing nor exploding gradients leave the
    range of floats. Where the trajectory or a derivative does leave it, what depends on it is NaN and `result` says so.
    """

    states: Float[Array, "T_plus_1 N"]
    """The states $x_0, \\dots, x_T$; NaN or infinite from the step at which the trajectory escaped."""
    directions: Float[Array, "T_plus_1 N"]
    """$a_t / |a_t|$, of length 1; zero where the adjoint vanishes: after the last state that the loss looks at."""
    log_norms: Float[Array, " T_plus_1"]
    """$\\ln |a_t|$, with $|a_t|$ in units of the loss per unit of the state; -inf where the adjoint vanishes."""
    local_growth: Float[Array, " T"]
    """$\\ln(|DF(x_t)^T a_{t+1}| / |a_{t+1}|)$: the growth of the backpropagated vector over each step. NaN where
    $a_{t+1} = 0$ (steps after the last one that the loss looks at), -inf where the step destroys it."""
    growth_rate: Float[Array, ""]
    """Its mean over the steps that have one, in nats per step: gradients grow (positive) or vanish (negative) at this
    rate backwards in time. NaN when there is no such step."""
    growth_rate_stderr: Float[Array, ""]
    """The standard error of that (batch means); NaN for a rate of -inf."""
    parameter_gradient: dict[str, Float[Array, "..."]]
    """$dL/d\\theta$, an array of the shape of each parameter; the key is its path in `f`. Empty for a plain function,
    which has no parameters to name."""
    contribution_norms: dict[str, Float[Array, " T"]]
    """The Frobenius norm of what each step contributes to that gradient, by the same keys; the sum bounds its norm."""
    result: GrowthVerdict
    """The verdict on `growth_rate`: `not_finite` where the trajectory or a derivative left the floating-point range,
    `no_gradient` where the loss depends on no state, `correlated` where the window is too short for the error bar."""

    @property
    def vectors(self) -> Float[Array, "T_plus_1 N"]:
        """$a_t = dL/dx_t$ itself; it overflows and underflows where the gradient does."""
        return scaled(jnp.asarray(self.directions), jnp.asarray(self.log_norms)[..., None])


def parameter_contributions(
    f: Callable[..., Array], inputs: PyTree[ArrayLike] | None, result: Adjoints
) -> dict[str, Float[Array, "T ..."]]:
    r"""What every step adds to the gradient of each parameter: $(\partial F(x_t, u_t) / \partial\theta)^T a_{t+1}$.

    **Arguments:**

    - `f`, `inputs`: as given to `adjoints`.
    - `result`: what it returned.

    **Returns:** for each parameter, by its path in `f`, an array (T, *shape of the parameter); mind the memory.
    """
    return _contributions(
        f,
        jax.tree.map(jnp.asarray, inputs),
        *(jnp.asarray(a) for a in (result.states, result.directions, result.log_norms)),
    )


def _partition(f: Callable) -> tuple[Any, Any]:
    return eqx.partition(f, lambda leaf: eqx.is_inexact_array(leaf) and not isinstance(f, Program))


@compiled
def _contributions(f, inputs, states, directions, log_norms):
    parameters, rest = _partition(f)

    def one(x, u, direction, log_norm):
        step = lambda p: eqx.combine(p, rest)(x, *(() if inputs is None else (u,)))
        share = jax.vjp(step, parameters)[1](direction)[0]
        return _named(jax.tree.map(lambda g: scaled(g, log_norm), share))

    in_axes = (0, None if inputs is None else 0, 0, 0)
    return jax.vmap(one, in_axes=in_axes)(states[:-1], inputs, directions[1:], log_norms[1:])


@compiled
def _adjoints(f, x0, inputs, loss, num_steps):
    parameters, rest = _partition(f)

    def call(p, x, u):
        return eqx.combine(p, rest)(x, *(() if inputs is None else (u,)))

    def forward(x, u):
        x_next = call(parameters, x, u)
        return x_next, x_next

    _, later = jax.lax.scan(forward, x0, inputs, length=num_steps)
    states = jnp.concatenate([x0[None], later])
    sources = jax.grad(lambda xs: loss(xs).astype(x0.dtype))(later)
    directions, log_norms = jax.vmap(polar)(sources)

    def backward(carry, xs):
        (direction, log_norm), gradient = carry
        x, u, source, log_source = xs
        _, pull = jax.vjp(lambda p, y: call(p, y, u), parameters, x)
        per_parameter, pulled = pull(direction)
        pulled, log_growth = polar(pulled)
        share = jax.tree.map(lambda g: scaled(g, log_norm), per_parameter)
        norms = jax.tree.map(lambda g: jnp.exp(polar(g.ravel())[1] + log_norm), per_parameter)
        gradient = jax.tree.map(jnp.add, gradient, share)
        before = _add((pulled, log_norm + log_growth), (source, log_source))
        # A vector that is not there yet does not grow, which is not the same as being destroyed.
        log_growth = jnp.where(jnp.isneginf(log_norm), jnp.nan, log_growth)
        return (before, gradient), (before, log_growth, norms)

    # x_0 has no direct part in the loss.
    nothing = (jnp.zeros((1, x0.size), x0.dtype), jnp.full(1, -jnp.inf, x0.dtype))
    earlier = (jnp.concatenate([nothing[0], directions[:-1]]), jnp.concatenate([nothing[1], log_norms[:-1]]))
    start = ((directions[-1], log_norms[-1]), jax.tree.map(jnp.zeros_like, parameters))
    (_, gradient), (found, log_growth, norms) = jax.lax.scan(
        backward, start, (states[:-1], inputs, *earlier), length=num_steps, reverse=True
    )
    has_rate = ~jnp.isneginf(jnp.concatenate([found[1][1:], log_norms[-1:]]))
    lost = ~jnp.all(jnp.isfinite(states)) | jnp.any(jnp.isnan(log_growth) & has_rate) | jnp.isnan(log_norms).any()
    num_rates = jnp.sum(has_rate).astype(x0.dtype)
    rate = jnp.sum(jnp.where(has_rate, log_growth, 0)) / num_rates  # 0 / 0 is NaN, and so it should be
    # Steps without a rate sit at the mean: they add nothing to the scatter of the blocks, which then stands for fewer.
    usual = has_rate & ~jnp.isneginf(log_growth)
    blocks, block = block_sums(jnp.where(usual, log_growth - jnp.where(jnp.isfinite(rate), rate, 0), 0)[:, None])
    stderr, _, resolved = (value[0] for value in batch_means(blocks / block))
    stderr = jnp.where(jnp.isfinite(rate), stderr * num_steps / jnp.maximum(num_rates, 1), jnp.nan)
    verdict = GrowthVerdict.where(resolved & (num_steps > 1), GrowthVerdict.converged, GrowthVerdict.correlated)
    verdict = GrowthVerdict.where(num_rates == 0, GrowthVerdict.no_gradient, verdict)
    return Adjoints(
        states=states,
        directions=jnp.concatenate([found[0], directions[-1:]]),
        log_norms=jnp.concatenate([found[1], log_norms[-1:]]),
        local_growth=log_growth,
        growth_rate=jnp.where(lost, jnp.nan, rate),
        growth_rate_stderr=jnp.where(lost, jnp.nan, stderr),
        parameter_gradient=_named(gradient),
        contribution_norms=_named(norms),
        result=GrowthVerdict.where(lost, GrowthVerdict.not_finite, verdict),
    )


def _add(first, second):
    (d1, l1), (d2, l2) = first, second
    top = jnp.maximum(l1, l2)
    top = jnp.where(jnp.isneginf(top), 0, top)
    direction, log_norm = polar(d1 * jnp.exp(l1 - top) + d2 * jnp.exp(l2 - top))
    return direction, log_norm + top


def _named(tree: Any) -> dict[str, Array]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in leaves}
