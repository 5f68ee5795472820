"""The automaton that a driven network is, found by asking it and proved by its sets."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from rnndyn._validation import check_at_least
from rnndyn.dynamics.automata._strings import Network, try_strings
from rnndyn.dynamics.automata.automata import Automaton
from rnndyn.dynamics.automata.certificate import (
    AutomatonCertificate,
    certify_automaton,
    check_inputs,
    let_network_in,
    refuted,
)
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.results import Judged


def extract_automaton(
    g: Callable,
    x0: Array | np.ndarray,
    symbols: Array | np.ndarray,
    readout: Callable,
    *,
    max_states: int,
    num_strings: int = 1000,
    longest_string: int = 200,
    **options: Any,
) -> "ExtractedAutomaton":
    r"""Find the smallest automaton that answers every string as a driven network does, with the proof that it does.

    **Arguments:**

    - `g`, `x0`, `symbols`, `readout`: the network, as for `certify_automaton`.
    - `max_states`: the largest automaton to propose.
    - `num_strings`, `longest_string`: random strings that each proposal is tried on, besides all short ones.
    - `options`: those of `certify_automaton` (`max_sets`, `max_depth`, `budget`, `progress`, ...).

    **Returns:** an `ExtractedAutomaton`: the last proposal, and the certificate of it. Where no automaton of at most
    `max_states` states agrees with the network on all strings tried, `found` is false and `counterexample` is the
    shortest string found that the last proposal answers differently. A proposal that agreed on all strings but was
    not proved is `found` and not `certified`.

    **Raises:** as `certify_automaton`.

    Angluin's L*: strings that lead to different states are told apart by what may follow them; the table of answers is
    filled by running the network until it is closed, which gives the smallest automaton that agrees with it; a string
    that this one answers differently tells another two states apart (by its suffix, after Rivest and Schapire). The
    network's answer to the empty string is used to tell states apart and is not part of the claim.

    Angluin (1987), *Learning regular sets from queries and counterexamples*; Rivest & Schapire (1993), *Inference of
    finite automata using homing sequences*; Weiss, Goldberg & Yahav (2018), *Extracting automata from recurrent neural
    networks using queries and counterexamples*, who have no proof of equality.
    """
    check_at_least("max_states", max_states, 1)
    start, inputs = check_inputs(x0, symbols)
    with interval_precision():
        network = let_network_in(g, readout, start, inputs)
        table = _Table(network)
        last = None
        while True:
            described = table.automaton()
            proposal = _without_own_start(described)
            if proposal.num_states > max_states:
                proposal, failure = last or _constant(network, num_strings, longest_string)
                return ExtractedAutomaton(proposal, False, refuted(network, proposal, failure), table.num_asked)
            tried = try_strings(network, proposal, most=8192, num_random=num_strings, longest=longest_string)
            if tried.failure is None:
                break
            last = (proposal, tried.failure)
            table.tell_apart(described, tried.failure)
    certificate = certify_automaton(
        g,
        x0,
        symbols,
        readout,
        proposal,
        num_strings=num_strings,
        longest_string=longest_string,
        **options,
    )
    return ExtractedAutomaton(proposal, True, certificate, table.num_asked)


class ExtractedAutomaton(Judged):
    """The automaton that was read off a network, and what is proved of it.

    **Fields:**

    - `automaton`: the last proposal; the smallest of those that agree with the network on the strings asked.
    - `found`: whether it agreed on all strings that were tried.
    - `certificate`: the `AutomatonCertificate` of it.
    - `num_queries`: strings that the network was asked for, besides those of the trials.
    """

    automaton: Automaton
    found: bool
    certificate: AutomatonCertificate
    num_queries: int

    @property
    def result(self) -> Any:
        """The verdict of the certificate."""
        return self.certificate.result

    @property
    def certified(self) -> bool:
        """Whether the automaton is proved to answer every string as the network does."""
        return self.certificate.certified

    @property
    def reason(self) -> str:
        """What is not proved, and why; empty when everything is."""
        return self.certificate.reason

    @property
    def counterexample(self) -> tuple[int, ...] | None:
        """The shortest string found that the last proposal answers differently."""
        return self.certificate.counterexample

    def table(self) -> str:
        size = self.automaton.num_states
        if not self.found:
            string = self.counterexample or ()
            return (
                f"ExtractedAutomaton: none found; one of {size} states still differs from the network\n"
                f"  counterexample   {' '.join(map(str, string))}"
            )
        state = "proved for every string" if self.certified else f"not proved: {self.reason}"
        return f"ExtractedAutomaton: {size} states, {state}\n{self.automaton.table()}"


# --- helpers


def _without_own_start(automaton: Automaton) -> Automaton:
    """The automaton with the initial state taken for another that every symbol leads on from alike, if only the answer
    to the empty string, which is not asked for, tells them apart."""
    transitions = automaton.transitions
    if (transitions == 0).any():
        return automaton
    alike = [q for q in range(1, len(automaton)) if (transitions[q] == transitions[0]).all()]
    if not alike:
        return automaton
    # The other one becomes state 0, and the rest keep their order.
    order = [alike[0], *(q for q in range(1, len(automaton)) if q != alike[0])]
    place = np.zeros(len(automaton), int)
    place[order] = np.arange(len(order))
    return Automaton(place[transitions[order]], automaton.accepting[order])


def _constant(network: Network, num_strings: int, longest_string: int) -> tuple[Automaton, tuple[int, ...]]:
    """The automaton of one state that answers as the network does after its first symbol, and where it fails."""
    accepts = network.accepts([(0,)])
    automaton = Automaton(np.zeros((1, network.num_symbols), int), np.array(accepts))
    tried = try_strings(network, automaton, most=8192, num_random=num_strings, longest=longest_string)
    assert tried.failure is not None  # a table of two states has strings of both answers
    return automaton, tried.failure


class _Table:
    """Angluin's table: strings that lead to different states, and the endings that tell them apart."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._answers: dict[tuple[int, ...], bool] = {}
        self._states: list[tuple[int, ...]] = [()]
        self._endings: list[tuple[int, ...]] = [()]

    @property
    def num_asked(self) -> int:
        return len(self._answers)

    def automaton(self) -> Automaton:
        """The smallest automaton that the table describes, after adding states until it is closed."""
        symbols = range(self._network.num_symbols)
        while True:
            longer = [(*state, symbol) for state in self._states for symbol in symbols]
            rows = self._rows([*self._states, *longer])
            number: dict[tuple[bool, ...], int] = {}
            for k, row in enumerate(rows[: len(self._states)]):
                number.setdefault(row, k)
            new = [k for k, row in enumerate(rows[len(self._states) :]) if row not in number]
            if not new:
                break
            self._states.append(longer[new[0]])
        successors = np.array([number[row] for row in rows[len(self._states) :]])
        accepting = np.array([self._answers[state] for state in self._states])
        return Automaton(successors.reshape(len(self._states), len(symbols)), accepting)

    def tell_apart(self, proposal: Automaton, string: tuple[int, ...]) -> None:
        """Add the ending that a counterexample shows.

        With the first k symbols replaced by the proposal's own string for the state they lead to, the network's
        answer changes between some k and k + 1; what follows tells apart two states that the proposal takes for one.
        """
        queries = [(*self._states[proposal.run(string[:k])], *string[k:]) for k in range(len(string) + 1)]
        answers = self._ask(queries)
        change = next(k for k in range(len(string)) if answers[k] != answers[k + 1])
        self._endings.append(string[change + 1 :])

    def _rows(self, states: Sequence[tuple[int, ...]]) -> list[tuple[bool, ...]]:
        answers = self._ask([(*state, *ending) for state in states for ending in self._endings])
        size = len(self._endings)
        return [tuple(answers[k * size : (k + 1) * size]) for k in range(len(states))]

    def _ask(self, strings: Sequence[tuple[int, ...]]) -> list[bool]:
        """The network's answers, by running all new strings together."""
        new = sorted({s for s in strings if s not in self._answers}, key=len)
        if new:
            self._answers |= dict(zip(new, self._network.accepts(new)))
        return [self._answers[s] for s in strings]
