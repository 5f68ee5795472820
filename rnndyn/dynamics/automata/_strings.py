"""What a network answers to strings: short ones all, long ones at random."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rnndyn.dynamics.automata._propagation import step_points
from rnndyn.dynamics.automata.automata import Automaton
from rnndyn.dynamics.numerics.drivers import map_in_chunks

_POINTS = 1024


class Reached(NamedTuple):
    """States after all strings of one length, in dictionary order: strings are the digits of the row's number."""

    length: int
    states: Float[np.ndarray, "M N"]
    answers: Float[np.ndarray, " M"]


class Network:
    """A driven map with its symbols and readout, on batches of states."""

    def __init__(self, g: Callable, readout: Callable, start: np.ndarray, symbols: np.ndarray) -> None:
        self.g, self.readout, self.start, self.symbols = g, readout, start, symbols

    @property
    def num_symbols(self) -> int:
        return len(self.symbols)

    def step(self, states: np.ndarray, symbols: Int[np.ndarray, " M"]) -> tuple[np.ndarray, np.ndarray]:
        """The states after one more symbol each, and their answers."""
        return map_in_chunks(
            lambda batch: step_points(self.g, self.readout, *batch),
            (states, self.symbols[symbols]),
            bytes_per_item=1,
            description="Running strings",
            progress=False,
            least_size=_POINTS,
            most_size=_POINTS,
        )

    def answer(self, string: tuple[int, ...]) -> float:
        """The readout after one string of at least one symbol."""
        states, answers = self.start[None], np.zeros(1)
        for symbol in string:
            states, answers = self.step(states, np.array([symbol]))
        return float(answers[0])

    def levels(self, most: int) -> Iterator[Reached]:
        """All strings of length 1, 2, ... while there are no more than `most` of a length."""
        states, length = self.start[None], 0
        while len(states) * self.num_symbols <= most:
            length += 1
            symbols = np.tile(np.arange(self.num_symbols), len(states))
            states, answers = self.step(np.repeat(states, self.num_symbols, axis=0), symbols)
            yield Reached(length, states, answers)


def digits(number: int, base: int, length: int) -> tuple[int, ...]:
    """The string of a row of `Reached`."""
    return tuple(int(d) for d in (number // base ** np.arange(length - 1, -1, -1, dtype=object)) % base)


def states_of_all(automaton: Automaton, length: int) -> Int[np.ndarray, " M"]:
    """The automaton's state after every string of a length, in dictionary order."""
    states = np.zeros(1, np.int64)
    for _ in range(length):
        states = automaton.transitions[states].reshape(-1)
    return states


def differs(answers: np.ndarray, accepted: np.ndarray) -> np.ndarray:
    """Where an answer is not the automaton's: on the other side, on the threshold, or NaN."""
    return ~np.where(accepted, answers > 0, answers < 0)


class Tried(NamedTuple):
    """What strings showed: states with those of the automaton, and the shortest string answered differently."""

    states: Float[np.ndarray, "M N"]
    places: Int[np.ndarray, " M"]
    failure: tuple[int, ...] | None


def try_strings(
    network: Network, automaton: Automaton, *, most: int, num_random: int, longest: int, seed: int = 0
) -> Tried:
    """Run all short strings and some long ones, up to the first failure.

    Lengths are walked upward, so that the first failure met is the shortest of its kind. States after fewer than
    half of the symbols that are enumerated are left out: the initial state is forgotten by then.
    """
    states, places = [], []
    for reached in network.levels(most):
        ends = states_of_all(automaton, reached.length)
        wrong = differs(reached.answers, automaton.accepting[ends])
        if wrong.any():
            failure = digits(int(np.argmax(wrong)), network.num_symbols, reached.length)
            return Tried(np.zeros((0, network.start.size)), np.zeros(0, int), failure)
        states.append(reached.states)
        places.append(ends)
    states, places = states[len(states) // 2 :], places[len(places) // 2 :]
    failure = None
    for found, ends, failure in _random_strings(network, automaton, num_random, longest, seed):
        states.append(found)
        places.append(ends)
    return Tried(np.concatenate(states), np.concatenate(places), failure)


def _random_strings(
    network: Network, automaton: Automaton, num_random: int, longest: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[int, ...] | None]]:
    """States along random strings, taken together symbol by symbol, and what they fail on, which ends them.

    Uniform symbols leave long runs out, so half of the strings have a chance of their own to repeat a symbol.
    """
    rng = np.random.default_rng(seed)
    states = np.repeat(network.start[None], num_random, axis=0)
    places = np.zeros(num_random, np.int64)
    stickiness = np.sqrt(rng.uniform(0, 1, num_random))
    stickiness[: num_random // 2] = 0
    strings = np.empty((longest, num_random), np.int64)
    for t in range(longest):
        fresh = rng.integers(network.num_symbols, size=num_random)
        kept = (rng.uniform(size=num_random) < stickiness) & (t > 0)
        strings[t] = np.where(kept, strings[t - 1], fresh)
        states, answers = network.step(states, strings[t])
        places = automaton.transitions[places, strings[t]]
        wrong = differs(answers, automaton.accepting[places])
        if wrong.any():
            yield states, places, tuple(map(int, strings[: t + 1, int(np.argmax(wrong))]))
            return
        if t % 8 == 7:
            yield states, places, None
