"""The way back: a cell as a state dict of PyTorch, where PyTorch has it exactly."""

from typing import Any

import numpy as np

from rnndyn.interop.network import ImportedNetwork
from rnndyn.networks.adapters import as_cell
from rnndyn.networks.cells.gru import GRUCell
from rnndyn.networks.cells.lstm import LSTMCell
from rnndyn.networks.cells.projected_lstm import ProjectedLSTMCell
from rnndyn.networks.cells.stacked import StackedCell
from rnndyn.networks.cells.vanilla import VanillaCell

_MODULES = {VanillaCell: "RNN", LSTMCell: "LSTM", ProjectedLSTMCell: "LSTM", GRUCell: "GRU"}


def to_torch(network: Any, *, prefix: str = "", as_module: bool = False) -> Any:
    """A cell, or an imported network, in PyTorch's names and conventions; refused where PyTorch has no such layer.

    The biases go to `bias_ih`, `bias_n` of a GRU to the n block of `bias_hh`, whose other entries are zero:
    `from_torch` of the result gives the same cell back.

    **Arguments:**

    - `network`: a `VanillaCell` (tanh or ReLU), `LSTMCell`, `ProjectedLSTMCell`, `GRUCell` with reset "after", a cell
        of Equinox, a `StackedCell` of one kind and width, or an `ImportedNetwork`, with both directions, its linear
        readout (`readout.weight`) and embedding (`embedding.weight`). Of a model pass `model.cell`.
    - `prefix`: put before the names of the recurrent layer, `"rnn."`.
    - `as_module`: give back the `torch.nn.RNN`, `LSTM` or `GRU` itself, in the dtype of the weights, instead of a state
        dict. Needs PyTorch.

    **Returns:** a dict of NumPy arrays, for `module.load_state_dict` after `torch.from_numpy`, or for
    `safetensors.numpy.save_file`; or the module.

    **Raises:** `ValueError` for a cell that PyTorch does not have: reset "before", another nonlinearity, a leaky cell;
    or layers of several kinds or widths.
    """
    imported = network if isinstance(network, ImportedNetwork) else None
    cells = imported.cells if imported is not None else {"forward": network}
    columns = _columns(cells)
    kinds = {type(layer) for column in columns.values() for layer in column}
    _check(columns, kinds)
    state: dict[str, np.ndarray] = {}
    for suffix, column in columns.items():
        for depth, layer in enumerate(column):
            state |= {f"{name}_l{depth}{suffix}": array for name, array in _weights(layer).items()}
    if as_module:
        return _module(columns, state)
    named = {prefix + name: array for name, array in state.items()}
    for part in ("readout", "embedding"):
        module = getattr(imported, part, None)
        for leaf in ("weight", "bias"):
            if getattr(module, leaf, None) is not None:
                named[f"{part}.{leaf}"] = np.asarray(getattr(module, leaf))
    return named


def _columns(cells: dict[str, Any]) -> dict[str, list[Any]]:
    """The layers from the input to the output, by the suffix of PyTorch for their direction."""
    columns: dict[str, list[Any]] = {}
    for key, cell in cells.items():
        layers = list(cell.cells) if type(cell) is StackedCell else [cell]
        columns.setdefault("_reverse" if key.startswith("backward") else "", []).extend(as_cell(c) for c in layers)
    return columns


def _check(columns: dict[str, list[Any]], kinds: set[type]) -> None:
    for kind in kinds:
        if kind not in _MODULES:
            raise ValueError(f"network: PyTorch has no layer for a {kind.__name__}.")
    layers = [layer for column in columns.values() for layer in column]
    for layer in layers:
        if isinstance(layer, GRUCell) and layer.reset != "after":
            raise ValueError(
                "network: PyTorch's GRU has its reset gate after the recurrent product, this cell before it."
            )
        if isinstance(layer, VanillaCell) and layer.activation not in ("tanh", "relu"):
            raise ValueError(f"network: PyTorch's RNN has tanh or relu, this cell {layer.activation!r}.")
    alike = {(type(c), c.hidden_size, getattr(c, "proj_size", 0), getattr(c, "activation", "")) for c in layers}
    if len(alike) > 1:
        raise ValueError("network: the layers of one module of PyTorch are of one kind, width and nonlinearity.")


def _weights(cell: Any) -> dict[str, np.ndarray]:
    bias = np.asarray(cell.bias)
    recurrent = np.zeros_like(bias)
    if isinstance(cell, GRUCell):
        recurrent[2 * cell.hidden_size :] = np.asarray(cell.bias_n)
    weights = {"weight_ih": cell.weight_ih, "weight_hh": cell.weight_hh, "bias_ih": bias, "bias_hh": recurrent}
    if isinstance(cell, ProjectedLSTMCell):
        weights["weight_hr"] = cell.weight_hr
    return {name: np.asarray(array) for name, array in weights.items()}


def _module(columns: dict[str, list[Any]], state: dict[str, np.ndarray]) -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "as_module: PyTorch cannot be imported here; leave as_module=False for NumPy arrays."
        ) from error
    cell = columns[""][0]
    extra = {"nonlinearity": cell.activation} if isinstance(cell, VanillaCell) else {}
    if isinstance(cell, ProjectedLSTMCell):
        extra = {"proj_size": cell.proj_size}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}
    module = getattr(torch.nn, _MODULES[type(cell)])(
        cell.input_size,
        cell.hidden_size,
        num_layers=len(columns[""]),
        bidirectional=len(columns) > 1,
        dtype=next(iter(tensors.values())).dtype,
        **extra,
    )
    module.load_state_dict(tensors)
    return module
