"""Networks of Flax: parameters of linen, or modules and states of nnx."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rnndyn.interop._flax_names import flax_layers
from rnndyn.interop._layers import Choices, assemble, none_found
from rnndyn.interop._tensors import stored
from rnndyn.interop.network import ImportedNetwork

_CELLS = ("SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell")


def from_flax(
    params_or_module: Any,
    name: str | Sequence[str] | None = None,
    *,
    cell: str | None = None,
    activation: Any = None,
    readout: str | None = None,
    dtype: Any = None,
) -> ImportedNetwork:
    """The network in parameters of `flax.linen`, or in a module or state of `flax.nnx`.

    `SimpleCell`, `LSTMCell`, `OptimizedLSTMCell` and `GRUCell`, alone or inside of `RNN` and `Bidirectional` of nnx.
    Kernels lie (in, out) and are transposed. linen's GRU has a recurrent bias for n, which becomes `bias_n`; that of
    nnx has none, and `bias_n` is zero. Flax keeps the carry of an LSTM as (c, h), rnndyn its state as (h, c).

    **Arguments:**

    - `params_or_module`: what `module.init` of linen gives (with or without `"params"`), an `nnx.Module`, or
        `nnx.state` of one.
    - `name`: the recurrent layer, where there are several; its last part is enough. A list is stacked.
    - `cell`: `"vanilla"`, `"lstm"` or `"gru"`, to check what is found.
    - `activation`: of a `SimpleCell`. A module of nnx tells it; parameters do not, and tanh is assumed.
    - `readout`: the name of the linear readout, where several `Dense` fit.
    - `dtype`: of the weights; float64 when not given.

    **Returns:** an `ImportedNetwork`. For parameters, `.source.assumed` says which functions were assumed.

    **Raises:** `ValueError` in one line for gates with other functions, `residual=True`, minimal gated units and
    convolutional cells; and as `load_network`.
    """
    nnx = getattr(sys.modules.get("flax"), "nnx", None)
    settings: dict[str, dict[str, Any]] | None = None
    if nnx is not None and isinstance(params_or_module, nnx.Module):
        module = params_or_module
        settings = {"/".join(map(str, path)): _settings(part, nnx) for path, part in nnx.iter_modules(module)}
        tree = nnx.state(module, nnx.Param)
        format = f"nnx module {type(module).__name__}"
    else:
        tree, format = params_or_module, "Flax parameters"
    if not isinstance(tree, Mapping):
        raise ValueError(
            f"params_or_module: expected the parameters of a linen module, or a module or state of nnx, got a "
            f"{type(tree).__name__}."
        )
    tensors = stored(_leaves(tree))
    choices = Choices(cell=cell, activation=activation)
    layers = flax_layers(tensors, choices, settings)
    if not layers:
        raise none_found("params_or_module", tensors)
    return assemble(
        tensors, layers, name, choices=choices, where="the tree", format=format, readout=readout, dtype=dtype
    )


def _leaves(tree: Any) -> dict[str, Any]:
    """Arrays by path; the variables of nnx hold theirs as a value, and keys of random numbers are no weights."""
    found: dict[str, Any] = {}

    def visit(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, Mapping):
            for key, child in node.items():
                visit(child, (*path, str(key)))
            return
        value = node.get_value() if hasattr(node, "get_value") else getattr(node, "value", node)
        if hasattr(value, "dtype") and not str(value.dtype).startswith("key<"):
            found["/".join(path)] = value

    visit(tree, ())
    return found


def _settings(module: Any, nnx: Any) -> dict[str, Any]:
    """The functions of a cell by name, and of a cell of somebody else its class."""
    named = {key: _name(getattr(module, key)) for key in ("activation_fn", "gate_fn") if hasattr(module, key)}
    alien = type(module).__name__ if _is_alien(module, nnx) else None
    return {**named, "residual": bool(getattr(module, "residual", False)), "alien": alien}


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _is_alien(module: Any, nnx: Any) -> bool:
    """Whether this is a cell of somebody else, a subclass of one of nnx included."""
    base = getattr(getattr(nnx, "nn", None), "recurrent", None)
    abstract = getattr(base, "RNNCellBase", None)
    own = [getattr(nnx, name) for name in _CELLS]
    return abstract is not None and isinstance(module, abstract) and type(module) not in own
