"""Deterministic finite automata: what a network that answers after every symbol is compared with."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from rnndyn.results import Result


class Automaton(Result):
    """A deterministic automaton over the symbols 0 ... S-1.

        q_0 = 0,   q_t = transitions[q_{t-1}, s_t],   s_1 ... s_t is accepted where accepting[q_t]

    **Fields:**

    - `transitions`: the state after each state and symbol, integers (Q, S); total, every entry is one of 0 ... Q-1.
    - `accepting`: which states accept, (Q,).

    `len` is the number of states. Two automata may answer every string alike and differ in their states: compare those
    of `minimized`, which are numbered in order of discovery.

    Hopcroft & Ullman (1979), *Introduction to automata theory, languages, and computation*, chapter 2.
    """

    transitions: Int[np.ndarray, "Q S"]
    accepting: Bool[np.ndarray, " Q"]

    @property
    def num_states(self) -> int:
        """Q, how many states there are, whether or not a string leads to them."""
        return self.transitions.shape[0]

    @property
    def num_symbols(self) -> int:
        """S, the size of the alphabet."""
        return self.transitions.shape[1]

    def __len__(self) -> int:
        return self.num_states

    def run(self, string: Sequence[int] | np.ndarray) -> int:
        """The state after a string, a sequence of symbols; 0 after the empty one."""
        state = 0
        for symbol in string:
            state = int(self.transitions[state, symbol])
        return state

    def accepts(self, string: Sequence[int] | np.ndarray) -> bool:
        """Whether a string ends in an accepting state."""
        return bool(self.accepting[self.run(string)])

    def minimized(self) -> "Automaton":
        """The smallest automaton that answers every string as this one does, its states in order of discovery.

        States that no string leads to are left out, and those are one that no string tells apart: classes of states are
        refined until the successors of equal states are equal. Moore (1956), *Gedanken-experiments on sequential
        machines*.
        """
        reached = self._in_order(self.transitions)
        transitions, accepting = self.transitions[reached], self.accepting[reached]
        number = np.full(self.num_states, -1)
        number[reached] = np.arange(len(reached))
        transitions = number[transitions]
        classes = accepting.astype(int)
        while True:  # two states are one while their answers and the classes of their successors agree
            described = np.column_stack([classes, classes[transitions]])
            refined = np.unique(described, axis=0, return_inverse=True)[1].reshape(-1)
            if refined.max() == classes.max():
                break
            classes = refined
        members = [int(np.flatnonzero(classes == k)[0]) for k in range(classes.max() + 1)]
        quotient = Automaton(classes[transitions[members]], accepting[members])
        order = quotient._in_order(quotient.transitions, int(classes[0]))
        place = np.empty(len(order), int)
        place[order] = np.arange(len(order))
        return Automaton(place[quotient.transitions[order]], quotient.accepting[order])

    @staticmethod
    def _in_order(transitions: np.ndarray, start: int = 0) -> list[int]:
        order, seen = [start], {start}
        for state in order:
            for successor in map(int, transitions[state]):
                if successor not in seen:
                    seen.add(successor)
                    order.append(successor)
        return order

    def table(self) -> str:
        lines = [f"Automaton: {self.num_states} states, {self.num_symbols} symbols, starts in 0"]
        lines += [
            f"  {q:5d} {'accepts' if self.accepting[q] else '       '}  -> {' '.join(map(str, self.transitions[q]))}"
            for q in range(min(self.num_states, 30))
        ]
        if self.num_states > 30:
            lines.append(f"  ... and {self.num_states - 30} more")
        return "\n".join(lines)


def as_automaton(automaton: Any) -> Automaton:
    """An automaton as a user gives it: `Automaton` or `(transitions, accepting)`; raises unless it is total."""
    if not isinstance(automaton, Automaton):
        try:
            transitions, accepting = automaton
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"automaton: expected (transitions (Q, S), accepting (Q,)), got {type(automaton).__name__}."
            ) from error
    else:
        transitions, accepting = automaton.transitions, automaton.accepting
    if isinstance(transitions, list | tuple) and len({np.size(row) for row in transitions}) > 1:
        counts = [np.size(row) for row in transitions]
        raise ValueError(
            f"automaton: it is not total: state {np.argmin(counts)} has {min(counts)} transitions, others have "
            f"{max(counts)}. Add a state that rejects and stays."
        )
    transitions, accepting = np.asarray(transitions), np.asarray(accepting)
    if transitions.ndim != 2 or transitions.size == 0:
        raise ValueError(f"automaton: expected transitions of shape (Q, S), got {transitions.shape}.")
    num_states = transitions.shape[0]
    if accepting.shape != (num_states,):
        raise ValueError(
            f"automaton: expected one entry of accepting for each of {num_states} states, got {accepting.shape}."
        )
    if not np.issubdtype(transitions.dtype, np.integer):
        raise ValueError(f"automaton: expected whole numbers in transitions, got {transitions.dtype}.")
    wrong = np.argwhere((transitions < 0) | (transitions >= num_states))
    if len(wrong):
        state, symbol = map(int, wrong[0])
        raise ValueError(
            f"automaton: it is not total: state {state} under symbol {symbol} goes to {transitions[state, symbol]}, "
            f"which is none of 0 ... {num_states - 1}. Add a state that rejects and stays."
        )
    if not np.isin(accepting, [0, 1]).all():
        raise ValueError("automaton: expected True or False (or 1, 0) in accepting.")
    return Automaton(transitions.astype(np.int64), accepting.astype(bool))


def shortest_difference(first: Automaton, second: Automaton, *, empty_string: bool = False) -> tuple[int, ...] | None:
    """The shortest string that two automata answer differently, the first of them in dictionary order; else `None`.

    Hopcroft & Karp (1971): a walk over the pairs of states that strings lead to.
    """
    queue: deque[tuple[int, int, tuple[int, ...]]] = deque([(0, 0, ())])
    seen = {(0, 0)}
    if empty_string and first.accepting[0] != second.accepting[0]:
        return ()
    while queue:
        a, b, string = queue.popleft()
        for symbol in range(first.num_symbols):
            pair = (int(first.transitions[a, symbol]), int(second.transitions[b, symbol]))
            longer = (*string, symbol)
            if first.accepting[pair[0]] != second.accepting[pair[1]]:
                return longer
            if pair not in seen:
                seen.add(pair)
                queue.append((*pair, longer))
    return None
