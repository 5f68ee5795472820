"""Haiku's names: `lstm/linear/{w, b}`, `gru/{w_i, w_h, b}`, `vanilla_rnn/{linear, linear_1}/{w, b}`."""

from typing import Any

import numpy as np

from rnndyn.interop import _cells
from rnndyn.interop._layers import Choices, FoundCell, FoundLayer, cell_word
from rnndyn.interop._pytorch_names import activation_name
from rnndyn.interop._tensors import StoredTensor, Tensors, refuse_others

# i, g, f, o of Haiku in the order i, f, g, o; z, r, a in the order r, z, n.
_LSTM_ORDER = (0, 2, 1, 3)
_GRU_ORDER = (1, 0, 2)


def haiku_layers(tensors: Tensors, choices: Choices) -> list[FoundLayer]:
    """The cores `VanillaRNN`, `LSTM` and `GRU`. A core with a name of its own is told by `cell=`."""
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition("/")
        modules.setdefault(path, {})[leaf] = tensor
    asked = cell_word(choices.cell)
    layers = []
    for path, weights in modules.items():
        core, _, part = path.rpartition("/")
        own = core.rpartition("/")[2]
        second = modules.get(f"{core}/linear_1")
        if {"w_i", "w_h"} <= set(weights):
            layers.append(_guard(tensors, path, "gru", weights, lambda w=weights, p=path: _gru(p, w, choices)))
        elif part == "linear" and "w" in weights and core:
            if "vanilla_rnn" in own or (asked == "vanilla" and second is not None):
                both = {**weights, **{f"{leaf}_1": tensor for leaf, tensor in (second or {}).items()}}
                layers.append(_guard(tensors, core, "vanilla", both, lambda w=both, c=core: _vanilla(c, w, choices)))
            elif "lstm" in own or (asked == "lstm" and second is None):
                layers.append(_guard(tensors, core, "lstm", weights, lambda w=weights, c=core: _lstm(c, w)))
    return layers


def _guard(tensors: Tensors, name: str, kind: str, weights: dict[str, StoredTensor], recognise: Any) -> FoundLayer:
    try:
        refuse_others(tensors, name + "/", _names(weights), _cells.OWN_STEP)
        return recognise()
    except ValueError as error:
        return FoundLayer(name, "Haiku", kind, used=_names(weights), refusal=str(error))


def _names(weights: dict[str, StoredTensor]) -> tuple[str, ...]:
    return tuple(tensor.name for tensor in weights.values())


def _check(tensor: StoredTensor | None, shape: tuple[int, ...], what: str) -> StoredTensor:
    if tensor is None:
        raise ValueError(f"lacks {what}.")
    if tensor.shape != shape:
        raise ValueError(f"{tensor.name}: expected shape {shape}, got {tensor.shape}.")
    return tensor


def _lstm(name: str, weights: dict[str, StoredTensor]) -> FoundLayer:
    w = weights["w"]
    if len(w.shape) != 2 or w.shape[1] % 4 or w.shape[0] <= w.shape[1] // 4 - 1:
        raise ValueError(
            f"{w.name} has shape {w.shape}; an LSTM of Haiku has (inputs + units, 4 units). {_cells.OWN_STEP}"
        )
    size = w.shape[1] // 4
    inputs = w.shape[0] - size
    b = _check(weights.get("b"), (4 * size,), "b")

    def build() -> Any:
        weight, bias = _cells.reorder(w.numbers().T, _LSTM_ORDER), _cells.reorder(b.numbers(), _LSTM_ORDER)
        # Haiku adds 1 to the forget gate in its step, not in its parameters.
        bias[size : 2 * size] += 1
        return _cells.lstm(weight[:, :inputs], weight[:, inputs:], bias)

    return FoundLayer(
        name,
        "Haiku",
        "lstm",
        {"forward": (FoundCell(inputs, size, build, _names(weights)),)},
        gate_order="i, g, f, o in the source; here i, f, g, o",
        variant="one matrix of input and state split and transposed",
        biases="one bias, with the 1 that Haiku adds to the forget gate in its step",
    )


def _gru(name: str, weights: dict[str, StoredTensor], choices: Choices) -> FoundLayer:
    if choices.reset not in (None, "before"):
        raise ValueError(f"reset: Haiku's GRU has its reset gate before the product, got {choices.reset!r}.")
    w_i, w_h = weights["w_i"], weights["w_h"]
    if len(w_i.shape) != 2 or len(w_h.shape) != 2 or w_h.shape[1] != 3 * w_h.shape[0]:
        raise ValueError(f"{w_h.name}: expected shape (units, 3 units), got {w_h.shape}.")
    inputs, size = w_i.shape[0], w_h.shape[0]
    _check(w_i, (inputs, 3 * size), "w_i")
    b = _check(weights.get("b"), (3 * size,), "b")

    def build() -> Any:
        arrays = [_cells.reorder(array, _GRU_ORDER) for array in (w_i.numbers().T, w_h.numbers().T, b.numbers())]
        # h' = (1 - z) h + z a of Haiku is h' = (1 - z) n + z h with the gate 1 - z, and 1 - s(v) = s(-v).
        for array in arrays:
            array[size : 2 * size] *= -1
        return _cells.gru(*arrays, reset="before")

    return FoundLayer(
        name,
        "Haiku",
        "gru",
        {"forward": (FoundCell(inputs, size, build, _names(weights)),)},
        gate_order="z, r, n in the source; here r, z, n",
        variant=f"{_cells.RESET_BEFORE}; the update gate turned round (z block negated); matrices transposed",
        biases="one bias",
    )


def _vanilla(name: str, weights: dict[str, StoredTensor], choices: Choices) -> FoundLayer:
    w = weights["w"]
    if len(w.shape) != 2:
        raise ValueError(f"{w.name}: expected a matrix, got shape {w.shape}.")
    inputs, size = w.shape
    recurrent = _check(weights.get("w_1"), (size, size), "linear_1/w")
    biases = [_check(weights[key], (size,), key) for key in ("b", "b_1") if key in weights]
    activation = "relu" if choices.activation is None else choices.activation

    def build() -> Any:
        bias = sum((tensor.numbers() for tensor in biases), np.zeros(size))
        return _cells.vanilla(w.numbers().T, recurrent.numbers().T, bias, activation)

    return FoundLayer(
        name,
        "Haiku",
        "vanilla",
        {"forward": (FoundCell(inputs, size, build, _names(weights)),)},
        variant=f"nonlinearity {activation_name(activation)}, as hk.VanillaRNN has it; matrices transposed",
        biases="the biases of both matrices added up" if len(biases) > 1 else "one bias",
    )
