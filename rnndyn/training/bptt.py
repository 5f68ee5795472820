"""Backpropagation through time in the open, full and truncated."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from rnndyn._programs import compiled
from rnndyn.dynamics.growth.adjoints import adjoints, parameter_contributions
from rnndyn.networks.adapters import as_cell, check_transition
from rnndyn.networks.precision import widest
from rnndyn.networks.readouts import readout_keys
from rnndyn.results import Result
from rnndyn.training._norm import scaled_norm
from rnndyn.training._trained_map import TrainedMap
from rnndyn.training.truncated_gradient import TruncatedGradient, check_window, named, truncate


def bptt(
    cell: Any,
    readout: Callable[[Any], Array],
    inputs: ArrayLike,
    targets: ArrayLike,
    loss: Callable[[Array, Array], Any],
    *,
    weights: ArrayLike | None = None,
    state: PyTree | None = None,
    window: int | None = None,
    stride: int | None = None,
    key: PRNGKeyArray | None = None,
) -> "BackpropagationThroughTime":
    r"""The gradient of a sequence's loss with every term of its sum: what each step adds, and what truncation drops.

    A weight $\theta$ of the cell $x_{t+1} = F(x_t, u_t; \theta)$ is used once per step, so its gradient is a sum over
    steps. With $\hat y_t = \text{readout}(x_{t+1})$ and $L = \sum_{t=0}^{T-1} w_t\, \ell(\hat y_t, y_t)$,

    $$\frac{dL}{d\theta} = \sum_{t=0}^{T-1} \underbrace{\Bigl(\frac{\partial F(x_t, u_t)}{\partial\theta}\Bigr)^T
    a_{t+1}}_{\text{contribution of step } t}, \qquad
    a_t = \frac{dL}{dx_t} = \frac{\partial L}{\partial x_t} + DF(x_t)^T a_{t+1}$$

    The factors $DF$ are in closed form in `rnndyn.step_jacobian`.

    *Truncation.* At the end of every `stride` steps, the losses of these steps are carried back over the last `window`
    steps only: BPTT(h; h') of Williams & Peng with h = `window`, h' = `stride`. A stride equal to the window (the
    default) cuts the sequence into pieces, with the state carried and the gradient stopped in between; stride 1
    carries each loss back over exactly `window` steps. All terms $(\partial F_s / \partial\theta)^T\,
    (DF_{s+1}^T \cdots DF_t^T)\, \partial L / \partial x_{t+1}$ of longer reach are missing.

    **Arguments:**

    - `cell`: what `rnndyn.unroll` takes; its floating-point arrays are the weights, as they are stored: those of a
        `ConstrainedCell` are the free ones that training moves. A plain function needs `state`.
    - `readout`: a function of the cell's output, `equinox.nn.Linear(H, O, key=...)` for one.
    - `inputs`: one sequence, (T, I). `jax.vmap` for a batch.
    - `targets`: one target per step, (T, ...).
    - `loss`: `loss(output, target)` -> scalar, of one step.
    - `weights`: $w_t$, (T,); 1 when not given. Where it is 0 the target may hold anything, NaN included. For a
        `rnndyn.tasks` trial, `mask / mask.sum()` gives the mean over the steps that count.
    - `state`: the state to start from; `cell.initial_state()` when not given.
    - `window`: steps that a truncated gradient reaches back, 1 to T. It is computed beside the full one.
    - `stride`: steps between two backward passes of the truncated one, 1 to `window`; `window` when not given.
    - `key`: for a cell with noise or dropout, a `jax.random.key`: the draws are those of `RNN(cell, readout)` called
        with that key. Without a key nothing is random.

    **Returns:** a `BackpropagationThroughTime`.

    **Raises:** `ValueError` for shapes that do not fit together, a loss that is no scalar, an empty sequence, a window
    longer than the sequence, a stride longer than the window, or a `key` for a cell that draws nothing.

    Equal to `jax.grad` up to rounding, and slower: it is for looking, not for training. Weights, state, inputs and
    targets meet in the widest of their dtypes, at least float32, and so is the gradient. Time O(T) steps, and
    T window / stride more for the truncated gradient; memory O(T P) for P weights, since each contribution is kept
    (`rnndyn.adjoints` keeps only their norms). Pure: `jit` and `vmap` work.

    ??? cite "Reference"
        P. J. Werbos (1990), "Backpropagation through time: what it does and how to do it", Proc. IEEE 78; R. J.
        Williams & J. Peng (1990), "An efficient gradient-based algorithm for on-line training of recurrent network
        trajectories", Neural Computation 2.
    """
    known = as_cell(cell, state_like=state)
    inputs, targets = jnp.asarray(inputs), jnp.asarray(targets)
    if inputs.ndim == 0 or inputs.shape[0] == 0:
        raise ValueError(f"inputs: expected a sequence of at least one step, (T, I), got shape {inputs.shape}.")
    num_steps = inputs.shape[0]
    if targets.shape[:1] != (num_steps,):
        raise ValueError(f"targets: expected one per step, ({num_steps}, ...), got shape {targets.shape}.")
    state = check_transition(known, known.initial_state() if state is None else state, inputs[0])
    cell, readout, state, inputs, targets = _in_one_dtype((cell, readout, state, inputs, targets))
    window, stride = check_window(window, stride, num_steps)
    g = TrainedMap(cell, state, key)
    x0, rows = g.flat.flatten(state), g.rows(inputs)
    if weights is None:
        weights = jnp.ones(num_steps, x0.dtype)
    elif jnp.shape(weights) != (num_steps,):
        raise ValueError(f"weights: expected one number per step, ({num_steps},), got shape {jnp.shape(weights)}.")
    keys = readout_keys(readout, key, num_steps)
    total = _TotalLoss(g, readout, jnp.asarray(targets), jnp.asarray(weights, x0.dtype), keys, loss)
    total.check(x0)
    found = _bptt(g, total, x0, rows)
    if window is None:
        return found
    # A program of its own, so that different windows share the one above.
    truncated = truncate(g, found.states, rows, found.direct[1:], found.gradient, window, stride)
    return eqx.tree_at(lambda r: r.truncated, found, truncated, is_leaf=lambda leaf: leaf is None)


class BackpropagationThroughTime(Result):
    """Forward and backward pass of one sequence.

    T steps, N state variables, outputs of shape O. A weight's key is its path: `"cell.weight_hh"`, `"readout.bias"`, in
    a cell that holds another one `"cell.cell.weight_hh"`. What over- or underflows in the adjoints is kept in
    `log_adjoint_norms`. Arguments that do not fit together are a `ValueError` of `bptt`.

    Reference: P. J. Werbos (1990), *Backpropagation through time: what it does and how to do it*.
    """

    outputs: Float[Array, "T *O"]
    """$\\hat y_t$."""
    step_losses: Float[Array, " T"]
    """$w_t\\, \\ell(\\hat y_t, y_t)$; they add up to `loss`."""
    states: Float[Array, "T_plus_1 N"]
    """$x_0, \\dots, x_T$ on the flat state; row t + 1 has read $u_t$."""
    direct: Float[Array, "T_plus_1 N"]
    """$\\partial L / \\partial x_t$, the part of the adjoint that comes from the loss of that state itself."""
    adjoints: Float[Array, "T_plus_1 N"]
    """$a_t = dL/dx_t$, the loss of that state and of all later ones."""
    log_adjoint_norms: Float[Array, " T_plus_1"]
    """$\\ln |a_t|$, also where $a_t$ itself over- or underflows."""
    contributions: dict[str, Float[Array, "T ..."]]
    """What each step adds to the gradient of each weight (of the readout: each step's loss)."""
    gradient: dict[str, Float[Array, "..."]]
    """$dL/d\\theta$, the sum of the contributions."""
    truncated: "TruncatedGradient | None"
    """The gradient with a window, where one was given."""

    @property
    def loss(self) -> Float[Array, ""]:
        """L."""
        return jnp.sum(jnp.asarray(self.step_losses))

    @property
    def contribution_norms(self) -> dict[str, Float[Array, " T"]]:
        """The Frobenius norm of every contribution."""
        norms = jax.vmap(lambda row: scaled_norm(row).value)
        return {name: norms(_rows(terms)) for name, terms in self.contributions.items()}

    @property
    def contribution_shares(self) -> dict[str, Float[Array, " T"]]:
        """How far each contribution goes along the gradient, $\\langle G_t, G \\rangle / |G|^2$: they add up to 1."""
        return {
            name: _rows(terms) @ jnp.ravel(self.gradient[name]) / jnp.sum(jnp.asarray(self.gradient[name]) ** 2)
            for name, terms in self.contributions.items()
        }

    def table(self) -> str:
        num_steps = len(self.step_losses)
        lines = [
            f"BackpropagationThroughTime: {num_steps} steps, loss {float(self.loss):.6g}",
            "  weight                    |gradient|   largest step   its norm",
        ]
        norms = self.contribution_norms
        for name, gradient in self.gradient.items():
            largest = int(np.argmax(norms[name]))
            size = float(scaled_norm(gradient).value)
            lines.append(f"  {name:<24} {size:11.4g} {largest:14d} {float(norms[name][largest]):10.4g}")
        if self.truncated is not None:
            lines.append(str(self.truncated))
        return "\n".join(lines)


class _TotalLoss(eqx.Module):
    """The loss of a whole sequence as a function of its flat states after each step, (T, N) -> scalar."""

    g: TrainedMap
    readout: Callable[[Any], Array]
    targets: Array
    weights: Array
    keys: Array | None
    loss: Callable[[Array, Array], Any]

    def check(self, x0: Array) -> None:
        """Raise unless the readout reads the state and the loss of one step is a number."""
        try:
            first = jax.tree.map(lambda rows: rows[0], (self.targets, self.weights, self.keys))
            out = eqx.filter_eval_shape(lambda x: self.step(self.readout, x, *first)[1], x0)
        except (TypeError, ValueError) as error:
            raise ValueError(f"readout, targets, loss: they do not fit together: {error}") from error
        if getattr(out, "shape", None) != ():
            raise ValueError(
                f"loss: expected loss(output, target) of one step to be a scalar, got {out}. rnndyn.training's losses "
                "are of whole trials; for one step, lambda y, t: jnp.mean((y - t) ** 2)."
            )

    def step(self, readout: Any, x: Array, target: Array, weight: Array, key: Any) -> tuple[Array, Array]:
        """Output and weighted loss of one state."""
        output = readout(self.g.output(x), **({} if key is None else {"key": key}))
        # What a step without weight holds must reach neither the loss nor, times zero, its gradient.
        return output, weight * self.loss(output, jnp.where(weight != 0, target, 0))

    def steps(self, readout: Any, states: Array) -> tuple[Array, Array]:
        """Outputs and weighted losses of all states."""
        in_axes = (None, 0, 0, 0, 0)
        return jax.vmap(self.step, in_axes)(readout, states, self.targets, self.weights, self.keys)

    def __call__(self, states: Array) -> Array:
        return jnp.sum(self.steps(self.readout, states)[1])


@compiled
def _bptt(g, total, x0, inputs):
    found = adjoints(g, x0, inputs, total)
    later = found.states[1:]
    outputs, step_losses = total.steps(total.readout, later)
    sources = jax.grad(total)(later).astype(x0.dtype)
    by_readout = _readout_contributions(total, later)
    return BackpropagationThroughTime(
        outputs=outputs,
        step_losses=step_losses,
        states=found.states,
        direct=jnp.concatenate([jnp.zeros_like(sources[:1]), sources]),
        adjoints=found.vectors,
        log_adjoint_norms=found.log_norms,
        contributions=parameter_contributions(g, inputs, found) | by_readout,
        gradient=found.parameter_gradient | {name: terms.sum(axis=0) for name, terms in by_readout.items()},
        truncated=None,
    )


def _readout_contributions(total, states):
    parameters, rest = eqx.partition(total.readout, eqx.is_inexact_array)

    def one(x, target, weight, key):
        return jax.grad(lambda p: total.step(eqx.combine(p, rest), x, target, weight, key)[1])(parameters)

    return named("readout", jax.vmap(one)(states, total.targets, total.weights, total.keys))


def _in_one_dtype(tree):
    """The floating-point arrays in the widest of their dtypes, at least float32.

    Adjoints and shares of gradients are carried from step to step beside weights, states and inputs; in half precision
    sums over many steps would lose what they are to show.
    """
    floats = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    dtype = widest(jnp.float32, *(leaf.dtype for leaf in floats))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if eqx.is_inexact_array(leaf) else leaf, tree)


def _rows(terms):
    terms = jnp.asarray(terms)
    return terms.reshape(terms.shape[0], -1)
