"""The bridge: a recurrent cell with its input held, or driven, is a map on a flat state vector."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.networks.adapters import Cell, FunctionCell, as_cell
from rnndyn.networks.cells.checks import check_weights
from rnndyn.networks.cells.claims import known_bounds
from rnndyn.networks.cells.dropout import without_dropout
from rnndyn.networks.flat_state import FlatState, flat_state
from rnndyn.networks.precision import Numbers, as_leaf, zero_input

Region = tuple[ArrayLike, ArrayLike]


def as_map(
    cell: Callable,
    input: Numbers | None = None,
    *,
    state_like: PyTree | None = None,
    region: Region | None = None,
) -> "CellMap":
    r"""A cell with its input held constant, as the autonomous map $x_{t+1} = F(x_t)$ on a flat state.

    **Arguments:**

    - `cell`: a cell of rnndyn, `equinox.nn.LSTMCell`, `equinox.nn.GRUCell`, or any callable
        `(state, input) -> state`.
    - `input`: the held input, shape `(I,)`; zero by default.
    - `state_like`: a state, for a callable that has no `initial_state`: arrays in any tree. Only shapes are used, and
        the order in which dicts were written.
    - `region`: a box `(lower, upper)` of flat states known to hold the long-term dynamics and to be mapped into
        itself. By default what the cell says of itself (`cell.state_bounds`), or none; a subclass with another step
        inherits no such box.

    **Returns:** a `CellMap`: call it on states `(N,)`. The flat order is that of the state's leaves: an LSTM's `(h, c)`
    becomes `[h, c]`; a dict is flattened in the order in which it was written.

    float64 NumPy weights and inputs stay float64, and Python numbers are doubles: drivers compute with all of their
    digits although JAX's x64 flag is off. A network whose weights are float32 is analysed as the network with exactly
    these weights, in float64. Called by itself the map computes as JAX does (`rnndyn.networks.precision`).

    **Raises:** `ValueError` for an input of another width, weights with NaN or infinity, or a callable without a state
    to go by.
    """
    return as_driven_map(cell, state_like=state_like).hold(input, region=region)


def as_driven_map(cell: Callable, *, state_like: PyTree | None = None) -> "DrivenCellMap":
    r"""A cell as the driven map $x_{t+1} = F(x_t, u_t)$ on a flat state.

    **Arguments:** `cell` and `state_like` as in `as_map`.

    **Returns:** a `DrivenCellMap`: call it on a state `(N,)` and an input `(I,)`.

    **Raises:** `ValueError` for weights with NaN or infinity, or a callable without a state to go by.
    """
    # An imported network has a readout too, and says by itself which cell its step is.
    if hasattr(cell, "readout") and hasattr(cell, "cell") and not hasattr(type(cell), "effective_cell"):
        raise ValueError("cell: got a whole model; its dynamics are those of its cell. Pass model.cell.")
    known: Any = without_dropout(as_cell(cell, state_like=state_like))
    check_weights(known)
    if state_like is None and type(known) is FunctionCell:
        raise ValueError("state_like: a plain callable does not tell the shape of its state; pass a state.")
    return DrivenCellMap(known, flat_state(known, state_like))


class DrivenCellMap(eqx.Module):
    """A cell on a flat state: `(N,), (I,) -> (N,)`."""

    cell: Cell
    flat: FlatState

    @property
    def state_size(self) -> int:
        """The length N of the flat state."""
        return self.flat.size

    @property
    def dt(self) -> Any:
        """The time of one step, where the cell tells: in units of its (longest) time constant; `None` elsewhere."""
        return getattr(self.cell, "time_step", None)

    @property
    def dtype(self) -> Any:
        """What the cell starts with: the dtype of its weights, or JAX's default float where it does not tell."""
        if type(self.cell) is FunctionCell:
            return jnp.result_type(float)
        leaves = jax.tree.leaves(eqx.filter_eval_shape(self.cell.initial_state))
        return jnp.result_type(*(leaf.dtype for leaf in leaves))

    @property
    def input_size(self) -> int | None:
        """The width of the input, or `None` where the cell does not tell."""
        return self.cell.input_size

    def flatten(self, state: PyTree) -> Float[Array, " N"]:
        """The flat vector of a state."""
        return self.flat.flatten(state)

    def unflatten(self, x: ArrayLike) -> PyTree:
        """The state of a flat vector `(N,)`; leading axes are kept, so `(T, N)` gives leaves `(T, ...)`."""
        return self.flat.unflatten(x)

    def hold(self, input: Numbers | None = None, *, region: Region | None = None) -> "CellMap":
        """The map with `input` (I,) held, zero by default; see `as_map`, which is this of a cell."""
        size = self.input_size
        if input is None:
            held = None if size is None else zero_input(size)
        else:
            held = as_leaf("input", input, self.dtype)
            if size is not None and held.shape != (size,):
                raise ValueError(f"input: expected shape ({size},), the input width of the cell, got {held.shape}.")
        if region is not None:
            lower, upper = (np.broadcast_to(np.asarray(b, float), (self.state_size,)) for b in region)
            if not (lower <= upper).all():
                raise ValueError("region: expected lower <= upper in every component.")
            region = (lower, upper)
        return CellMap(self, held, region)

    def __call__(self, x: Array | np.ndarray, u: Array | np.ndarray | None) -> Array:
        return self.flatten(self.cell(self.unflatten(x), u))


class CellMap(eqx.Module):
    """A cell with its input held, on a flat state: `(N,) -> (N,)`."""

    driven: DrivenCellMap
    input: Float[Array | np.ndarray, " I"] | None
    given_region: tuple[np.ndarray | Array, np.ndarray | Array] | None

    @property
    def cell(self) -> Cell:
        """The cell."""
        return self.driven.cell

    @property
    def state_size(self) -> int:
        """The length N of the flat state."""
        return self.driven.state_size

    @property
    def dt(self) -> Any:
        """The time of one step in units of the cell's time constant, the longest where it has several.

        Times in units of that constant are steps times `dt`: a `LeakyCell` with dt/τ = 0.01 runs 100 steps in one τ.
        `None` for a cell that has no time constant.
        """
        return self.driven.dt

    @property
    def region(self) -> tuple[Array, Array] | None:
        """A box `(lower, upper)` that the map takes into itself and that holds every invariant set, or `None`."""
        if self.given_region is not None:
            lower, upper = self.given_region
            return jnp.asarray(lower), jnp.asarray(upper)
        return _own_region(self) if _can_be_compiled_for(self) else _region_of(self)

    def flatten(self, state: PyTree) -> Float[Array, " N"]:
        """The flat vector of a state."""
        return self.driven.flatten(state)

    def unflatten(self, x: ArrayLike) -> PyTree:
        """The state of a flat vector; see `DrivenCellMap.unflatten`."""
        return self.driven.unflatten(x)

    def __call__(self, x: Array | np.ndarray) -> Array:
        return self.driven(x, self.input)


def _region_of(f: CellMap) -> tuple[Array, Array] | None:
    """What the cell says of its states with this input."""
    bounds = known_bounds(f.cell, f.input)
    return None if bounds is None else (f.flatten(bounds[0]), f.flatten(bounds[1]))


def _can_be_compiled_for(f: CellMap) -> bool:
    """Whether one program serves all maps like this: Python numbers would be compiled in, lists not be taken."""
    leaves, tree = jax.tree.flatten(f)
    try:
        hash((tree, tuple(leaf for leaf in leaves if not eqx.is_array(leaf))))
    except TypeError:
        return False
    return not any(isinstance(leaf, float | complex) for leaf in leaves)


_own_region = compiled(_region_of)  # a dozen small operations, each of them a program otherwise


def iterate(f: Callable[[Array], Array], n: int) -> "Iterate":
    r"""The n-th iterate $F^n = F \circ \dots \circ F$ of a map, as a map.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`.
    - `n`: how often, at least 1.

    **Returns:** an `Iterate`, which keeps the `region` of `f` where it has one.

    **Raises:** `ValueError` when `n` is below 1.
    """
    check_at_least("n", n, 1)
    return Iterate(f, n)


class Iterate(eqx.Module):
    """A map applied n times."""

    f: Callable[[Array], Array]
    n: int = eqx.field(static=True)

    @property
    def dt(self) -> Any:
        """The time of the n steps, where F tells the time of one."""
        dt = getattr(self.f, "dt", None)
        return None if dt is None else self.n * dt

    @property
    def region(self) -> tuple[Array, Array] | None:
        """The region of the map that is iterated: what F takes into itself, so does F^n."""
        return getattr(self.f, "region", None)

    def __call__(self, x: Array) -> Array:
        x, _ = jax.lax.scan(lambda x, _: (self.f(x), None), x, None, length=self.n)
        return x
