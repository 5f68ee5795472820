"""One layer of PyTorch in one direction: its shapes, its kind, its cell."""

from typing import Any

import numpy as np

from rnndyn.interop import _cells
from rnndyn.interop._tensors import StoredTensor


class PytorchCell:
    """One layer in one direction."""

    def __init__(self, member: dict[str, StoredTensor], single: dict[str, StoredTensor]):
        self.member, self.single = member, single
        for needed in ("weight_ih", "weight_hh"):
            if needed not in member:
                raise ValueError(f"lacks {needed} beside {next(iter(member.values())).name}.")
        for key, tensor in member.items():
            if len(tensor.shape) != (2 if key.startswith("weight") else 1):
                raise ValueError(f"{tensor.name} has shape {tensor.shape}, which no cell of this name has.")
        rows, self.input_size = member["weight_ih"].shape
        projection = member.get("weight_hr")
        self.hidden_size = member["weight_hh"].shape[1] if projection is None else projection.shape[1]
        self.output_size = member["weight_hh"].shape[1]
        self.gates = rows // max(self.hidden_size, 1)
        kind = _cells.KIND_OF_GATES.get(self.gates)
        expected = {"weight_hh": (rows, self.output_size), "bias_ih": (rows,), "bias_hh": (rows,)}
        if projection is not None:
            expected["weight_hr"] = (self.output_size, self.hidden_size)
            kind = "projected lstm" if kind == "lstm" else None
        if kind is None or rows != self.gates * self.hidden_size:
            raise ValueError(
                f"{member['weight_ih'].name} {member['weight_ih'].shape} and {member['weight_hh'].name} "
                f"{member['weight_hh'].shape} have the rows of no known cell: 1 (RNN), 3 (GRU) or 4 (LSTM) times the "
                "units."
            )
        for key, tensor in member.items():
            if key in expected and tensor.shape != expected[key]:
                raise ValueError(f"{tensor.name}: expected shape {expected[key]}, got {tensor.shape}.")
        if "bias_n" in single and (kind != "gru" or single["bias_n"].shape != (self.hidden_size,)):
            raise ValueError(f"{single['bias_n'].name}: expected shape ({self.hidden_size},) of a GRU.")
        self.kind = kind

    @property
    def used(self) -> tuple[str, ...]:
        """The names of its tensors."""
        return tuple(tensor.name for tensor in (*self.member.values(), *self.single.values()))

    def build(self, activation: Any, reset: str) -> Any:
        """The cell of rnndyn."""
        weights = {key: tensor.numbers() for key, tensor in {**self.member, **self.single}.items()}
        weight_ih, weight_hh = weights["weight_ih"], weights["weight_hh"]
        sides = [weights[key] for key in ("bias_ih", "bias_hh") if key in weights]
        if self.kind == "gru" and reset == "after" and "bias_hh" in weights:
            zeros = weights["bias_hh"] * 0
            bias, bias_n = _cells.gru_biases(weights.get("bias_ih", zeros), weights["bias_hh"])
        else:
            both = np.sum(sides, axis=0) if sides else None
            bias, bias_n = weights.get("bias", both), weights.get("bias_n")
        if self.kind == "gru":
            return _cells.gru(weight_ih, weight_hh, bias, bias_n, reset=reset)
        if self.kind == "vanilla":
            return _cells.vanilla(weight_ih, weight_hh, bias, activation)
        return _cells.lstm(weight_ih, weight_hh, bias, weights.get("weight_hr"))

    def describe_biases(self, reset: str) -> str:
        """Which biases are added up."""
        if self.single:
            return "one bias" + (", bias_n apart" if "bias_n" in self.single else "")
        sides = [key for key in ("bias_ih", "bias_hh") if key in self.member]
        if not sides:
            return "none in the weights: zeros"
        if len(sides) == 1:
            return f"{sides[0]} only"
        if self.kind == "gru" and reset == "after":
            return "bias_ih + bias_hh of r and z added up; bias_hh of n kept apart as bias_n"
        return "bias_ih + bias_hh added up"
