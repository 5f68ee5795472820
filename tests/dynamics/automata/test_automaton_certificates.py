"""Networks that are automata by construction or by training, and networks that are not."""

from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

PARITY = ([[0, 1], [1, 0]], [True, False])


class Tanh(eqx.Module):
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x, u):
        return jnp.tanh(self.weight @ x + u + self.bias)


class Linear(eqx.Module):
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x):
        return self.weight @ x + self.bias


@pytest.fixture(scope="module")
def tomita2():
    """(10)*, 32 tanh units trained with state noise .1; reference data made outside of this library."""
    data = np.load(Path(__file__).parents[2] / "data" / "automaton_tomita2.npz")
    automaton = (data["delta"], data["acc"] > 0.5)
    return Tanh(data["W"], data["b"]), data["h0"], data["U"], Linear(data["w"], data["c"]), automaton


@pytest.fixture(scope="module")
def proof(tomita2):
    return rd.certify_automaton(*tomita2, progress=False)


def numpy_answers(network, strings):
    """The network in plain NumPy, after the last symbol of each of some strings of one length."""
    g, start, inputs, readout, _ = network
    states = np.repeat(start[None], len(strings), axis=0)
    for symbols in np.asarray(strings).T:
        states = np.tanh(states @ g.weight.T + inputs[symbols] + g.bias)
    return states @ readout.weight + readout.bias, states


def test_a_trained_network_is_proved_and_its_margin_holds_on_new_strings(tomita2, proof):
    assert proof.certified, proof.reason
    strings = np.random.default_rng(3).integers(0, 2, (500, 300))
    strings[::2] = np.arange(300) % 2 == 0  # half of them in the language's own words
    strings[::4, 250:] = strings[1::4, 250:]
    transitions, accepting = tomita2[4]
    ends = np.zeros(len(strings), int)
    for symbols in strings.T:
        ends = transitions[ends, symbols]
    answers, _ = numpy_answers(tomita2, strings)
    assert (np.where(accepting[ends], answers, -answers) >= proof.margin).all()
    assert 0 < accepting[ends].mean() < 1


def test_the_checker_accepts_the_proof_and_no_claim_that_is_better_by_1e_9(tomita2, proof):
    g, _, _, readout, _ = tomita2
    cell = SimpleNamespace(weight_ih=np.eye(32), weight_hh=g.weight, bias=g.bias)
    check = lambda certificate: rd.check_automaton_certificate(certificate, cell, readout.weight, readout.bias)
    assert check(proof) == ""
    better = {
        "margin": proof.margin + 1e-9,
        "ratios": proof.ratios * (1 - 1e-9),
        "radii": proof.radii * (1 - 1e-9),
    }
    for name, value in better.items():
        assert check(eqx.tree_at(lambda c, n=name: getattr(c, n), proof, value)), name
    other = rd.Automaton(proof.automaton.transitions, ~proof.automaton.accepting)
    assert "threshold" in check(eqx.tree_at(lambda c: c.automaton, proof, other))
    fewer = eqx.tree_at(
        lambda c: (c.sources, c.strings, c.lengths, c.targets, c.ratios),
        proof,
        (proof.sources[1:], proof.strings[1:], proof.lengths[1:], proof.targets[1:], proof.ratios[1:]),
    )
    assert "not followed" in check(fewer) or "missing" in check(fewer)


def test_one_changed_edge_is_refuted_with_the_shortest_string(tomita2):
    *network, (transitions, accepting) = tomita2
    wrong = transitions.copy()
    wrong[1, 0] = 2  # after 1, a 0 no longer completes the word
    found = rd.certify_automaton(*network, (wrong, accepting), progress=False)
    assert not found.certified
    assert found.counterexample == (1, 0)
    assert found.result == rd.AutomatonVerdict.refuted


def test_a_weight_nudged_until_one_long_string_fails_is_not_certified(tomita2):
    """No string is tried at random here, so that the proof itself has to refuse."""
    g, start, inputs, readout, automaton = tomita2
    transitions, accepting = automaton
    rng = np.random.default_rng(5)
    strings = rng.integers(0, 2, (400, 120))
    strings[::2] = np.arange(120) % 2 == 0
    strings[::4, 100:] = strings[1::4, 100:]
    ends = np.zeros((120, len(strings)), int)
    state = np.zeros(len(strings), int)
    for t, symbols in enumerate(strings.T):
        ends[t] = state = transitions[state, symbols]
    i, j = np.unravel_index(np.argmax(np.abs(g.weight)), g.weight.shape)

    def wrong(nudge):
        """The weights, and how many answers after 14 symbols or more are wrong, in plain NumPy."""
        weight = g.weight.copy()
        weight[i, j] += nudge
        states, late = np.repeat(start[None], len(strings), axis=0), 0
        for t, symbols in enumerate(strings.T):
            states = np.tanh(states @ weight.T + inputs[symbols] + g.bias)
            answers = (states @ readout.weight + readout.bias > 0).ravel()
            late += 0 if t < 13 else (answers != accepting[ends[t]]).sum()
        return weight, late

    nudge = -np.sign(g.weight[i, j])
    low, high = 0.0, 64.0
    assert wrong(high * nudge)[1]
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if wrong(middle * nudge)[1] else (middle, high)
    weight, late = wrong(high * nudge)
    assert late
    network = (Tanh(weight, g.bias), start, inputs, readout)
    found = rd.certify_automaton(*network, automaton, num_strings=0, budget=4.0, progress=False)
    assert not found.certified
    # At which set and string, and how far from what is needed.
    assert "after the symbols" in found.reason
    assert "answer margin" in found.reason


def test_extraction_finds_the_language_and_proves_it(tomita2):
    *network, (transitions, accepting) = tomita2
    found = rd.extract_automaton(*network, max_states=5, progress=False)
    assert found.found
    assert found.certified, found.reason
    assert len(found.automaton) == 3
    strings = np.random.default_rng(0).integers(0, 2, (200, 9))
    strings[:50] = np.arange(9) % 2 == 0
    for string in strings:
        for length in range(1, 10):
            state = 0
            for symbol in string[:length]:
                state = transitions[state, symbol]
            assert found.automaton.accepts(string[:length]) == accepting[state]


def test_extraction_says_when_no_small_automaton_agrees(tomita2):
    *network, (_transitions, _accepting) = tomita2
    found = rd.extract_automaton(*network, max_states=2, progress=False)
    assert not found.found
    assert not found.certified
    string = found.counterexample
    answer, _ = numpy_answers((*network, None), [string])
    assert found.automaton.accepts(string) != (answer[0] > 0)


class Latch(eqx.Module):
    """x' = tanh(gain x + u): set, reset and hold a bit."""

    gain: np.ndarray

    def __call__(self, x, u):
        return jnp.tanh(self.gain * x + u)


LATCH = ([[1, 0, 0], [1, 0, 1]], [False, True])


def latch(gain):
    symbols = np.array([[4.0], [-4.0], [0.0]])
    return rd.certify_automaton(
        Latch(np.array(gain)),
        np.array([-0.99]),
        symbols,
        lambda x: x[0],
        LATCH,
        max_sets=64,
        budget=20.0,
        progress=False,
    )


def test_a_latch_keeps_its_bit_above_gain_one_and_its_margin_is_the_closed_form():
    kept = latch(3.0)
    assert kept.certified, kept.reason
    # The least answer: reset for ever, to the root of x = -tanh(4 - 3 x), and then set once.
    root = -1.0
    for _ in range(60):
        root = np.tanh(3 * root - 4)
    least = np.tanh(3 * root + 4)
    assert 0.7 * least < kept.margin <= least


def test_a_latch_that_forgets_is_refused_although_no_string_shows_it():
    """Below gain one the held bit fades to zero from its own side, so every finite string is answered rightly."""
    lost = latch(0.99)
    assert not lost.certified
    assert lost.counterexample is None
    assert lost.reason


def test_results_are_saved(proof, tmp_path):
    again = rd.load(proof.save(tmp_path / "proof"))
    assert again.certified
    assert np.array_equal(again.ratios, proof.ratios)
    assert "every string" in str(again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"automaton": ([[0, 2], [1, 0]], [1, 0])}, "not total"),
        ({"automaton": ([[0, 1], [1]], [1, 0])}, "not total: state 1 has 1 transitions"),
        ({"automaton": ([[0, 1], [1, 0]], [1])}, "accepting"),
        ({"symbols": np.zeros((3, 2))}, "symbols: expected one input for each"),
        ({"symbols": np.array([[0.0, np.nan], [1.0, 0.0]])}, "symbols: expected finite"),
        ({"x0": np.array([0.0, np.inf])}, "x0: expected finite"),
        ({"readout": lambda x: x}, "one number"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {
        "g": lambda x, u: jnp.tanh(x + u),
        "x0": np.zeros(2),
        "symbols": np.eye(2),
        "readout": lambda x: x[0],
        "automaton": PARITY,
    } | change
    with pytest.raises(ValueError, match=message):
        rd.certify_automaton(**given, progress=False)


def test_a_map_without_interval_rules_and_a_tie_are_named():
    automaton = ([[0, 0]], [True])
    with pytest.raises(NotImplementedError, match="sort"):
        rd.certify_automaton(
            lambda x, u: jnp.sort(0.1 * x + u), np.zeros(2), np.eye(2), lambda x: x[0] + 9, automaton, progress=False
        )
    tie = rd.certify_automaton(
        lambda x, u: 0.5 * x + u, np.zeros(2), np.zeros((2, 2)), lambda x: x[0], automaton, progress=False
    )
    assert tie.counterexample == (0,)
    assert "tie" in tie.reason
