"""The attractors of a map and the sizes of their basins, from many initial states at once."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int
from scipy import special

from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.attractors._search import UNBOUNDED, UNDECIDED, AttractorSearch
from rnndyn.dynamics.attractors.classification import check_options, escape_distance
from rnndyn.dynamics.attractors.classified_attractor import ClassifiedAttractor
from rnndyn.dynamics.attractors.verdicts import AttractorVerdict
from rnndyn.dynamics.flows import TimeMap
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.results import Judged, Result, repeat_verdict, stack_verdicts


def find_attractors(
    f: Callable[[Array], Array],
    initial_states: ArrayLike,
    *,
    max_map_steps: int = 2**14,
    max_period: int = 256,
    max_representatives: int = 32,
    escape_radius: float | None = None,
    progress: bool = True,
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
) -> "Attractors":
    r"""Find what the orbits of many initial states settle on, and which share of them goes where.

    All states run on the device side by side, each until it comes back to where it was. Newton's method and the
    multipliers then tell fixed points and cycles (as in `classify_attractor`), and every state that has come as close
    to one as its verdict asks for belongs to it. Of the orbits that do not come back, representatives are
    followed and classified one by one; the others belong to a representative's attractor when their states lie
    among its states. There is no grid, so the length of the state does not matter.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`. One compilation serves all initial states and all maps of one structure.
    - `initial_states`: shape `(K, N)`. Basin fractions are fractions of these: draw them from the measure you mean,
        independently.
    - `max_map_steps`: the most steps of a state; representatives take four times as many, and at least 65536.
    - `max_period`: the longest period that is recognised.
    - `max_representatives`: how many orbits that do not return are classified one by one.
    - `escape_radius`: as in `classify_attractor`; by default from the largest of the initial states.
    - `progress`: show a bar when it takes longer than two seconds.
    - `devices`: JAX devices, or a `jax.sharding.Mesh` of them, that share the work; also those of other processes
        (`jax.distributed`), which then all make this call. By default the default device.

    **Returns:** an `Attractors`, the largest basin first. States that end on saddles, or are still under way, belong to
    no attractor: they are in `undecided`, each with its reason.

    **Raises:** `ValueError` for bad initial states, a map that changes its shape or dtype, or options out of range.

    Which attractors are found depends on the initial states: a basin of fraction b is missed by K of them with
    probability $(1 - b)^K$. Two aperiodic attractors closer to each other than 2048 states of one of them are among
    themselves count as one; in a chaotic network of high dimension that distance is a good part of its extent.

    Reference: G. Datseris & A. Wagemakers (2022), *Effortless estimation of basins of attraction*; P. J. Menck et al.
    (2013), *How basin stability complements the linear-stability paradigm*; R. Brent (1980) (returns).
    """
    check_states("initial_states", initial_states)
    check_at_least("max_map_steps", max_map_steps, 1024)
    check_at_least("max_representatives", max_representatives, 0)
    check_options(max_period, escape_radius)
    with double_precision(devices):
        starts = np.asarray(initial_states, np.float64)
        flow = f if isinstance(f, TimeMap) else None
        f = let_in(f, starts[0])
        search = AttractorSearch(
            f,
            starts,
            max_map_steps=max_map_steps,
            max_period=max_period,
            max_representatives=max_representatives,
            radius=escape_distance(f, starts, escape_radius),
            progress=progress,
            flow=flow,
        )
        search.run()
    counts = np.bincount(search.labels[search.labels >= 0], minlength=len(search.attractors))
    order = np.argsort(-counts, kind="stable")
    rank = np.append(np.argsort(order), [UNBOUNDED, UNDECIDED])  # so that labels -2 and -1 stay
    rows = np.flatnonzero(search.labels == UNDECIDED)
    return Attractors(
        attractors=tuple(search.attractors[i] for i in order),
        labels=rank[search.labels],
        final_states=search.states,
        undecided=_undecided(rows, search),
    )


class Attractors(Result):
    """The attractors found, the largest basin first, and where each initial state goes.

    - `attractors`: one `ClassifiedAttractor` each.
    - `labels`: of every initial state the index of its attractor, -1 where undecided, -2 where unbounded, `(K,)`.
    - `final_states`: where each orbit was left, `(K, N)`.
    - `undecided`: the states that belong to no attractor, with reasons.
    """

    attractors: tuple[ClassifiedAttractor, ...]
    labels: Int[np.ndarray, " K"]
    final_states: Float[np.ndarray, "K N"]
    undecided: "UndecidedStates"

    def __len__(self) -> int:
        return len(self.attractors)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each attractor."""
        return tuple(a.kind for a in self.attractors)

    @property
    def num_states(self) -> Int[np.ndarray, " A"]:
        """How many initial states go to each attractor."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.attractors))

    @property
    def basin_fractions(self) -> Float[np.ndarray, " A"]:
        """The share of the initial states that goes to each attractor."""
        return self.num_states / len(self.labels)

    @property
    def basin_fraction_stderr(self) -> Float[np.ndarray, " A"]:
        r"""The binomial standard errors $\sqrt{b (1 - b) / K}$ of the fractions, for independent initial states."""
        share = self.basin_fractions
        return np.sqrt(share * (1 - share) / len(self.labels))

    @property
    def unbounded_fraction(self) -> float:
        """The share of the initial states whose orbit leaves the escape radius."""
        return float(np.mean(self.labels == UNBOUNDED))

    @property
    def undecided_fraction(self) -> float:
        """The share of the initial states without a verdict."""
        return float(np.mean(self.labels == UNDECIDED))

    def confidence_interval(self, level: float = 0.95) -> tuple[Float[np.ndarray, " A"], Float[np.ndarray, " A"]]:
        """Lower and upper ends of the interval that holds each basin fraction with probability `level`.

        E. B. Wilson (1927), *Probable inference*: unlike the standard error it is right near 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level: expected a probability between 0 and 1, got {level}.")
        num, share = len(self.labels), self.basin_fractions
        z = special.ndtri(0.5 + level / 2)
        middle = (share + z**2 / (2 * num)) / (1 + z**2 / num)
        half = z / (1 + z**2 / num) * np.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
        return middle - half, middle + half

    def table(self) -> str:
        num = len(self.labels)
        lines = [f"{len(self)} attractors from {num} initial states", "  basin fraction      attractor"]
        for attractor, share, error in zip(self.attractors, self.basin_fractions, self.basin_fraction_stderr):
            lines.append(f"  {share:7.4f} +- {error:6.4f}   {attractor.label}")
        lines.append(f"  unbounded {self.unbounded_fraction:.4f}, undecided {self.undecided_fraction:.4f}")
        for reason in sorted(set(self.undecided.reasons))[:5]:
            lines.append(f"    {self.undecided.reasons.count(reason)} undecided: {reason}")
        return "\n".join(lines)


class UndecidedStates(Judged):
    """The M of K initial states that belong to no attractor (0 where every one does).

    - `rows`: which of the initial states they are, increasing indices `(M,)` from 0 to K - 1.
    - `states`: where their orbits were left, `(M, N)`, in the units of the state; from there a longer run goes on.
    - `result`: why each belongs to none, a batch `(M,)` of `AttractorVerdict`; `message` has them in words.
    - `reasons`: the same with the numbers of the case (the multiplier, the exponent), M strings.
    """

    rows: Int[np.ndarray, " M"]
    states: Float[np.ndarray, "M N"]
    result: AttractorVerdict
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def table(self) -> str:
        lines = [f"{len(self)} initial states belong to no attractor"]
        for words, count in zip(*np.unique(self.message, return_counts=True)):
            lines.append(f"  {count:>5} {words}")
        return "\n".join(lines)


def _undecided(rows: np.ndarray, search: AttractorSearch) -> UndecidedStates:
    verdicts, reasons = zip(*(search.reasons[int(i)] for i in rows)) if rows.size else ((), ())
    result = stack_verdicts(verdicts) if verdicts else repeat_verdict(AttractorVerdict.not_settled, 0)
    return UndecidedStates(rows, search.states[rows], result, reasons)
