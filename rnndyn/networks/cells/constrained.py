"""Dale's law and missing connections, kept by training."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from rnndyn.networks.adapters import as_cell, takes_key
from rnndyn.networks.cells._weights import shape_of
from rnndyn.networks.precision import Numbers


class ConstrainedCell(eqx.Module):
    """A cell of excitatory and inhibitory units, with some connections missing, whatever training does.

        W_hh -> mask ∘ |W_hh| D(signs),    W_ih -> input_mask ∘ W_ih

    The constraint is a reparameterisation: the stored weights are free, and any optimiser can move them; the step is
    that of the cell with the weights on the right (`effective_cell`), on which everything in rnndyn works: formulas,
    bounds, analyses. Column j of `weight_hh` holds what unit j sends, so `signs[j]` is its type. Without `signs` the
    weights keep their own signs. A stored weight at exactly zero has no gradient through |w| and stays zero.

    Reference: Song, Yang and Wang, 2016, "Training excitatory-inhibitory recurrent neural networks for cognitive tasks:
    a simple and flexible framework" (there [W]_+ D in place of |W| D, whose weights stop at zero for good).
    """

    cell: Any
    signs: Int[Array | np.ndarray, " H"] | None
    mask: Bool[Array | np.ndarray, "GH H"] | None
    input_mask: Bool[Array | np.ndarray, "GH I"] | None

    def __init__(
        self,
        cell: Any,
        *,
        signs: Numbers | None = None,
        mask: Numbers | None = None,
        input_mask: Numbers | None = None,
    ):
        """**Arguments:**

        - `cell`: a cell with the leaves `weight_hh` and `weight_ih`.
        - `signs`: +1 (excitatory) or -1 (inhibitory) for each unit, shape (H,).
        - `mask`: booleans of the shape of `weight_hh`, false where there is no connection.
        - `input_mask`: booleans of the shape of `weight_ih`.

        **Raises:** `ValueError` for a cell without these weights, other shapes, or signs that are neither.
        """
        inner: Any = as_cell(cell)
        for name in ("weight_hh", "weight_ih"):
            if not eqx.is_array_like(getattr(inner, name, None)) or hasattr(type(inner), name):
                raise ValueError(f"cell: expected one with a weight {name}, got a {type(inner).__name__}.")
        self.cell = inner
        self.signs = None
        if signs is not None:
            signs = np.asarray(signs)
            if signs.shape != inner.weight_hh.shape[1:] or not np.isin(signs, (-1, 1)).all():
                raise ValueError(
                    f"signs: expected +1 or -1 for each of {inner.weight_hh.shape[1]} units, got {signs.tolist()}."
                )
            self.signs = signs.astype(np.int8)
        self.mask = _check_mask("mask", mask, inner.weight_hh)
        self.input_mask = _check_mask("input_mask", input_mask, inner.weight_ih)

    @property
    def input_size(self) -> int:
        """Entries of the input."""
        return self.cell.input_size

    def effective_cell(self) -> Any:
        """The cell with the weights that its step uses. Gradients pass through to the stored ones."""
        weight_hh, weight_ih = self.cell.weight_hh, self.cell.weight_ih
        if self.signs is not None:
            weight_hh = abs(weight_hh) * self.signs
        if self.mask is not None:
            weight_hh = _where(self.mask, weight_hh)
        if self.input_mask is not None:
            weight_ih = _where(self.input_mask, weight_ih)
        return eqx.tree_at(lambda cell: (cell.weight_hh, cell.weight_ih), self.cell, (weight_hh, weight_ih))

    def __call__(self, state: Any, input: Any, *, key: PRNGKeyArray | None = None) -> Any:
        """The next state; with a `key` for a cell with noise."""
        cell = self.effective_cell()
        return cell(state, input, key=key) if key is not None and takes_key(cell) else cell(state, input)

    def initial_state(self) -> Any:
        """The initial state of the cell."""
        return self.cell.initial_state()

    def output(self, state: Any) -> Any:
        """What a readout sees: the output of the cell."""
        return self.cell.output(state)

    def state_bounds(self, input: Any) -> Any:
        """The bounds of the effective cell."""
        return as_cell(self).state_bounds(input)


def _where(mask: Any, weight: Any) -> Array | np.ndarray:
    # NumPy weights stay NumPy: float64 is not lost on the way.
    xp = np if isinstance(weight, np.ndarray) and isinstance(mask, np.ndarray) else jnp
    return xp.where(mask, weight, 0)


def _check_mask(name: str, mask: Any, weight: Any) -> np.ndarray | None:
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.shape != shape_of(weight) or mask.dtype != np.bool_:
        raise ValueError(
            f"{name}: expected booleans of shape {shape_of(weight)}, got {mask.dtype} of shape {mask.shape}."
        )
    return mask
