"""Flax's names: one Dense for each gate (linen, and nnx where it is not fused), or `dense_i` and `dense_h` (nnx)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnndyn.interop import _cells
from rnndyn.interop._layers import Choices, FoundCell, FoundLayer, layer_and_direction
from rnndyn.interop._pytorch_names import activation_name
from rnndyn.interop._tensors import StoredTensor, Tensors, refuse_others

_LSTM = tuple((f"i{g}", f"h{g}") for g in "ifgo")
_GRU = (("ir", "hr"), ("iz", "hz"), ("in", "hn"))
_PAIRS: dict[str, tuple[tuple[str, str], ...]] = {"lstm": _LSTM, "gru": _GRU, "vanilla": (("i", "h"),)}
_GATES = {frozenset(name for pair in pairs for name in pair): kind for kind, pairs in _PAIRS.items()}
_MGU = frozenset(("if", "in", "hf", "hn"))
_CELL = re.compile(r"^cell$")
_DIRECTION = re.compile(r"^(forward|backward)_rnn$")
_DENSE_LEAVES = ("kernel", "bias")

Group = dict[str, dict[str, StoredTensor]]


def flax_layers(
    tensors: Tensors, choices: Choices, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> list[FoundLayer]:
    """The cells of `flax.linen` and `flax.nnx`, alone or inside of `RNN` and (nnx) `Bidirectional`.

    `settings` holds the activations of a cell by the path of its weights, where a module tells them.
    """
    groups: dict[str, Group] = {}
    for name, tensor in tensors.items():
        parts = [part for part in re.split(r"[/.]", name) if part]
        if len(parts) >= 2 and parts[-1] in _DENSE_LEAVES:
            groups.setdefault("/".join(parts[:-2]), {}).setdefault(parts[-2].rstrip("_"), {})[parts[-1]] = tensor
    cells: dict[str, dict[str, tuple[str, Group]]] = {}
    for path, group in groups.items():
        gates = frozenset(group)
        kind = _GATES.get(gates) or ("fused" if gates == {"dense_i", "dense_h"} else None)
        if gates == {"ih", "hh"} or gates == _MGU:
            kind = "refused"
        if kind is not None:
            parts = path.split("/")
            name, direction = layer_and_direction(parts[parts[0] == "params" :], _CELL, _DIRECTION)
            cells.setdefault(name, {})[direction] = (path, group)
    return [_layer(name, members, tensors, choices, settings or {}) for name, members in cells.items()]


def _layer(
    name: str,
    members: dict[str, tuple[str, Group]],
    tensors: Tensors,
    choices: Choices,
    settings: Mapping[str, Mapping[str, Any]],
) -> FoundLayer:
    used = tuple(t.name for _, group in members.values() for dense in group.values() for t in dense.values())
    try:
        for path, _ in members.values():
            if path:
                refuse_others(tensors, path + "/", used, _cells.OWN_STEP)
        parts = {
            direction: _Part(members[direction][1], choices, settings.get(members[direction][0]))
            for direction in ("forward", "backward")
            if direction in members
        }
        if len(kinds := {part.kind for part in parts.values()}) > 1:
            raise ValueError(f"its two directions are of different kinds: {', '.join(sorted(kinds))}.")
        first = next(iter(parts.values()))
        found = [(FoundCell(p.input_size, p.size, p.build, p.used),) for p in parts.values()]
        return FoundLayer(
            name or first.kind,
            "Flax",
            first.kind,
            dict(zip(("forward", "backward"), found)),
            gate_order={"gru": "r, z, n", "lstm": "i, f, g, o"}.get(first.kind, ""),
            variant=first.variant,
            biases=first.biases,
            assumed=tuple(first.assumed),
        )
    except ValueError as error:
        return FoundLayer(name or "rnn", "Flax", "recurrent layer", used=used, refusal=str(error))


class _Part:
    """One cell."""

    def __init__(self, group: Group, choices: Choices, settings: Mapping[str, Any] | None):
        self.group = group
        gates = frozenset(group)
        if gates == _MGU or any(len(d["kernel"].shape) != 2 for d in group.values() if "kernel" in d):
            word = "a minimal gated unit" if gates == _MGU else "a convolutional cell"
            raise ValueError(f"{word}, which rnndyn does not have. {_cells.OWN_STEP}")
        if any("kernel" not in dense for dense in group.values()):
            raise ValueError("lacks a kernel.")
        self.fused = gates == {"dense_i", "dense_h"}
        pairs = (("dense_i", "dense_h"),) if self.fused else _PAIRS[_GATES[gates]]
        self.input_size = group[pairs[0][0]]["kernel"].shape[0]
        self.size, columns = group[pairs[0][1]]["kernel"].shape
        kind = _cells.KIND_OF_GATES.get(columns // max(self.size, 1)) if self.fused else _GATES[gates]
        if kind is None:
            raise ValueError(f"its kernels have {columns} columns for {self.size} units: no known cell.")
        width = _number_of_gates(kind) * self.size if self.fused else self.size
        for pair in pairs:
            for dense, rows in zip(pair, (self.input_size, self.size)):
                for leaf, tensor in group[dense].items():
                    expected = (rows, width) if leaf == "kernel" else (width,)
                    if tensor.shape != expected:
                        raise ValueError(f"{tensor.name}: expected shape {expected}, got {tensor.shape}.")
        self.kind, self.pairs = kind, pairs
        self.assumed: list[str] = []
        self.activation = self._activation(choices, settings)

    def _activation(self, choices: Choices, settings: Mapping[str, Any] | None) -> Any:
        if choices.reset not in (None, "after"):
            raise ValueError(f"reset: Flax's GRU has its reset gate after the product, got {choices.reset!r}.")
        if settings is None:
            if self.kind != "vanilla":
                self.assumed.append("gate_fn sigmoid and activation_fn tanh, which the weights do not tell")
                return None
            self.assumed.append("residual=False, which the weights do not tell")
            if choices.activation is None:
                self.assumed.append(_cells.TANH_ASSUMED)
            return choices.activation
        if settings.get("alien"):
            raise ValueError(f"is a {settings['alien']}, which is no cell of Flax. {_cells.OWN_STEP}")
        own, gates = settings.get("activation_fn"), settings.get("gate_fn")
        if settings.get("residual"):
            raise ValueError("residual=True adds the state to the pre-activation: add the identity to the kernel of h.")
        if self.kind != "vanilla":
            if own not in (None, "tanh") or gates not in (None, "sigmoid"):
                raise ValueError(
                    f"activation_fn {own!r} with gate_fn {gates!r}: only tanh with sigmoid is the cell of rnndyn. "
                    + _cells.OWN_STEP
                )
            return None
        is_known = own in ("tanh", "relu", "sigmoid", "softplus")
        if is_known and choices.activation not in (None, own):
            raise ValueError(f"activation: {choices.activation!r} was asked for, but the cell has {own!r}.")
        if choices.activation is None and not is_known:
            raise ValueError(f"activation_fn {own!r} is not known by name; pass activation= with the function itself.")
        return choices.activation or own

    @property
    def used(self) -> tuple[str, ...]:
        return tuple(tensor.name for dense in self.group.values() for tensor in dense.values())

    @property
    def variant(self) -> str:
        if self.kind == "gru":
            return f"{_cells.RESET_AFTER}; kernels transposed"
        if self.kind == "vanilla":
            return f"nonlinearity {activation_name(self.activation)}; kernels transposed"
        return "kernels transposed; Flax keeps its carry as (c, h), the state here is (h, c)"

    @property
    def biases(self) -> str:
        has_bias = lambda side: any("bias" in self.group[pair[side]] for pair in self.pairs)
        sides = [word for side, word in enumerate(("input", "recurrent")) if has_bias(side)]
        if not sides:
            return "none in the weights: zeros"
        if self.kind == "gru":
            apart = "bias_n from hn" if "bias" in self.group[self.pairs[-1][1]] and not self.fused else "bias_n is zero"
            return f"bias of the {' and '.join(sides)} side; {apart}"
        return f"bias of the {' and '.join(sides)} side"

    def build(self) -> Any:
        weights = [self._side(0), self._side(1)]
        (weight_ih, bias_ih), (weight_hh, bias_hh) = weights
        if self.kind == "gru":
            return _cells.gru(weight_ih, weight_hh, *_cells.gru_biases(bias_ih, bias_hh))
        if self.kind == "lstm":
            return _cells.lstm(weight_ih, weight_hh, bias_ih + bias_hh)
        return _cells.vanilla(weight_ih, weight_hh, bias_ih + bias_hh, self.activation)

    def _side(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Weight (out, in) and bias of the input side (0) or the recurrent side (1), gates in their order."""
        denses = [self.group[pair[side]] for pair in self.pairs]
        weight = np.concatenate([dense["kernel"].numbers().T for dense in denses])
        rows = len(weight) // len(denses)
        return weight, np.concatenate([d["bias"].numbers() if "bias" in d else np.zeros(rows) for d in denses])


def _number_of_gates(kind: str) -> int:
    return {"vanilla": 1, "gru": 3, "lstm": 4}[kind]
