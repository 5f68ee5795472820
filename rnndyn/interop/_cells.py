"""Gate blocks in rnndyn's order, and the cell of each kind, from weights that are already (out, in)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnndyn.networks.cells.gru import GRUCell
from rnndyn.networks.cells.lstm import LSTMCell
from rnndyn.networks.cells.projected_lstm import ProjectedLSTMCell
from rnndyn.networks.cells.vanilla import VanillaCell

KIND_OF_GATES = {1: "vanilla", 3: "gru", 4: "lstm"}
RESET_AFTER = "reset gate after the recurrent product"
RESET_BEFORE = "reset gate before the recurrent product"
OWN_STEP = "Write its step and use rnndyn.as_map(function, input, state_like=...)."
TANH_ASSUMED = "the nonlinearity is tanh, which the weights do not tell; pass activation= for another"


def reorder(rows: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Blocks of rows, one per gate, in another order: block k of the result is block `order[k]`."""
    blocks = np.split(rows, len(order))
    return np.concatenate([blocks[index] for index in order])


def vanilla(weight_ih: np.ndarray, weight_hh: np.ndarray, bias: np.ndarray | None, activation: Any) -> VanillaCell:
    """The vanilla cell; without a bias, zeros."""
    return VanillaCell.from_weights(
        weight_ih, weight_hh, _bias(bias, weight_ih), activation="tanh" if activation is None else activation
    )


def lstm(
    weight_ih: np.ndarray, weight_hh: np.ndarray, bias: np.ndarray | None, weight_hr: np.ndarray | None = None
) -> LSTMCell | ProjectedLSTMCell:
    """The LSTM of rows i, f, g, o, with a projection where there is one."""
    if weight_hr is not None:
        return ProjectedLSTMCell.from_weights(weight_ih, weight_hh, _bias(bias, weight_ih), weight_hr)
    return LSTMCell.from_weights(weight_ih, weight_hh, _bias(bias, weight_ih))


def gru(
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias: np.ndarray | None,
    bias_n: np.ndarray | None = None,
    *,
    reset: str = "after",
) -> GRUCell:
    """The GRU of rows r, z, n with h' = (1 - z) n + z h."""
    if reset == "after" and bias_n is None:
        bias_n = np.zeros(weight_hh.shape[1])
    return GRUCell.from_weights(weight_ih, weight_hh, _bias(bias, weight_ih), bias_n, reset=reset)


def gru_biases(bias_ih: np.ndarray, bias_hh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`bias` and `bias_n` of a GRU with reset after: the biases of r and z add up, those of n do not.

    The recurrent bias of n stands inside of r (...), and only there.
    """
    size = len(bias_hh) // 3
    bias = np.array(bias_ih)
    bias[: 2 * size] += bias_hh[: 2 * size]
    return bias, bias_hh[2 * size :]


def _bias(bias: np.ndarray | None, weight_ih: np.ndarray) -> np.ndarray:
    return np.zeros(len(weight_ih)) if bias is None else bias
