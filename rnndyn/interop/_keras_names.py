"""Keras's names: `kernel`, `recurrent_kernel`, `bias`, all stored (in, out)."""

import re
from collections.abc import Mapping
from typing import Any

from rnndyn.interop import _cells
from rnndyn.interop._layers import Choices, FoundCell, FoundLayer, layer_and_direction
from rnndyn.interop._tensors import StoredTensor, Tensors, refuse_others

_CELL_PART = re.compile(r"^(.*_)?cell(_\d+)?$")
_DIRECTION = re.compile(r"^(forward|backward)_")
_NAMES = {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "softplus": "softplus", "linear": "identity"}
# z, r, n of Keras in rnndyn's order r, z, n.
_GRU_ORDER = (1, 0, 2)


def keras_layers(
    tensors: Tensors, choices: Choices, configs: Mapping[str, Mapping[str, Any]] | None = None
) -> list[FoundLayer]:
    """The layers `SimpleRNN`, `LSTM` and `GRU`, alone or inside of `Bidirectional`.

    `configs` holds the configuration of a cell by the path of its weights, where a model tells it.
    """
    groups: dict[str, dict[str, dict[str, StoredTensor]]] = {}
    configured: dict[tuple[str, str], Mapping[str, Any]] = {}
    parents: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if _leaf(name) != "recurrent_kernel":
            continue
        parent = _parent(name)
        layer, direction = layer_and_direction(re.split(r"[/.]", parent), _CELL_PART, _DIRECTION)
        parents.setdefault(layer, []).append(parent)
        member = {leaf: tensors[key] for leaf in ("kernel", "bias") for key in _keys(parent, leaf) if key in tensors}
        groups.setdefault(layer, {})[direction] = {**member, "recurrent_kernel": tensor}
        if configs is not None and parent in configs:
            configured[layer, direction] = configs[parent]
    layers = []
    for name, members in groups.items():
        used = tuple(tensor.name for member in members.values() for tensor in member.values())
        config = {key: configured.get((name, key), {}) for key in members}
        try:
            for parent in parents[name]:
                # Without a prefix everything in the file is beside it.
                if parent:
                    refuse_others(tensors, parent + "/", used, _cells.OWN_STEP)
            layers.append(_recognise(name, members, config, choices))
        except ValueError as error:
            layers.append(FoundLayer(name or "rnn", "Keras", "recurrent layer", used=used, refusal=str(error)))
    return layers


def _leaf(name: str) -> str:
    return re.split(r"[/.]", name)[-1].removesuffix(":0")


def _parent(name: str) -> str:
    return name[: max(name.rfind("/"), name.rfind("."), -1) + 1].rstrip("/.")


def _keys(parent: str, leaf: str) -> list[str]:
    starts = [f"{parent}/", f"{parent}."] if parent else [""]
    return [start + leaf + end for start in starts for end in ("", ":0")]


def _recognise(
    name: str,
    members: dict[str, dict[str, StoredTensor]],
    configs: Mapping[str, Mapping[str, Any]],
    choices: Choices,
) -> FoundLayer:
    cells, kinds, first = {}, set(), None
    for direction in ("forward", "backward"):
        if direction in members:
            part = _Part(members[direction], configs[direction], choices)
            cells[direction] = (FoundCell(part.input_size, part.size, part.build, part.used),)
            kinds.add(part.kind)
            first = part if first is None else first
    if "forward" not in cells:
        cells = {"forward": cells["backward"]}
    assert first is not None
    if len(kinds) > 1:
        raise ValueError(f"its two directions are of different kinds: {', '.join(sorted(kinds))}.")
    return FoundLayer(
        name or first.kind,
        "Keras",
        first.kind,
        cells,
        gate_order={"gru": "z, r, n in the source; here r, z, n", "lstm": "i, f, g, o"}.get(first.kind, ""),
        variant=first.variant + "; kernels transposed",
        biases=first.biases,
        assumed=tuple(first.assumed),
    )


class _Part:
    """One cell: what its shapes and, where known, its configuration say."""

    def __init__(self, member: dict[str, StoredTensor], config: Mapping[str, Any], choices: Choices):
        self.member = member
        recurrent, kernel, bias = member["recurrent_kernel"], member.get("kernel"), member.get("bias")
        if kernel is None:
            raise ValueError(f"lacks the kernel beside {recurrent.name}.")
        if len(recurrent.shape) != 2 or len(kernel.shape) != 2:
            raise ValueError(
                f"{kernel.name} {kernel.shape} is no matrix: a convolutional cell, which is not imported. "
                + _cells.OWN_STEP
            )
        self.size, rows = recurrent.shape
        self.input_size = kernel.shape[0]
        kind = _cells.KIND_OF_GATES.get(rows // max(self.size, 1))
        if kind is None or rows % self.size or kernel.shape[1] != rows:
            raise ValueError(
                f"{kernel.name} {kernel.shape} and {recurrent.name} {recurrent.shape} have the columns of no known "
                "cell: 1 (SimpleRNN), 3 (GRU) or 4 (LSTM) times the units."
            )
        self.kind = kind
        self.assumed: list[str] = []
        self.reset = self._reset(bias, config, choices) if kind == "gru" else "after"
        expected = (2, rows) if kind == "gru" and self.reset == "after" else (rows,)
        if bias is not None and bias.shape != expected:
            raise ValueError(f"{bias.name}: expected shape {expected}, got {bias.shape}.")
        self.activation = self._activation(config, choices)
        if config.get("go_backwards"):
            self.assumed.append("the layer reads its sequence backwards (go_backwards); the cell is the same")

    def _reset(self, bias: StoredTensor | None, config: Mapping[str, Any], choices: Choices) -> str:
        if choices.reset not in (None, "after", "before"):
            raise ValueError(f"reset: expected 'after' or 'before', got {choices.reset!r}.")
        told = None
        if "reset_after" in config:
            told = "after" if config["reset_after"] else "before"
        elif bias is not None:
            told = "after" if len(bias.shape) == 2 else "before"
        if told is None and choices.reset is None:
            raise ValueError("a GRU without biases does not tell reset_after; pass reset='after' or reset='before'.")
        if told is not None and choices.reset not in (None, told):
            raise ValueError(f"reset: {choices.reset!r} was asked for, but the layer has reset {told}.")
        return told or str(choices.reset)

    def _activation(self, config: Mapping[str, Any], choices: Choices) -> Any:
        own, gates = config.get("activation"), config.get("recurrent_activation")
        if self.kind != "vanilla":
            if not config:
                self.assumed.append("activation tanh and recurrent_activation sigmoid, which the weights do not tell")
            if own not in (None, "tanh") or gates not in (None, "sigmoid"):
                raise ValueError(
                    f"activation {own!r} with recurrent_activation {gates!r}: only tanh with sigmoid is the cell of "
                    f"rnndyn. {_cells.OWN_STEP}"
                )
            return None
        if own is None:
            if choices.activation is None:
                self.assumed.append(_cells.TANH_ASSUMED)
            return choices.activation or "tanh"
        if own not in _NAMES:
            raise ValueError(f"activation {own!r}: known are {', '.join(_NAMES)}. {_cells.OWN_STEP}")
        if choices.activation not in (None, own, _NAMES[own]):
            raise ValueError(f"activation: {choices.activation!r} was asked for, but the layer has {own!r}.")
        return _NAMES[own]

    @property
    def used(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self.member.values())

    @property
    def variant(self) -> str:
        if self.kind == "gru":
            return _cells.RESET_AFTER if self.reset == "after" else _cells.RESET_BEFORE
        return f"nonlinearity {self.activation}" if self.kind == "vanilla" else ""

    @property
    def biases(self) -> str:
        if "bias" not in self.member:
            return "none in the weights: zeros"
        if self.kind == "gru" and self.reset == "after":
            return "input and recurrent bias of r and z added up; the recurrent one of n kept apart as bias_n"
        return "one bias"

    def build(self) -> Any:
        kernel, recurrent = self.member["kernel"].numbers().T, self.member["recurrent_kernel"].numbers().T
        bias = self.member["bias"].numbers() if "bias" in self.member else None
        if self.kind == "vanilla":
            return _cells.vanilla(kernel, recurrent, bias, self.activation)
        if self.kind == "lstm":
            return _cells.lstm(kernel, recurrent, bias)
        kernel, recurrent = (_cells.reorder(weight, _GRU_ORDER) for weight in (kernel, recurrent))
        bias_n = None
        if bias is not None and self.reset == "after":
            bias, bias_n = _cells.gru_biases(*(_cells.reorder(side, _GRU_ORDER) for side in bias))
        elif bias is not None:
            bias = _cells.reorder(bias, _GRU_ORDER)
        return _cells.gru(kernel, recurrent, bias, bias_n, reset=self.reset)
