"""Networks stored under tests/data, as cells."""

from pathlib import Path

import numpy as np

import rnndyn as rd

DATA = Path(__file__).parent / "data"


def flip_flop_gru():
    """The GRU of 16 units trained on the 3-bit flip-flop, and the arrays stored with it."""
    data = np.load(DATA / "flipflop_gru16.npz")
    bias_n = data["b_hh"][32:]
    return rd.GRUCell.from_weights(data["W_ih"], data["W_hh"], data["b"], bias_n), data


def flip_flop_vanilla():
    """The tanh network of 16 units trained on the 3-bit flip-flop, and the arrays stored with it."""
    data = np.load(DATA / "flipflop_vanilla16.npz")
    return rd.VanillaCell.from_weights(data["W_ih"], data["W_hh"], data["b"]), data


def large_flip_flop():
    """The tanh network of 100 units trained on the 2-bit flip-flop, and the arrays stored with it."""
    data = np.load(DATA / "flipflop_vanilla100.npz")
    return rd.VanillaCell.from_weights(data["W_ih"], data["W_hh"], data["b"]), data
