"""Gated cells whose answer is the last symbol, by construction: proved, and accepted by the independent checker."""

import equinox as eqx
import jax
import numpy as np
import pytest

import rnndyn as rd

LAST_SYMBOL = ([[0, 1], [0, 1]], [False, True])
UNITS = 6


def forgetful(make):
    """A cell driven by its input, with small recurrent weights, whose gate of the past is nearly shut."""
    cell = make(2, UNITS, key=jax.random.key(1))
    bias = np.zeros(cell.bias.shape)
    # The second block in both: the update gate z of (r, z, n) and the forget gate f of (i, f, g, o).
    bias[UNITS : 2 * UNITS] = -2.5
    scaled = (3 * np.asarray(cell.weight_ih, float), 0.3 * np.asarray(cell.weight_hh, float), bias)
    return eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh, c.bias), cell, scaled)


class First(eqx.Module):
    """A readout of h, with which the flat state begins."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x):
        return self.weight @ x[:UNITS] + self.bias


def direction_of_the_last_symbol(g, start):
    """What separates states after 1 from states after 0, by least squares on random strings."""
    symbols = np.random.default_rng(0).integers(0, 2, 60)
    states = np.asarray(rd.trajectory(g, start, len(symbols), inputs=np.eye(2)[symbols]))[:, :UNITS]
    design = np.column_stack([states, np.ones(len(states))])
    solution = np.linalg.lstsq(design, 2.0 * symbols - 1, rcond=None)[0]
    return solution[:-1], solution[-1]


@pytest.mark.parametrize("make", [rd.GRUCell, rd.LSTMCell])
def test_a_gated_network_is_proved_and_checked(make):
    cell = forgetful(make)
    g = rd.as_driven_map(cell)
    start = np.asarray(g.flatten(cell.initial_state()), float)
    weight, bias = direction_of_the_last_symbol(g, start)
    proof = rd.certify_automaton(g, start, np.eye(2), First(weight, bias), LAST_SYMBOL, progress=False)
    assert proof.certified, proof.reason
    check = lambda certificate: rd.check_automaton_certificate(certificate, cell, weight, bias)
    assert check(proof) == ""
    for name, value in {"margin": proof.margin + 1e-9, "ratios": proof.ratios * (1 - 1e-9)}.items():
        assert check(eqx.tree_at(lambda c, n=name: getattr(c, n), proof, value)), name
    # An answer that is worse everywhere by more than the margin leaves nothing of the proof.
    assert "threshold" in rd.check_automaton_certificate(proof, cell, weight, bias - 2 * proof.margin)
