"""Proof that a driven network answers every string as an automaton does."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm.auto import tqdm

from rnndyn._programs import as_program
from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.automata._closing import Closing
from rnndyn.dynamics.automata._covering import LONGEST, START, Covering, Failure, Moved
from rnndyn.dynamics.automata._strings import Network, try_strings
from rnndyn.dynamics.automata.automata import Automaton, as_automaton
from rnndyn.dynamics.automata.verdicts import AutomatonVerdict
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.proofs.intervals import enclose_boxes
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.results import Judged, is_verdict


def certify_automaton(
    g: Callable,
    x0: Array | np.ndarray,
    symbols: Array | np.ndarray,
    readout: Callable,
    automaton: Any,
    *,
    empty_string: bool = False,
    max_sets: int = 2048,
    max_depth: int = 48,
    num_generators: int | None = None,
    num_strings: int = 1000,
    longest_string: int = 200,
    budget: float = 60.0,
    progress: bool = True,
) -> "AutomatonCertificate":
    r"""Prove that for every string of every length a driven network answers as an automaton does, or say why not.

    With x_0 given and x_t = g(x_{t-1}, symbols[s_t]), the claim is

        readout(x_t) > 0  where the automaton accepts s_1 ... s_t,  readout(x_t) < 0  where it does not.

    **Arguments:**

    - `g`: the driven map, a function of a state (N,) and an input (I,), made of the operations that
        `docs/certificates.md` lists: `rnndyn.as_driven_map(cell)`. The proof is about the real function with the
        float64 constants of g, not about its rounded evaluation.
    - `x0`: the state (N,) before the first symbol.
    - `symbols`: the input (S, I) of each symbol.
    - `readout`: a function of a state that returns one number; the network accepts where it is positive.
    - `automaton`: `(transitions, accepting)`: the state after each state and symbol, integers (Q, S), and which states
        accept (Q,); an `Automaton` will do. It starts in state 0.
    - `empty_string`: whether the answer at x0 itself is part of the claim.
    - `max_sets`: how many sets may be stored.
    - `max_depth`: how many symbols a set is followed until it has to lie in a stored set again, at most 63.
    - `num_generators`: how finely images are described, at least N; twice N by default.
    - `num_strings`, `longest_string`: random strings that are tried first, besides all short ones.
    - `budget`: seconds that the search for sets may take, after compilation and the first strings.
    - `progress`: whether a progress bar may appear.

    **Returns:** an `AutomatonCertificate`. Where `certified` is false, `reason` says what stood in the way, and
    `counterexample` has a string that is answered wrongly, where one was found (by evaluation in float64, without error
    bounds): the shortest, as long as all strings of its length were tried.

    **Raises:** `ValueError` for an automaton that is not total, symbols that do not fit it or the width of the input,
    a state or symbols with NaN or infinity; `NotImplementedError` naming the operation when g or readout uses one
    without an interval rule.

    Rotated boxes of states are stored, each for one state of the automaton. From each, and from x0, the images under
    all strings are followed as zonotopes with outward rounding (`rnndyn.dynamics.proofs.affine_forms`), until they lie
    in a stored box of the automaton's state then; all on the way have to lie on their side of the readout. By induction
    over the length, every string then keeps the state in a set of the right side. The boxes come from samples:
    principal axes, enlarged where images poke out, divided where they reach the threshold or do not shrink. A single
    step need not contract, in any norm; that the images shrink within `max_depth` steps is enough. Networks that
    contract slowly (trained without noise on their states) are refused after a longer search.

    Kolen (1994), *Fool's gold: extracting finite state machines from recurrent network dynamics*; Casey (1996), *The
    dynamics of discrete-time computation, with application to recurrent neural networks and finite state machine
    extraction*; Girard (2005), *Reachability of uncertain linear systems using zonotopes*.
    """
    target = as_automaton(automaton)
    start, inputs = check_inputs(x0, symbols)
    if len(inputs) != target.num_symbols:
        raise ValueError(
            f"symbols: expected one input for each of the automaton's {target.num_symbols} symbols, got {len(inputs)}."
        )
    check_at_least("max_sets", max_sets, target.num_states)
    check_at_least("max_depth", max_depth, 1)
    if max_depth >= LONGEST:
        raise ValueError(f"max_depth: expected less than {LONGEST}, got {max_depth}.")
    num_generators = 2 * start.size if num_generators is None else num_generators
    check_at_least("num_generators", num_generators, start.size)
    check_at_least("num_strings", num_strings, 0)
    check_at_least("longest_string", longest_string, 1)
    with interval_precision():
        network = let_network_in(g, readout, start, inputs)
        if empty_string and (verdict := _answer_at_start(network, target)) is not None:
            return refusal(target, verdict, "the network answers the empty string differently.", counterexample=())
        tried = try_strings(network, target, most=8192, num_random=num_strings, longest=longest_string)
        if tried.failure is not None:
            return refuted(network, target, tried.failure)
        covering = Covering(
            network,
            target,
            tried,
            max_sets=max_sets,
            num_generators=num_generators,
        )
        covering.move(covering.first_items(START))  # compiles
        deadline = time.monotonic() + budget
        with tqdm(desc="Certifying", delay=2.0, leave=False, disable=None if progress else True, unit="image") as bar:
            failure = Closing(covering, max_depth=max_depth, max_items=_MOST_IMAGES).close(deadline, bar)
        if failure is not None:
            return failed(covering, target, failure)
        return _certificate(covering, target, empty_string)


class AutomatonCertificate(Judged):
    """Whether, for every string of every length, a network answers as an automaton does, and the sets that prove it.

    **Fields:**

    - `automaton`: the automaton of the claim.
    - `result`: an `AutomatonVerdict`; `reason`: what stood in the way, with numbers; empty when certified.
    - `counterexample`: symbols of a string that is answered differently, `None` where none is known.
    - `margin`: every answer to every string is at least this far from the threshold, on the right side; NaN when not
      certified.
    - `covers_empty_string`: whether the claim includes the answer at the initial state.
    - `start` (N,), `symbols` (S, I): the initial state and the inputs.
    - `num_generators`: generators kept while sets are followed.
    - `states` (R,), `centers` (R, N), `frames` (R, N, N), `radii` (R, N): the stored sets
      `{x: |frame (x - center)| <= radii}`, with the automaton's state that they stand for.
    - `sources` (M,), `strings` (M, D), `lengths` (M,), `targets` (M,), `ratios` (M,): the image of the set `sources`
      (-1: of the initial state) under each string, the first `lengths` entries of `strings`, lies in the set
      `targets`, at most `ratios` times its radii from its center.
    - `num_steps`: images that were computed in all.
    """

    automaton: Automaton
    result: AutomatonVerdict
    reason: str
    counterexample: tuple[int, ...] | None
    margin: float
    covers_empty_string: bool
    start: Float[np.ndarray, " N"]
    symbols: Float[np.ndarray, "S I"]
    num_generators: int
    states: Int[np.ndarray, " R"]
    centers: Float[np.ndarray, "R N"]
    frames: Float[np.ndarray, "R N N"]
    radii: Float[np.ndarray, "R N"]
    sources: Int[np.ndarray, " M"]
    strings: Int[np.ndarray, "M D"]
    lengths: Int[np.ndarray, " M"]
    targets: Int[np.ndarray, " M"]
    ratios: Float[np.ndarray, " M"]
    num_steps: int

    @property
    def certified(self) -> bool:
        """Whether the claim is proved for every string."""
        return is_verdict(self.result, AutomatonVerdict.certified)

    def table(self) -> str:
        size = f"{self.automaton.num_states} states, {self.automaton.num_symbols} symbols"
        if not self.certified:
            lines = [f"AutomatonCertificate: not certified ({size})", f"  {self.reason}"]
            if self.counterexample is not None:
                lines.append(f"  counterexample   {' '.join(map(str, self.counterexample)) or 'the empty string'}")
            return "\n".join(lines)
        return (
            f"AutomatonCertificate: every string is answered as by the automaton ({size})\n"
            f"  answer margin    {self.margin:.4g}\n"
            f"  sets             {len(self.states)}\n"
            f"  strings          {len(self.lengths)} lead from set to set, of 1 to {int(self.lengths.max())} symbols\n"
            f"  images computed  {self.num_steps}"
        )


# --- helpers


def let_network_in(g: Callable, readout: Callable, start: np.ndarray, inputs: np.ndarray) -> Network:
    """The map and its readout as programs; call it inside `interval_precision`."""
    width = getattr(g, "input_size", None)
    if width is not None and inputs.shape[1] != width:
        raise ValueError(f"symbols: expected inputs of width {width}, as g takes them, got {inputs.shape[1]}.")
    program = let_in(g, start, inputs[0], name="g")
    answer = as_program(_OneNumber(readout), start, double=True, name="readout", keeps_state=False)
    return Network(program, answer, start, inputs)


class _OneNumber(eqx.Module):
    """A readout as a vector of one entry."""

    readout: Callable

    def __call__(self, x: Array) -> Array:
        answer = jnp.asarray(self.readout(x))
        if answer.size != 1:
            raise ValueError(
                f"expected one number, got shape {answer.shape}; of several outputs, return the difference that decides"
            )
        return jnp.reshape(answer, (1,))


def refuted(network: Network, automaton: Automaton, string: tuple[int, ...]) -> AutomatonCertificate:
    answer = float(network.answers([string])[0])
    expected = "accepts" if automaton.accepts(string) else "rejects"
    kind = "a tie at the threshold" if answer == 0 else f"the readout is {answer:.4g}"
    words = f"after {len(string)} symbols {kind}, where the automaton {expected}."
    return refusal(automaton, AutomatonVerdict.refuted, words, counterexample=string)


def failed(covering: Covering, automaton: Automaton, failure: Failure) -> AutomatonCertificate:
    verdict, advice = _FAILURES[failure.kind]
    return refusal(automaton, verdict, f"{failure.words}. {advice}", covering)


def refusal(
    automaton: Automaton,
    verdict: Any,
    words: str,
    covering: Covering | None = None,
    counterexample: tuple[int, ...] | None = None,
) -> AutomatonCertificate:
    none, size = np.zeros(0, int), 0 if covering is None else covering.network.start.size
    return AutomatonCertificate(
        automaton=automaton,
        result=verdict,
        reason=words,
        counterexample=counterexample,
        margin=float("nan"),
        covers_empty_string=False,
        start=np.zeros(size),
        symbols=np.zeros((automaton.num_symbols, 0)),
        num_generators=0,
        states=none,
        centers=np.zeros((0, size)),
        frames=np.zeros((0, size, size)),
        radii=np.zeros((0, size)),
        sources=none,
        strings=np.zeros((0, 0), int),
        lengths=none,
        targets=none,
        ratios=np.zeros(0),
        num_steps=0 if covering is None else covering.num_steps,
    )


def check_inputs(x0: Any, symbols: Any) -> tuple[np.ndarray, np.ndarray]:
    check_state("x0", x0)
    start, inputs = np.asarray(x0, np.float64), np.asarray(symbols, np.float64)
    if not np.isfinite(start).all():
        raise ValueError("x0: expected finite entries, got NaN or infinity.")
    if inputs.ndim != 2 or inputs.size == 0:
        raise ValueError(f"symbols: expected the input of each symbol, shape (S, I), got {inputs.shape}.")
    if not np.isfinite(inputs).all():
        raise ValueError("symbols: expected finite entries, got NaN or infinity.")
    return start, inputs


_FAILURES: dict[str, tuple[Any, str]] = {
    "time": (AutomatonVerdict.out_of_time, "Raise budget; state noise in training makes networks contract faster."),
    "threshold": (
        AutomatonVerdict.near_threshold,
        "Raise max_sets for smaller sets; where the network's own answers are this close to the threshold, train on.",
    ),
    "closing": (
        AutomatonVerdict.not_closed,
        "Raise max_sets, or max_depth where sets shrink slowly; state noise in training makes networks contract.",
    ),
    "values": (AutomatonVerdict.unknown_values, "Look at where g or readout jumps, divides by zero or overflows."),
}


class _Led(NamedTuple):
    """Images that ended in a stored set."""

    sources: np.ndarray
    strings: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    ratios: np.ndarray


def _led(moved: Moved, inside: np.ndarray) -> _Led:
    items = moved.items
    return _Led(
        items.source[inside], items.path[inside], items.depth[inside], moved.target[inside], moved.ratio[inside]
    )


def _answer_bounds(network: Network) -> tuple[float, float]:
    """Bounds of the readout at the initial state."""
    box = enclose_boxes(network.readout, network.start[None], network.start[None], with_jacobian=False)
    return float(np.asarray(box.value.lo)[0, 0]), float(np.asarray(box.value.hi)[0, 0])


def _answer_at_start(network: Network, automaton: Automaton) -> Any:
    """What stands against the claim about the empty string, if anything does."""
    lower, upper = _answer_bounds(network)
    if lower > 0 if automaton.accepting[0] else upper < 0:
        return None
    disproved = upper <= 0 if automaton.accepting[0] else lower >= 0
    return AutomatonVerdict.refuted if disproved else AutomatonVerdict.near_threshold


def _certificate(covering: Covering, automaton: Automaton, empty_string: bool) -> AutomatonCertificate:
    """Follow every set once more, now that none of them changes, and write down what holds."""
    parts: list[_Led] = []
    margin = np.inf
    if empty_string:
        margin = abs(_answer_bounds(covering.network)[1 if not automaton.accepting[0] else 0])
    for found in covering.follow_all():
        if isinstance(found, Failure):
            return failed(covering, automaton, found)
        moved, inside = found
        margin = min(margin, float(moved.margin.min()))
        parts.append(_led(moved, inside))
    led = _Led(*(np.concatenate(fields) for fields in zip(*parts)))
    names = sorted(covering.needed() - {START})
    number = {START: -1} | {which: k for k, which in enumerate(names)}
    sets = [covering.sets[which] for which in names]
    renumber = np.vectorize(number.__getitem__, otypes=[np.int64])
    longest = int(led.lengths.max())
    return AutomatonCertificate(
        automaton=automaton,
        result=AutomatonVerdict.certified,
        reason="",
        counterexample=None,
        margin=margin * (1 - CLAIM_SLACK),
        covers_empty_string=empty_string,
        start=covering.network.start,
        symbols=covering.network.symbols,
        num_generators=covering.num_generators,
        states=np.array([s.state for s in sets]),
        centers=np.stack([s.center for s in sets]),
        frames=np.stack([s.frame for s in sets]),
        radii=np.stack([s.radii for s in sets]),
        sources=renumber(led.sources),
        strings=led.strings[:, :longest].astype(np.int64),
        lengths=led.lengths,
        targets=renumber(led.targets),
        ratios=np.minimum(led.ratios * (1 + CLAIM_SLACK), 1.0),
        num_steps=covering.num_steps,
    )


_MOST_IMAGES = 1000
"""Images of one set that are followed before it is divided."""

CLAIM_SLACK = 2e-11
"""Claims are written down this much weaker than they were proved, for a checker that rounds in another way."""
