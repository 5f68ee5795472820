"""Proofs that every input of a box makes a driven network forget where it started (the echo state property)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array

from rnndyn._validation import check_state
from rnndyn.dynamics.chaos._metric import ProvedMetric, proved_metric
from rnndyn.dynamics.chaos._separation import repelling_state, separating_input
from rnndyn.dynamics.chaos._tubes import tube
from rnndyn.dynamics.chaos.contraction_proof import ContractionProof, refused
from rnndyn.dynamics.chaos.verdicts import ContractionVerdict
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.interval_arithmetic import Interval
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.dynamics.proofs.sector_forms import sector_form
from rnndyn.dynamics.proofs.verified_norms import round_up

_RADII = tuple(2.0**k for k in range(11))
_NUM_NARROWED = 5


def prove_contraction(
    g: Callable,
    lower: Array | np.ndarray,
    upper: Array | np.ndarray,
    *,
    state: Array | np.ndarray,
    region: tuple[Any, Any] | None = None,
    seed: int = 0,
) -> ContractionProof:
    r"""Prove that x' = g(x, u) contracts in one metric for every sequence of inputs between two vectors.

    $$|g(x, u) - g(y, u)|_P \le \rho\, |x - y|_P, \qquad |x|_P^2 = x^T P x, \quad \rho < 1,$$

    for all x, y of a convex set that the inputs never lead out of, and all u of the box. Then there is one trajectory
    for each input sequence that all others approach at that rate: the network has the echo state property, and log rho
    bounds its largest conditional exponent from above, whatever the input does.

    **Arguments:**

    - `g`: the driven map (N,), (I,) -> (N,): linear operations, products and elementwise functions with interval rules.
    - `lower`, `upper`: the corners (I,) of the box of inputs.
    - `state`: any state (N,), which says how many units there are; trajectories are started from it.
    - `region`: a box (lower, upper) that the map never leaves. By default the smallest of [-1, 1], [-2, 2], ... that
        interval evaluation shows to be kept.
    - `seed`: of the inputs that are tried as counterexamples.

    **Returns:** a `ContractionProof`; where it is not `proved`, `counterexample` may hold an input that refutes it.

    **Raises:** `ValueError` for inputs that are no box; `NotImplementedError` for an operation without a rule.

    Differences of trajectories obey a linear system with one uncertain gain for each nonlinear operation, between the
    bounds of its slope on the set. P and multipliers are found by a Riccati iteration (circle criterion with free
    diagonal multipliers) and proved by one matrix inequality in outward-rounded arithmetic. First on the region, then
    on a tube: all that inputs of the box do to the state that the middle one holds, to first order and for as many
    steps back as matter, and an ellipsoid around for the rest, which is shown to be kept. Both are sufficient and not
    necessary. A counterexample is an input that, held, lets the states that it leads to separate, or that keeps a state
    which nearby ones leave: its derivative has powers that grow, so that it contracts in no metric.

    Jaeger (2001), *The "echo state" approach to analysing and training recurrent neural networks*; Yildiz, Jaeger &
    Kiebel (2012), *Re-visiting the echo state property*; Lohmiller & Slotine (1998), *On contraction analysis for
    non-linear systems*; Fazlyab et al. (2020), *Safety verification and robustness analysis of neural networks via
    quadratic constraints*.
    """
    check_state("state", state)
    low, high = (np.asarray(x, dtype=np.float64) for x in (lower, upper))
    for name, corner in (("lower", low), ("upper", high)):
        if np.isnan(corner).any():
            raise ValueError(f"{name}: expected numbers, got NaN.")
    if low.ndim != 1 or low.shape != high.shape or not (low <= high).all():
        raise ValueError(
            f"lower, upper: expected the corners (I,) of a box of inputs, got shapes {low.shape} and {high.shape}"
            + (" with lower above upper." if low.shape == high.shape else ".")
        )
    with interval_precision():
        start = np.asarray(state, dtype=np.float64)
        program = let_in(g, start, low, name="g")
        return _prove(program, low, high, start, region, seed)


# --- helpers


def _prove(
    g: Callable, low: np.ndarray, high: np.ndarray, start: np.ndarray, region: Any, seed: int
) -> ContractionProof:
    size = len(start)
    box = _region(g, low, high, size, region)
    rate_in_box = np.inf
    if box is not None:
        center, reach = box
        form = sector_form(g, center, reach, None, low, high)
        found = proved_metric(form, size)
        if found is not None:
            rate_in_box = found[0]
            if rate_in_box < 1:
                inner, _ = tube(g, low, high, start)
                core = inner if inner is not None and inner.rate < rate_in_box else None
                return _in_box(found, center, reach, low, high, core)
    bad = separating_input(g, low, high, start, seed)
    if bad is not None:
        return refused(size, low, high, bad, ContractionVerdict.counterexample, ".")
    local, best = tube(g, low, high, start)
    if local is not None:
        return local
    repeller = repelling_state(g, low, high, start, seed)
    if repeller is not None:
        words = (
            ": held, it keeps a state that nearby ones leave, by a multiplier of modulus "
            f"{repeller.multiplier:.4g}. No set that holds this state contracts, in any metric; smaller boxes around "
            "this input do not help."
        )
        return refused(size, low, high, repeller.input, ContractionVerdict.counterexample, words)
    numbers = f": the best rate was {rate_in_box:.4g} on the region"
    numbers += "" if box is not None else " (none was found: give `region`)"
    numbers += f", {best:.4g} on a tube. A smaller box of inputs may help."
    return refused(size, low, high, np.zeros(0), ContractionVerdict.open, numbers)


def _in_box(
    found: ProvedMetric, center: np.ndarray, reach: np.ndarray, low: np.ndarray, high: np.ndarray, core: Any
) -> ContractionProof:
    none = np.zeros((len(center), 0))
    return ContractionProof(
        **found._asdict(),
        center=center,
        reach=reach,
        generators=none,
        axes=none,
        radius=np.inf,
        lower=low,
        upper=high,
        counterexample=np.zeros(0),
        result=ContractionVerdict.everywhere,
        reason="",
        core=core,
    )


def _region(
    g: Callable, low: np.ndarray, high: np.ndarray, size: int, region: Any
) -> tuple[np.ndarray, np.ndarray] | None:
    """A box of states that all inputs keep, as centre and reach, narrowed by a few images of itself."""
    if region is not None:
        ends = [np.broadcast_to(np.asarray(end, float), (size,)) for end in region]
        box = Interval(*ends)
    else:
        for radius in _RADII:
            box = Interval(np.full(size, -radius), np.full(size, radius))
            out = _values(g, box, low, high)
            if np.all(out.lo >= box.lo) and np.all(out.hi <= box.hi):
                break
        else:
            return None
    for _ in range(_NUM_NARROWED):
        box = ia.intersect(box, _values(g, box, low, high))
    center = 0.5 * (box.lo + box.hi)
    return center, np.asarray(round_up(np.maximum(box.hi - center, center - box.lo), 4))


def _values(g: Callable, box: Interval, low: np.ndarray, high: np.ndarray) -> Interval:
    center = 0.5 * (box.lo + box.hi)
    reach = np.asarray(round_up(np.maximum(box.hi - center, center - box.lo), 4))
    return sector_form(g, center, reach, None, low, high).value
