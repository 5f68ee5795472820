"""What the parameter of a network can be: an input, a number inside the cell, a gain, a place between two networks.

Each function gives a map $F(x, p)$ on the flat state of a cell, for `continue_fixed_points` and its kin. It is an
`equinox.Module`, so all networks of one structure share a compilation.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from rnndyn.dynamics.interpolation import InterpolatedMap, interpolate_maps
from rnndyn.maps import CellMap, DrivenCellMap, as_driven_map, as_map
from rnndyn.networks.precision import Numbers, as_leaf


def input_parameter(
    cell: Callable, origin: Numbers, direction: Numbers, *, state_like: PyTree | None = None
) -> "InputParameter":
    r"""A held input as the parameter: $F(x, p)$ is a step of the cell with the input $u = u_0 + p\,d$.

    **Arguments:**

    - `cell`, `state_like`: as in `as_map`.
    - `origin`: the input $u_0$ at $p = 0$, shape `(I,)`.
    - `direction`: d, shape `(I,)`, for a scalar p; the segment between two inputs has `end - origin`. Or two rows
        `(2, I)` for a plane of inputs and p of shape `(2,)` (see `continue_bifurcation`).

    **Returns:** the map, `(N,), () -> (N,)` or `(N,), (2,) -> (N,)`.

    **Raises:** `ValueError` for shapes that do not fit one another or the cell.
    """
    driven = as_driven_map(cell, state_like=state_like)
    u0, d = as_leaf("origin", origin, driven.dtype), as_leaf("direction", direction, driven.dtype)
    if u0.ndim != 1 or (driven.input_size is not None and u0.shape != (driven.input_size,)):
        width = "I" if driven.input_size is None else driven.input_size
        raise ValueError(f"origin: expected one input of shape ({width},), got shape {u0.shape}.")
    if d.shape not in (u0.shape, (2, *u0.shape)):
        raise ValueError(
            f"direction: expected shape {u0.shape}, or (2, {u0.size}) for a plane of inputs, got {d.shape}."
        )
    return InputParameter(driven, u0, d)


def leaf_parameter(
    cell: Callable,
    where: Callable[[Any], Any],
    input: Numbers | None = None,
    *,
    index: int | tuple[int, ...] | None = None,
    state_like: PyTree | None = None,
) -> "LeafParameter":
    r"""A number inside the cell as the parameter: one leaf, or one entry of a leaf, is set to p.

    **Arguments:**

    - `cell`, `input`, `state_like`: as in `as_map`.
    - `where`: picks the leaf, `lambda cell: cell.bias`; it may be a Python float, `lambda cell: cell.tau`.
    - `index`: the entry of the leaf, `(2, 0)`; `None` for a leaf that is itself a scalar.

    **Returns:** the map, `(N,), () -> (N,)`.

    **Raises:** `ValueError` when `where` picks no floating-point array or number, or `index` does not fit it.
    """
    base = as_map(cell, input, state_like=state_like)
    leaf = _leaf(base, where)
    shape = np.shape(leaf)
    try:
        entry = np.empty(shape)[() if index is None else index]
    except IndexError as error:
        raise ValueError(f"index: {index} does not fit a leaf of shape {shape}.") from error
    if np.ndim(entry) != 0:
        raise ValueError(f"index: expected the place of one entry in a leaf of shape {shape}, got {index}.")
    return LeafParameter(base, where, index)


def gain_parameter(
    cell: Callable,
    input: Numbers | None = None,
    *,
    where: Callable[[Any], Any] | None = None,
    state_like: PyTree | None = None,
) -> "GainParameter":
    r"""A gain as the parameter: the recurrent weights are multiplied by p.

    **Arguments:**

    - `cell`, `input`, `state_like`: as in `as_map`.
    - `where`: picks the leaf (or a tuple of leaves) that is multiplied; `cell.weight_hh` when not given, and the left
        factor of a low-rank weight.

    **Returns:** the map, `(N,), () -> (N,)`.

    **Raises:** `ValueError` when `where` picks something else than floating-point arrays.
    """
    base = as_map(cell, input, state_like=state_like)
    where = _recurrent_weight if where is None else where
    _leaf(base, where)
    return GainParameter(base, where)


def leak_parameter(
    cell: Callable, input: Numbers | None = None, *, state_like: PyTree | None = None
) -> "LeakParameter":
    r"""The leak $\alpha = dt/\tau$ of a leaky network as the parameter: the step of time is set to $p\,\tau$.

    $$F(x, p) = (1 - p)\,x + p\,G(x).$$

    The fixed points do not depend on p; their multipliers are $1 + p(\lambda - 1)$ with those of G, $\lambda$. So a
    fixed point that is stable in continuous time loses stability where the Euler step gets too long for it.

    **Arguments:**

    - `cell`, `input`, `state_like`: as in `as_map`. The cell has `dt` and one `tau` for all units.

    **Returns:** the map, `(N,), () -> (N,)`; continue it over 0 < p <= 1.

    **Raises:** `ValueError` for a cell without `dt` and `tau`, or with a time constant for each unit (there
    `leaf_parameter(cell, lambda cell: cell.dt)` scales all leaks alike).
    """
    base = as_map(cell, input, state_like=state_like)
    leaky: Any = base.cell
    if not (hasattr(leaky, "dt") and hasattr(leaky, "tau")):
        raise ValueError(f"cell: expected a leaky cell, with dt and tau, got a {type(leaky).__name__}.")
    if np.ndim(leaky.tau) != 0:
        raise ValueError(
            "cell: its units have time constants of their own, so there is not one leak. Continue dt: "
            "leaf_parameter(cell, lambda cell: cell.dt)."
        )
    return LeakParameter(base)


def weight_segment(
    start: Callable, end: Callable, input: Numbers | None = None, *, state_like: PyTree | None = None
) -> InterpolatedMap:
    r"""The segment between two cells of one structure, such as two checkpoints of a training run, as the parameter.

    Every weight is $(1 - p)\,w_\text{start} + p\,w_\text{end}$.

    **Arguments:**

    - `start`, `end`: the cells.
    - `input`, `state_like`: as in `as_map`.

    **Returns:** the map, `(N,), () -> (N,)`.

    **Raises:** `ValueError` when the cells differ in structure.
    """
    maps = (as_map(cell, input, state_like=state_like) for cell in (start, end))
    return interpolate_maps(*maps)


class InputParameter(eqx.Module):
    """A cell whose held input moves along a line, or in a plane; see `input_parameter`."""

    driven: DrivenCellMap
    origin: Float[Array | np.ndarray, " I"]
    direction: Float[Array | np.ndarray, "*two I"]

    def __call__(self, x: ArrayLike, p: ArrayLike) -> Array:
        p, direction = jnp.asarray(p), jnp.asarray(self.direction)
        shift = p * direction if direction.ndim == 1 else p @ direction
        return self.driven(jnp.asarray(x), jnp.asarray(self.origin) + shift)


class LeafParameter(eqx.Module):
    """A cell in which one number is the parameter; see `leaf_parameter`."""

    base: CellMap
    where: Callable[[Any], Any] = eqx.field(static=True)
    index: int | tuple[int, ...] | None = eqx.field(static=True)

    def __call__(self, x: ArrayLike, p: ArrayLike) -> Array:
        def set_entry(leaf: Any) -> ArrayLike:
            if np.ndim(leaf) == 0:
                return p
            return jnp.asarray(leaf).at[() if self.index is None else self.index].set(p)

        return eqx.tree_at(lambda base: self.where(base.cell), self.base, replace_fn=set_entry)(jnp.asarray(x))


class LeakParameter(eqx.Module):
    """A leaky cell in which dt/tau is the parameter; see `leak_parameter`."""

    base: CellMap

    def __call__(self, x: ArrayLike, p: ArrayLike) -> Array:
        # In units of τ: the quotient is p itself, without rounding.
        return eqx.tree_at(lambda base: (base.cell.dt, base.cell.tau), self.base, (p, 1.0))(jnp.asarray(x))


class GainParameter(eqx.Module):
    """A cell whose recurrent weights are multiplied by the parameter; see `gain_parameter`."""

    base: CellMap
    where: Callable[[Any], Any] = eqx.field(static=True)

    def __call__(self, x: ArrayLike, p: ArrayLike) -> Array:
        return eqx.tree_at(lambda base: self.where(base.cell), self.base, replace_fn=lambda leaf: p * leaf)(
            jnp.asarray(x)
        )


def _recurrent_weight(cell: Any) -> Any:
    return cell.left if hasattr(cell, "left") else cell.weight_hh


def _leaf(base: CellMap, where: Callable[[Any], Any]) -> Any:
    """What `where` picks; raises unless it is floating-point arrays."""
    try:
        picked = where(base.cell)
    except AttributeError as error:
        raise ValueError(f"where: {error}. Pass a function that picks a leaf of this cell.") from error
    leaves = jax.tree.leaves(picked)
    if not leaves or not all(eqx.is_inexact_array(leaf) or isinstance(leaf, float) for leaf in leaves):
        raise ValueError(f"where: expected it to pick floating-point arrays of the cell, got {picked!r}.")
    try:
        eqx.tree_at(lambda base: where(base.cell), base, replace_fn=lambda leaf: leaf)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            "where: what it picks is computed from the weights of the cell and is none of them. Pick a leaf."
        ) from error
    return picked
