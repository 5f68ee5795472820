"""An independent check of the proof that a network is an automaton."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from rnndyn.dynamics.automata import _checker_arithmetic as za
from rnndyn.dynamics.automata._checker_arithmetic import Zonotopes
from rnndyn.dynamics.automata.certificate import AutomatonCertificate


def check_automaton_certificate(
    certificate: AutomatonCertificate,
    cell: Any,
    readout_weight: Array | np.ndarray,
    readout_bias: Array | np.ndarray | float,
) -> str:
    """Check a certificate by other means, for a tanh, GRU or LSTM cell: its covering of all strings, and every claim.

    **Arguments:**

    - `certificate`: an `AutomatonCertificate` that says `certified`.
    - `cell`: what has the weights of the network: `weight_ih`, `weight_hh` and `bias` of a `VanillaCell` with tanh, an
        `LSTMCell` or a `GRUCell` (with `bias_n`), told apart by their shapes.
    - `readout_weight` (H,) or (1, H), `readout_bias`: the answer is `readout_weight @ h + readout_bias`.

    **Returns:** an empty string where the proof stands, else which inequality fails, at which set and string.

    **Raises:** `ValueError` for a cell of another kind.

    Written in plain NumPy with its own error bounds (Higham 2002, *Accuracy and Stability of Numerical Algorithms*,
    chapter 3), from the definition of the cells: it shares no code with `certify_automaton`. It is sure of the same
    theorem: each set with all strings that are followed from it, each image on its side of the threshold, each end in
    the set that the certificate names. Claimed numbers (`ratios`, `margin`) have to hold as they are written, so that
    a certificate whose numbers were changed for the worse is refused even where a weaker one would stand.
    """
    if not certificate.certified:
        return "the certificate does not claim to be one"
    structure = _check_structure(certificate)
    if structure:
        return structure
    step = _step_of(cell, certificate.centers.shape[1])
    weight = np.asarray(readout_weight, np.float64).reshape(1, -1)
    weight = np.concatenate([weight, np.zeros((1, certificate.centers.shape[1] - weight.shape[1]))], axis=1)
    bias = np.asarray(readout_bias, np.float64).reshape(1)
    for source in range(-1, len(certificate.states)):
        found = _check_source(certificate, source, step, weight, bias)
        if found:
            return found
    return ""


Step = Callable[[Zonotopes, np.ndarray], Zonotopes]


class _Tree(NamedTuple):
    """The strings that are followed from one set: those that go on, and what those that end claim."""

    inner: set[tuple[int, ...]]
    leaves: dict[tuple[int, ...], tuple[int, float]]


def _check_structure(certificate: AutomatonCertificate) -> str:
    """Whether the strings from every set are such that each string has exactly one of them as a beginning."""
    automaton = certificate.automaton
    if not (certificate.ratios.min() > 0 and certificate.ratios.max() <= 1):
        return "ratios: an image is said to lie outside of its set"
    if not certificate.margin > 0:
        return "margin: no positive distance from the threshold is claimed"
    for source in range(-1, len(certificate.states)):
        tree = _tree(certificate, source)
        start = 0 if source < 0 else int(certificate.states[source])
        for string in tree.inner:
            for symbol in range(automaton.num_symbols):
                longer = (*string, symbol)
                if (longer in tree.inner) == (longer in tree.leaves):
                    return f"set {source}: string {longer} is not followed, or followed beyond its end"
        if () not in tree.inner or len(tree.leaves) != int((certificate.sources == source).sum()):
            return f"set {source}: strings are missing or occur twice"
        for string, (target, _) in tree.leaves.items():
            state = start
            for symbol in string:
                state = int(automaton.transitions[state, symbol])
            if not 0 <= target < len(certificate.states) or state != certificate.states[target]:
                return f"set {source}: string {string} leads to state {state}, which set {target} does not stand for"
    return ""


def _tree(certificate: AutomatonCertificate, source: int) -> _Tree:
    rows = np.flatnonzero(certificate.sources == source)
    strings = [tuple(map(int, certificate.strings[row, : certificate.lengths[row]])) for row in rows]
    inner = {string[:length] for string in strings for length in range(len(string))}
    claims = [(int(certificate.targets[row]), float(certificate.ratios[row])) for row in rows]
    return _Tree(inner, dict(zip(strings, claims)))


def _check_source(
    certificate: AutomatonCertificate, source: int, step: Step, weight: np.ndarray, bias: np.ndarray
) -> str:
    """Follow one set along its strings, level by level."""
    automaton, tree = certificate.automaton, _tree(certificate, source)
    try:
        images, number = _first(certificate, source), certificate.num_generators
    except ValueError as error:
        return f"set {source}: {error}"
    state = 0 if source < 0 else int(certificate.states[source])
    if source < 0 and certificate.covers_empty_string:
        margin = _margins(images, weight, bias, automaton.accepting[:1])[0]
        if not margin >= certificate.margin:
            return f"the empty string: the answer is {margin:.17g} from the threshold, less than the margin"
    strings: list[tuple[int, ...]] = [()]
    states = np.array([state])
    while strings:
        symbols = np.tile(np.arange(automaton.num_symbols), len(strings))
        rows = np.repeat(np.arange(len(strings)), automaton.num_symbols)
        strings = [(*strings[row], int(symbol)) for row, symbol in zip(rows, symbols)]
        states = automaton.transitions[states[rows], symbols]
        before = za.with_generators(Zonotopes(*(field[rows] for field in images)))
        images = za.fewer_generators(step(before, certificate.symbols[symbols]), number)
        margins = _margins(images, weight, bias, automaton.accepting[states])
        if not (margins >= certificate.margin).all():
            worst = int(np.argmin(margins))
            return (
                f"set {source}, string {strings[worst]}: the answer is {margins[worst]:.17g} from the threshold, less "
                f"than the margin {certificate.margin:.17g}"
            )
        ends = np.array([string in tree.leaves for string in strings])
        found = _check_ends(certificate, tree, source, [s for s, end in zip(strings, ends) if end], images, ends)
        if found:
            return found
        strings = [string for string, end in zip(strings, ends) if not end]
        states, images = states[~ends], Zonotopes(*(field[~ends] for field in images))
    return ""


def _check_ends(
    certificate: AutomatonCertificate,
    tree: _Tree,
    source: int,
    strings: list[tuple[int, ...]],
    images: Zonotopes,
    ends: np.ndarray,
) -> str:
    if not strings:
        return ""
    targets = np.array([tree.leaves[string][0] for string in strings])
    ratios = np.array([tree.leaves[string][1] for string in strings])
    ended = Zonotopes(*(field[ends] for field in images))
    places = za.places(ended, certificate.centers[targets], certificate.frames[targets])
    allowed = ratios[:, None] * certificate.radii[targets] * (1 - 2.0**-52)
    if (places <= allowed).all():
        return ""
    worst = int(np.argmax((places / allowed).max(axis=1)))
    return (
        f"set {source}, string {strings[worst]}: its image reaches {(places / allowed)[worst].max():.17g} times as far "
        f"as is claimed in set {targets[worst]}"
    )


def _margins(images: Zonotopes, weight: np.ndarray, bias: np.ndarray, accepting: np.ndarray) -> np.ndarray:
    """Lower bounds of the distance of the answers from the threshold, on the right side."""
    answer = za.affine(weight, za.with_generators(images))
    answer = za.plus(answer, za.constant(answer, bias, np.zeros(1)))
    half = (za.widths(answer) + answer.r)[:, 0] * (1 + za.gamma(4))
    signed = np.where(accepting, 1.0, -1.0) * answer.c[:, 0]
    return signed - half - 4 * 2.0**-53 * (np.abs(signed) + half)


def _first(certificate: AutomatonCertificate, source: int) -> Zonotopes:
    """A stored set, `{x: |F (x - c)| <= r}`, as a zonotope: x - c = F^-1 y, and F is nearly orthogonal."""
    size = certificate.centers.shape[1]
    if source < 0:
        return Zonotopes(certificate.start[None], np.zeros((1, 1, size)), np.zeros((1, size)))
    frame, radii = certificate.frames[source], certificate.radii[source]
    if not (np.isfinite(frame).all() and np.isfinite(radii).all() and (radii > 0).all()):
        raise ValueError("frame or radii are not finite and positive")
    # F F' = I + E, so F^-1 = F' (I + E)^-1, and (I + E)^-1 changes no entry of y by more than |E| / (1 - |E|) max r.
    E = np.abs(frame @ frame.T - np.eye(size)) + za.gamma(size + 2) * (np.abs(frame) @ np.abs(frame).T + np.eye(size))
    norm = float(E.sum(axis=1).max()) * (1 + za.gamma(size + 2))
    if not norm < 1e-6:
        raise ValueError(f"the frame is not orthonormal, by {norm:.1e}")
    larger = (radii + 1.01 * norm * radii.max()) * (1 + za.gamma(3))
    G = larger[:, None] * frame
    return Zonotopes(certificate.centers[source][None], G[None], za.gamma(2) * np.abs(G).sum(axis=0)[None] + 1e-290)


# --- the cells, by their definitions


def _step_of(cell: Any, state_size: int) -> Step:
    U, W, b = (np.asarray(getattr(cell, name), np.float64) for name in ("weight_ih", "weight_hh", "bias"))
    bias_n = getattr(cell, "bias_n", None)
    size = W.shape[1]
    blocks = W.shape[0] // size
    if blocks == 1 and state_size == size and getattr(cell, "activation", "tanh") == "tanh":
        return lambda x, u: za.tanh(za.plus(za.affine(W, x), _drive(x, U, u, b)))
    if blocks == 3 and state_size == size:
        if bias_n is None:
            raise ValueError("cell: of GRU cells this checker knows those with the reset gate after the product.")
        return _gru(U, W, b, np.asarray(bias_n, np.float64))
    if blocks == 4 and state_size == 2 * size:
        return _lstm(U, W, b)
    raise ValueError("cell: expected the weights of a tanh, GRU or LSTM cell.")


def _drive(x: Zonotopes, U: np.ndarray, u: Float[np.ndarray, "B I"], b: np.ndarray) -> Zonotopes:
    """`U u + b`, a number for each set."""
    value = u @ U.T + b
    error = za.gamma(U.shape[1] + 2) * (np.abs(u) @ np.abs(U).T + np.abs(b))
    return Zonotopes(value, np.zeros((len(u), x.G.shape[1], len(b))), error)


def _part(x: Zonotopes, entries: slice) -> Zonotopes:
    return Zonotopes(x.c[:, entries], x.G[:, :, entries], x.r[:, entries])


def _gru(U: np.ndarray, W: np.ndarray, b: np.ndarray, bias_n: np.ndarray) -> Step:
    n = W.shape[1]
    gates, new = slice(0, 2 * n), slice(2 * n, 3 * n)

    def step(x: Zonotopes, u: np.ndarray) -> Zonotopes:
        from_input, from_state = _drive(x, U, u, b), za.affine(W, x)
        opened = za.logistic(za.plus(_part(from_input, gates), _part(from_state, gates)))
        r, z = _part(opened, slice(0, n)), _part(opened, slice(n, 2 * n))
        held = _part(from_state, new)
        held = za.plus(held, Zonotopes(np.tile(bias_n, (len(u), 1)), np.zeros_like(held.G), np.zeros_like(held.r)))
        candidate = za.tanh(za.plus(_part(from_input, new), za.times(r, held)))
        return za.plus(candidate, za.times(z, za.minus(x, candidate)))

    return step


def _lstm(U: np.ndarray, W: np.ndarray, b: np.ndarray) -> Step:
    n = W.shape[1]

    def step(x: Zonotopes, u: np.ndarray) -> Zonotopes:
        h, c = _part(x, slice(0, n)), _part(x, slice(n, 2 * n))
        total = za.plus(_drive(x, U, u, b), za.affine(W, h))
        i, f, g, o = (_part(total, slice(k * n, (k + 1) * n)) for k in range(4))
        c = za.plus(za.times(za.logistic(f), c), za.times(za.logistic(i), za.tanh(g)))
        h = za.times(za.logistic(o), za.tanh(c))
        return Zonotopes(*(np.concatenate(pair, axis=-1) for pair in zip(h, c)))

    return step
