"""Networks of Equinox: any module with recurrent cells in it."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from rnndyn.interop._layers import WORDS, Choices, FoundCell, FoundLayer, assemble
from rnndyn.interop._linear import Linear
from rnndyn.interop._pytorch_names import pytorch_layers
from rnndyn.interop._tensors import StoredTensor, stored
from rnndyn.interop.network import ImportedNetwork
from rnndyn.networks.adapters import Cell, EquinoxCell

_METHODS = ("initial_state", "output", "state_bounds")


def from_equinox(
    module: Any,
    name: str | Sequence[str] | None = None,
    *,
    cell: str | None = None,
    readout: str | None = None,
    dtype: Any = None,
) -> ImportedNetwork:
    """The network in an Equinox module: `equinox.nn.GRUCell`, `LSTMCell`, or cells of rnndyn, anywhere in it.

    Equinox and rnndyn have one layout, so weights are taken as they are. Subclasses of Equinox's cells and cells of
    rnndyn come back as they are, with their own step.

    **Arguments:**

    - `module`: the module. A file written by `equinox.tree_serialise_leaves` has no names: read it into a module first.
    - `name`: the path of the cell (`"rnn.cell"`), where there are several; a list is stacked.
    - `cell`: `"lstm"` or `"gru"`, to check what is found.
    - `readout`: the path of the linear readout, where several `equinox.nn.Linear` fit.
    - `dtype`: of the weights; float64 when not given.

    **Returns:** an `ImportedNetwork`.

    **Raises:** `ValueError` in one line as `load_network`.
    """
    is_part = lambda node: _is_cell(node) or isinstance(node, eqx.nn.Linear | eqx.nn.Embedding)
    parts = [
        (jax.tree_util.keystr(path).lstrip(".") or "cell", node)
        for path, node in jax.tree_util.tree_leaves_with_path(module, is_leaf=is_part)
        if is_part(node)
    ]
    arrays: dict[str, Any] = {}
    layers = []
    for path, node in parts:
        if isinstance(node, eqx.nn.Linear | eqx.nn.Embedding):
            arrays |= {f"{path}.{leaf}": getattr(node, leaf, None) for leaf in ("weight", "bias")}
        elif type(node) in (eqx.nn.GRUCell, eqx.nn.LSTMCell):
            leaves = ("weight_ih", "weight_hh", "bias", "bias_n")
            own = {f"{path}.{leaf}": array for leaf in leaves if (array := getattr(node, leaf, None)) is not None}
            arrays |= own
            layers += pytorch_layers(stored(own), Choices())
        else:
            layers.append(_as_it_is(path, node))
    tensors = stored({name: array for name, array in arrays.items() if array is not None})
    if not layers:
        raise ValueError(
            f"module: no equinox.nn.GRUCell, equinox.nn.LSTMCell or cell of rnndyn in this {type(module).__name__}. "
            "For a cell of your own use rnndyn.as_map(function, input, state_like=...)."
        )
    return assemble(
        tensors,
        layers,
        name,
        choices=Choices(cell=cell),
        where=f"the {type(module).__name__}",
        format=f"Equinox module {type(module).__name__}",
        readout=readout,
        dtype=dtype,
        linears=[_linear(path, node, tensors) for path, node in parts if _is_matrix(node)],
        embeddings=[
            Linear(path, tensors[f"{path}.weight"], None, False)
            for path, node in parts
            if isinstance(node, eqx.nn.Embedding)
        ],
    )


def _is_cell(node: Any) -> bool:
    if isinstance(node, eqx.nn.GRUCell | eqx.nn.LSTMCell):
        return True
    return isinstance(node, eqx.Module) and all(hasattr(type(node), m) for m in _METHODS) and isinstance(node, Cell)


def _is_matrix(node: Any) -> bool:
    return isinstance(node, eqx.nn.Linear) and jnp.ndim(node.weight) == 2


def _linear(path: str, node: eqx.nn.Linear, tensors: dict[str, StoredTensor]) -> Linear:
    return Linear(path, tensors[f"{path}.weight"], tensors.get(f"{path}.bias"), False)


def _as_it_is(path: str, node: Any) -> FoundLayer:
    cell: Any = EquinoxCell(node) if isinstance(node, eqx.nn.GRUCell | eqx.nn.LSTMCell) else node
    output = eqx.filter_eval_shape(lambda: cell.output(cell.initial_state()))
    kind = type(node).__name__.removesuffix("Cell").lower()
    found = FoundCell(cell.input_size, math.prod(output.shape), lambda: cell, (f"{path}",))
    return FoundLayer(
        path,
        "rnndyn" if type(node).__module__.startswith("rnndyn") else "Equinox",
        kind if kind in WORDS else type(node).__name__,
        {"forward": (found,)},
        variant="the cell as it is, with its own step",
    )
