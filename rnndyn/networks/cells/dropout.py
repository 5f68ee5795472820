"""Dropout, in front of a cell, in its recurrence, and in a readout: only where a key is given."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from rnndyn.networks.adapters import as_cell, draws_once, takes_key
from rnndyn.networks.cells._claims import known_bounds


class Dropout(eqx.Module):
    """Inverted dropout: with a key, each entry is zero with probability p, or else divided by 1 - p.

        y_i = b_i x_i / (1 - p),    b_i ~ Bernoulli(1 - p)

    Without a key it changes nothing, so there is no mode to switch. In a readout, which a model calls with a key where
    it was given one: `equinox.nn.Sequential([rnndyn.Dropout(0.5), equinox.nn.Linear(H, O, key=key)])`.

    The draw is `jax.random.bernoulli(key, 1 - p, x.shape)`. Reference: Srivastava et al., 2014, "Dropout".
    """

    rate: float = eqx.field(static=True)

    def __init__(self, rate: float):
        """**Arguments:** `rate`: the probability p of a zero, from 0 to below 1."""
        self.rate = _check_rate("rate", rate)

    def __call__(self, x: Any, *, key: PRNGKeyArray | None = None) -> Array:
        if key is None or self.rate == 0:
            return x
        return _drop(x, _draw(key, self.rate, jnp.shape(x)), self.rate)


class DropoutCell(eqx.Module):
    """A cell that reads its input, and what it remembers of its own units, through dropout.

        s' = cell(s, m ∘ u)  with  W_hh D(m_h)  in place of  W_hh,    m_i = b_i / (1 - p),  b_i ~ Bernoulli(1 - p)

    The input mask m is drawn at every step, or once for a sequence when `variational`; the recurrent mask m_h, on what
    the columns of `weight_hh` read (the gates of an LSTM or GRU share it, and the cell state and the path D(z) h are
    not dropped), always once: drawn anew at every step it would erase memory. Without a key the step is that of the
    cell itself, and so is everything that an analysis sees of it.

    In a stack: `StackedCell(cells, dropout=0.2)` and `StackedRNN(cells, readout, dropout=0.2)` put one in front of
    every layer but the first.

    Draws, for repeating them elsewhere: step t of `unroll(cell, inputs, key=key)` takes
    `jax.random.bernoulli(jax.random.split(step_key)[0], 1 - p, (I,))` with `step_key = jax.random.split(key, T)[t]`;
    the masks of a sequence come from the first two of `jax.random.split(jax.random.fold_in(key, 2**31 - 1), 3)`, input
    first.

    Reference: Gal and Ghahramani, 2016, "A theoretically grounded application of dropout in recurrent neural networks".
    """

    cell: Any
    rate: float = eqx.field(static=True)
    recurrent_rate: float = eqx.field(static=True)
    variational: bool = eqx.field(static=True)
    input_keep: Bool[Array, " I"] | None
    recurrent_keep: Bool[Array, " H"] | None

    def __init__(self, cell: Any, rate: float = 0.0, *, recurrent_rate: float = 0.0, variational: bool = False):
        """**Arguments:**

        - `cell`: the cell.
        - `rate`: the probability p of dropping an entry of the input, from 0 to below 1.
        - `recurrent_rate`: the same for the recurrence; the cell has a leaf `weight_hh`.
        - `variational`: keep the input mask over a sequence.

        **Raises:** `ValueError` for a rate outside of [0, 1), a `recurrent_rate` for a cell without `weight_hh`, or
        `variational` for one that does not tell the width of its input.
        """
        self.cell = cell
        self.rate = _check_rate("rate", rate)
        self.recurrent_rate = _check_rate("recurrent_rate", recurrent_rate)
        self.variational = variational
        self.input_keep = None
        self.recurrent_keep = None
        if self.recurrent_rate > 0:
            _check_weight_hh(as_cell(cell))
        if variational and self.rate > 0 and self.input_size is None:
            raise ValueError("variational: the width of the cell's input is not known, so no mask of it can be kept.")

    @property
    def input_size(self) -> int | None:
        """Entries of the input."""
        return as_cell(self.cell).input_size

    @property
    def time_step(self) -> Any:
        """The time of one step in units of the cell's time constant, or `None`."""
        return getattr(as_cell(self.cell), "time_step", None)

    def sample(self, key: PRNGKeyArray) -> "DropoutCell":
        """The cell for one sequence, with the masks drawn that it keeps."""
        input_key, recurrent_key, cell_key = jax.random.split(key, 3)
        cell: Any = as_cell(self.cell)
        if draws_once(cell):
            cell = cell.sample(cell_key)
        masks: list[Any] = [None, None]
        if self.variational and self.rate > 0:
            masks[0] = _draw(input_key, self.rate, (cell.input_size,))
        if self.recurrent_rate > 0:
            masks[1] = _draw(recurrent_key, self.recurrent_rate, (cell.weight_hh.shape[1],))
        return eqx.tree_at(
            lambda c: (c.cell, c.input_keep, c.recurrent_keep), self, (cell, *masks), is_leaf=lambda leaf: leaf is None
        )

    def __call__(self, state: Any, input: Any, *, key: PRNGKeyArray | None = None) -> Any:
        """The next state. With a `key` the input is dropped, and the noise of the cell is drawn.

        **Raises:** `ValueError` for a key where the masks of the sequence are not drawn yet.
        """
        cell = as_cell(self.cell)
        if key is None:
            return self._masked(cell)(state, self._dropped(input))
        once = (self.variational and self.rate > 0 and self.input_keep is None) or (
            self.recurrent_rate > 0 and self.recurrent_keep is None
        )
        if once:
            raise ValueError(
                "key: this dropout keeps its masks over a sequence. Draw them once, cell = cell.sample(key), as "
                "rnndyn.unroll does, and call that cell at every step."
            )
        input_key, cell_key = jax.random.split(key)
        if self.rate > 0 and not self.variational:
            input = _drop(input, _draw(input_key, self.rate, jnp.shape(input)), self.rate)
        noise = {"key": cell_key} if takes_key(cell) else {}
        return self._masked(cell)(state, self._dropped(input), **noise)

    def _dropped(self, input: Any) -> Any:
        return input if self.input_keep is None else _drop(input, self.input_keep, self.rate)

    def _masked(self, cell: Any) -> Any:
        if self.recurrent_keep is None:
            return cell
        return eqx.tree_at(lambda c: c.weight_hh, cell, _drop(cell.weight_hh, self.recurrent_keep, self.recurrent_rate))

    def initial_state(self) -> Any:
        """The initial state of the cell."""
        return as_cell(self.cell).initial_state()

    def output(self, state: Any) -> Any:
        """What a readout sees: the output of the cell."""
        return as_cell(self.cell).output(state)

    def state_bounds(self, input: Any) -> Any:
        """The bounds of the cell itself."""
        return known_bounds(as_cell(self.cell), input)


def without_dropout(cell: Any) -> Any:
    """The cell that is left when there is no key: what analyses work on."""
    while type(cell) is DropoutCell and cell.input_keep is None and cell.recurrent_keep is None:
        cell = as_cell(cell.cell)
    return cell


def _draw(key: PRNGKeyArray, rate: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    return jax.random.bernoulli(key, 1 - rate, shape)


def _drop(x: Any, keep: Bool[Array, "..."], rate: float) -> Array:
    return jnp.where(keep, jnp.asarray(x) / (1 - rate), 0)


def _check_rate(name: str, rate: float) -> float:
    if not 0 <= rate < 1:
        raise ValueError(f"{name}: expected a probability from 0 to below 1, got {rate}.")
    return float(rate)


def _check_weight_hh(cell: Any) -> None:
    if not eqx.is_array_like(getattr(cell, "weight_hh", None)) or isinstance(
        getattr(type(cell), "weight_hh", None), property
    ):
        raise ValueError(
            f"recurrent_rate: expected a cell with a recurrent weight weight_hh to mask, got a {type(cell).__name__}."
        )
