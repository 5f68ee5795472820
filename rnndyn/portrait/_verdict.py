"""From evidence to words: every sentence is read off a result, and says what the result does not cover."""

import math
from collections import Counter

import numpy as np

from rnndyn.dynamics.attractors.attractors import Attractors
from rnndyn.dynamics.attractors.classification import ClassifiedAttractor
from rnndyn.dynamics.cycles.cycle_list import CycleSet
from rnndyn.dynamics.fixed_points.point_list import FixedPoints
from rnndyn.dynamics.fixed_points.slow_points import SlowPoints
from rnndyn.dynamics.proofs.certificates import FixedPointCertificates
from rnndyn.portrait.sentences import Sentence, Strength


def fixed_point_sentence(points: FixedPoints, certificates: FixedPointCertificates | None, place: str) -> Sentence:
    """How many fixed points, of which stability, and what is proved of them."""
    scope = completeness(points)
    tried = f"{points.num_candidates} candidates, {len(points.unconverged)} of them converged to no fixed point"
    if points.continuum is not None:
        return Sentence(
            "fixed points",
            place,
            f"A continuum of fixed points, and {len(points)} isolated ones, were found",
            tried,
            "a continuum has no count",
            Strength.measured,
        )
    if len(points) == 0:
        strength = Strength.undecided if points.expected_index_sum else Strength.sampled
        return Sentence("fixed points", place, "No fixed point was found", tried, scope, strength)
    claim = f"One fixed point, {stability_counts(points).removeprefix('1 ')}"
    if len(points) > 1:
        claim = f"{len(points)} fixed points: {stability_counts(points)}"
    proved, says = _proved(points, certificates)
    residual = f"largest residual {np.max(points.residuals):.1g}"
    undecided = bool(points.is_undecided.any())
    strength = Strength.undecided if undecided else Strength.proved if proved else Strength.measured
    return Sentence("fixed points", place, claim, f"{says}; {residual}; {tried}", scope, strength)


def attractor_sentences(attractors: Attractors, points: FixedPoints | None, place: str, origin: str) -> list[Sentence]:
    """Where the states end, one sentence for all of them, and what was not reached or not decided."""
    number = len(attractors.labels)
    smallest = 1 - 0.05 ** (1 / number)
    scope = f"{origin}; each basin of more than {100 * smallest:.2g} % of such states is met with a probability of 95 %"
    sentences = []
    for kind, label in (("unbounded", -2), ("undecided", -1)):
        count = int(np.sum(attractors.labels == label))
        if count == 0:
            continue
        if kind == "unbounded":
            text, evidence, strength = "run away", "they left the escape radius", Strength.sampled
        else:
            text, strength = "end nowhere that could be named", Strength.undecided
            evidence = _most_common(attractors.undecided.reasons)
        sentences.append(Sentence("attractors", place, f"{count} of {number} states {text}", evidence, scope, strength))
    if len(attractors) == 0:
        return sentences
    reached = int(attractors.num_states.sum())
    shares = ", ".join(
        f"{share:.3f} ± {error:.3f}"
        for share, error in zip(attractors.basin_fractions[:8], attractors.basin_fraction_stderr[:8])
    ) + (", ..." if len(attractors) > 8 else "")
    claim = f"{reached} of {number} states end on {describe_attractors(attractors)}"
    evidence = f"{_verified(attractors)}; shares {shares}"
    sentences.insert(0, Sentence("attractors", place, claim, evidence, scope, Strength.sampled))
    sentences += [
        Sentence("exponents", place, chaos_claim(a), a.reason, "one orbit, a finite run", Strength.measured)
        for a in attractors.attractors
        if a.kind == "chaotic"
    ]
    if points is not None and len(points):
        missed = int(points.is_stable.sum()) - sum(a.kind == "fixed point" for a in attractors.attractors)
        if missed > 0:
            sentences.append(
                Sentence(
                    "attractors",
                    place,
                    f"{_count(missed, 'stable fixed point')} {_were(missed)} reached by none of the states",
                    f"{int(points.is_stable.sum())} stable ones were found, states ended on the others",
                    f"its basin may be small, or of states unlike these: {origin}",
                    Strength.sampled,
                )
            )
    return sentences


def time_constant_sentence(points: FixedPoints, place: str, dt: float | None) -> Sentence | None:
    """The slowest decay at the stable fixed points, and whether it turns."""
    stable = np.flatnonzero(points.is_stable & ~points.near_jump)
    if points.kinks is not None:
        stable = stable[~points.kinks.is_on_kink[stable]]
    if len(stable) == 0:
        return None
    leading = points.multipliers[stable, 0]
    slowest = stable[int(np.argmax(np.abs(leading)))]
    mu = complex(points.multipliers[slowest, 0])
    size = abs(mu)
    steps = -1 / math.log(size) if size > 0 else 0.0
    unit = f" = {steps * dt:.4g} time constants" if dt is not None else ""
    turning = abs(mu.imag) > 1e-9 * size
    manner = f", turning once in {2 * math.pi / abs(np.angle(mu)):.4g} steps" if turning else ""
    manner = ", with alternating sign" if not turning and mu.real < 0 else manner
    which = "the stable fixed point" if len(stable) == 1 else f"the slowest of {len(stable)} stable fixed points"
    return Sentence(
        "time constants",
        place,
        f"Small perturbations of {which} fall to 1/e in {steps:.4g} steps{unit}{manner}",
        f"largest |multiplier| {size:.6g}, the point known to {points.errors[slowest]:.1g}",
        "the linear part: the asymptotic rate, not the first steps, and small perturbations only",
        Strength.measured,
    )


def slow_sentence(slow: SlowPoints, place: str) -> Sentence:
    """Whether there is a line, ring or plane along which the state creeps."""
    manifold = slow.manifold
    tried = f"{len(slow)} slow points, {slow.num_fixed} candidates ended at fixed points"
    if manifold.is_slow:
        unit = "steps" if manifold.dt == 1 else "units of time"
        times = ", ".join(f"{t:.3g}" for t in np.median(manifold.time_constants, axis=0))
        return Sentence(
            "slow manifold",
            place,
            f"States relax onto a slow manifold of dimension {manifold.dimension} and creep along it",
            f"median time constants along it {times} {unit}, drift {manifold.travel:.2g} of its extent in "
            f"{manifold.slow_time:g} {unit}; {tried}",
            "a sample of points on it; where it holds a stable fixed point, states end there",
            Strength.sampled,
        )
    unit = "steps" if manifold.dt == 1 else "units of time"
    return Sentence(
        "slow manifold",
        place,
        f"No slow manifold (line or plane attractor) was seen at a time scale of {manifold.slow_time:g} {unit}",
        tried,
        "of the candidates tried",
        Strength.sampled,
    )


def cycle_sentence(cycles: CycleSet, place: str) -> Sentence:
    """Cycles of short period, stable or not."""
    periods = f"period {cycles.periods[0]} to {cycles.periods[-1]}"
    tried = f"{cycles.cycles[0].num_candidates} candidates"
    found = [c for c in cycles if len(c)]
    expected = [c for c in cycles if c.expected_index_sum is not None]
    wrong = [c.period for c in expected if c.is_balanced is False]
    if wrong:
        scope = f"some of period {', '.join(map(str, wrong))} are missing: their index sum is not what it must be"
        if any(c.trap is not None and not c.is_trap_proved for c in expected):
            scope += ", unless the map leaves the box that it is seen to keep"
    elif len(expected) == len(cycles.periods):
        scope = "the index sums agree with a complete list, which does not prove it"
    else:
        scope = "nothing tells whether the list is complete"
    if not found:
        return Sentence("cycles", place, f"No cycle of {periods} was found", tried, scope, Strength.sampled)
    parts = ", ".join(f"{len(c)} of period {c.period} ({int(c.is_stable.sum())} stable)" for c in found)
    residual = max(float(np.max(c.residuals)) for c in found)
    return Sentence(
        "cycles", place, f"Cycles: {parts}", f"largest residual {residual:.1g}; {tried}", scope, Strength.measured
    )


def stability_counts(points: FixedPoints) -> str:
    """`8 stable, 12 with one unstable direction, ...`."""
    decided = ~points.is_undecided
    parts = [f"{int(points.is_stable.sum())} stable"] if points.is_stable.any() else []
    unstable = Counter(points.num_unstable[decided & ~points.is_stable].tolist())
    for count in sorted(unstable):
        name = "at a bifurcation" if count == 0 else f"with {_count(count, 'unstable direction')}"
        parts.append(f"{unstable[count]} {name}")
    if not decided.all():
        parts.append(f"{int(np.sum(~decided))} undecided at a kink")
    return ", ".join(parts)


def completeness(points: FixedPoints) -> str:
    """What the index sum says of points that may be missing."""
    if points.is_balanced is None:
        return "nothing tells whether others exist"
    if points.is_balanced:
        return (
            f"completeness not proved: the index sum is {points.index_sum}, as it must be, but pairs of opposite index "
            "could be missing"
        )
    unless = ", unless the map leaves the box that it is seen to keep" if points.is_trap_sampled else ""
    return f"points are missing: the index sum is {points.index_sum}, it must be {points.expected_index_sum}{unless}"


def describe_attractors(attractors: Attractors) -> str:
    """`8 stable fixed points and a cycle of period 2`, of the named attractors."""
    names: Counter[str] = Counter()
    for a in attractors.attractors:
        names[_attractor_name(a)] += 1
    parts = [name_of(n, name) for name, n in names.items()]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def name_of(number: int, name: str) -> str:
    """`one cycle of period 2` or `3 cycles of period 2`."""
    head, _, tail = name.partition(" of ")
    plural = head if number == 1 else head + "s"
    return f"{'one' if number == 1 else number} {plural}" + (f" of {tail}" if tail else "")


def chaos_claim(attractor: ClassifiedAttractor) -> str:
    """The claim for one chaotic orbit."""
    value, error = float(attractor.exponents[0]), float(attractor.exponents_stderr[0])
    what = "An attractor is chaotic" if attractor.is_attractor else "Chaotic motion that keeps volume was met"
    return f"{what}: largest exponent {value:.4g} ± {error:.1g} nats per step"


def _attractor_name(a: ClassifiedAttractor) -> str:
    if a.kind == "fixed point":
        return "stable fixed point"
    if a.kind == "cycle":
        return f"cycle of period {a.period}"
    if a.kind == "invariant circle":
        return "limit cycle" if a.limit_cycle is not None else "invariant circle"
    return "chaotic attractor" if a.is_attractor else "chaotic sea"


def _verified(attractors: Attractors) -> str:
    radii = [float(np.max(np.abs(a.multipliers))) for a in attractors.attractors if a.is_periodic and a.kink is None]
    residuals = [a.residual for a in attractors.attractors if a.is_periodic]
    if not residuals:
        return "told by exponents and averages along the orbits"
    said = f"each point and cycle solved for, largest residual {max(residuals):.1g}"
    return said + (f", largest spectral radius {max(radii):.6g}" if radii else "")


def _proved(points: FixedPoints, certificates: FixedPointCertificates | None) -> tuple[bool, str]:
    """Whether existence and stability of all points are proved, and in words how many are."""
    if certificates is None:
        return False, "nothing proved"
    exist, total = int(certificates.certified.sum()), len(points)
    stability = int(
        np.sum(certificates.certified & (certificates.num_unstable == points.num_unstable[: len(certificates)]))
    )
    words = f"{exist} of {total} proved to exist, the stability of {stability} proved"
    failed = [reason for reason, ok in zip(certificates.reasons, certificates.certified) if not ok and reason]
    if failed:
        words += f" (the others: {_most_common(failed)})"
    return exist == stability == total, words


def _most_common(reasons: tuple[str, ...] | list[str]) -> str:
    counts = Counter(reason for reason in reasons if reason)
    return counts.most_common(1)[0][0] if counts else "no reason was given"


def _count(number: int, name: str) -> str:
    return f"one {name}" if number == 1 else f"{number} {name}s"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"
