"""What is portrayed: a map for every held input, the driven map where there is one, and states to start from."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import ArrayLike, Float

from rnndyn._validation import check_states
from rnndyn.maps import CellMap, DrivenCellMap, as_driven_map

BOUND = 1e3
"""A region wider than this (an LSTM's cell state, a leaky ReLU unit) says nothing of where orbits are."""


class System(eqx.Module):
    """One network as dynamical systems.

    - `name`: the name of its cell, or of the function.
    - `description`: one line: what it is and its sizes.
    - `driven`: the map `(x, u) -> x`, or `None` for a map without input.
    - `autonomous`: the map `x -> x`, or `None` for a network with input.
    - `state_size`, `input_size`: N and I; `input_size` is 0 for a map without input.
    """

    name: str = eqx.field(static=True)
    description: str = eqx.field(static=True)
    driven: Any
    autonomous: Any
    state_size: int = eqx.field(static=True)
    input_size: int = eqx.field(static=True)

    def at(self, input: np.ndarray | None) -> Callable:
        """The map with the input held."""
        if self.autonomous is not None:
            return self.autonomous
        return self.driven.hold(input)

    @property
    def time_step(self) -> Any:
        """The time of one step in units of the network's time constant, or `None`."""
        return getattr(self.autonomous if self.autonomous is not None else self.driven, "dt", None)


def as_system(network: Any, states: np.ndarray | None, inputs: np.ndarray | None) -> System:
    """The system that a user's network is; see `portrait` for what is taken."""
    if hasattr(network, "cell") and hasattr(network, "readout"):
        network = network.cell
    if isinstance(network, CellMap) or _takes_one_argument(network):
        if inputs is not None:
            raise ValueError("inputs: the map given has no input to hold; pass the cell itself, or leave inputs out.")
        size = network.state_size if isinstance(network, CellMap) else _size_of(states)
        name = type(network.cell).__name__ if isinstance(network, CellMap) else _name(network)
        text = f"{name}, a map with {size} state variables"
        return System(name, text, None, network, size, 0)
    if isinstance(network, DrivenCellMap):
        driven = network
    else:
        own = hasattr(network, "initial_state") or isinstance(network, eqx.nn.GRUCell | eqx.nn.LSTMCell)
        if not own and states is None:
            raise ValueError(
                "states: a plain function (state, input) -> state does not tell the shape of its state; pass states "
                "(K, N) to start from, or a cell of rnndyn, Equinox or `rnndyn.load_network`."
            )
        driven = as_driven_map(network, state_like=None if own or states is None else states[0])
    size = driven.input_size
    if size is None:
        if inputs is None:
            raise ValueError("inputs: the network does not tell the width of its input; pass inputs (M, I) to hold.")
        size = inputs.shape[1]
    name = _name(driven.cell)
    weights = sum(np.size(leaf) for leaf in jax.tree.leaves(eqx.filter(driven.cell, eqx.is_inexact_array_like)))
    text = f"{name} with {driven.state_size} state variables, {size} inputs, {weights} weights"
    return System(name, text, driven, None, driven.state_size, size)


def held_inputs(inputs: ArrayLike | None, system: System) -> tuple[list[np.ndarray | None], list[str]]:
    """The inputs to hold one after another, and what each is called."""
    if system.autonomous is not None:
        return [None], ["the map"]
    rows = np.zeros((1, system.input_size)) if inputs is None else np.asarray(inputs, np.float64)
    if rows.ndim != 2 or rows.shape[1] != system.input_size or len(rows) == 0:
        raise ValueError(
            f"inputs: expected rows to hold, shape (M, {system.input_size}), got {rows.shape}. "
            "A sequence goes to `drive`."
        )
    if not np.isfinite(rows).all():
        raise ValueError("inputs: some are NaN or infinite.")
    return list(rows), [_label(row, k) for k, row in enumerate(rows)]


def start_states(
    states: np.ndarray | None, num: int, system: System, map_at: Callable, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "K N"], str]:
    """States to start from, and in words where they come from."""
    size = system.state_size
    if states is not None:
        check_states("states", states, size)
        return states, "the states given"
    region = getattr(map_at, "region", None)
    if region is not None:
        lower, upper = (np.asarray(bound, np.float64) for bound in region)
        if np.isfinite(lower).all() and np.isfinite(upper).all() and np.max(upper - lower) <= BOUND:
            return rng.uniform(lower, upper, (num, size)), "states drawn uniformly from the box that keeps the state"
    return rng.standard_normal((num, size)), "states with independent standard normal entries"


def check_given_states(states: ArrayLike | Sequence[Any] | None) -> np.ndarray | None:
    """The states as an array, checked before anything else asks for their shape."""
    if states is None:
        return None
    array = np.asarray(states, np.float64)
    check_states("states", array)
    return array


def _takes_one_argument(network: Any) -> bool:
    """Whether a callable is a map x -> F(x): one positional argument without a default."""
    if not callable(network):
        raise ValueError(
            f"network: expected a cell, a model, an imported network or a map, got a {type(network).__name__}. "
            "For a file use `rnndyn.load_network`; for PyTorch, Keras or Flax see docs/import.md."
        )
    if hasattr(network, "initial_state"):
        return False
    try:
        parameters = inspect.signature(network).parameters.values()
    except ValueError:  # a function written in C does not tell
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is p.empty for p in positional) == 1


def _size_of(states: np.ndarray | None) -> int:
    if states is None:
        raise ValueError("states: a plain map does not tell the length of its state; pass states (K, N) to start from.")
    return states.shape[1]


def _name(network: Any) -> str:
    return getattr(network, "__name__", None) or type(network).__name__


def _label(row: np.ndarray, k: int) -> str:
    if not row.any():
        return "zero input"
    if len(row) <= 4:
        return "input (" + ", ".join(f"{v:.3g}" for v in row) + ")"
    return f"input {k + 1}"
