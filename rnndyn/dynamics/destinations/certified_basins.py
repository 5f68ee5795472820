"""Proofs of where states end: this state ends in that memory."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.destinations import _journeys as journeys
from rnndyn.dynamics.destinations._arrivals import LONGEST_SETTLING, find_arrivals
from rnndyn.dynamics.destinations._discs import Stations
from rnndyn.dynamics.destinations._orbits import Points
from rnndyn.dynamics.destinations.trapping_balls import TrappingBalls, trapping_balls_of
from rnndyn.dynamics.destinations.verdicts import DestinationVerdict
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.results import Judged, first_verdict, is_verdict


def certify_basins(
    f: Callable[[Array], Array],
    points: Points | TrappingBalls,
    states: Array | np.ndarray,
    *,
    max_steps: int = 1000,
    progress: bool = True,
) -> "CertifiedBasins":
    r"""Prove of each state in which memory its orbit ends, or say why this cannot be proved.

    Every memory has a ball from which all states end there (`prove_trapping_balls`), and around it a larger one that is
    seen to be mapped into it in some steps. A state $x_0$ is proved when a set that is certain to hold $F^t(x_0)$ lies
    in such a ball.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`, made of the operations that `docs/certificates.md` lists.
    - `points`: the memories: stable fixed points (K, N), stable cycles (K, p, N), a list of such arrays, or
        `TrappingBalls` of this map, which saves proving them again.
    - `states`: states (M, N), each the exact number that it is in float64.
    - `max_steps`: iterations of the map after which a state is given up.
    - `progress`: whether a progress bar may appear.

    **Returns:** `CertifiedBasins`; `labels` (M,) is the row of `points`, -1 where nothing was proved.

    **Raises:** `ValueError` for states or points that are not finite or of another length, points that f does not
    keep, that are unstable or given twice; `NotImplementedError` naming the operation when f uses one without an
    interval rule.

    Where f takes weighted sums of the state once and goes on unit by unit, as cells do, a state is carried forward as
    an ellipsoid that is known by its covariance S: the next one is $(1 + a) A S A' + (1 + 1/a)\, \varepsilon^2$ for
    any a > 0 (Schweppe 1973), with A near DF and $\varepsilon$ a bound of what is rounded and of what DF varies by. A
    state that lies nearly on the orbit of another is taken along with it. Of other maps, states are carried forward as
    boxes; when these have grown, as discs in the metric of the memory they are on their way to, in which distances
    grow by bounds of |DF| that are found once for all orbits that pass a place. What is lost so becomes ellipsoids
    $\{c + Q y : |y|_2 \le r\}$ with $F(c + Q y) \in F(c) + [DF]\, Q y$ and a factor of the image as next Q (Lohner
    1987; Kühn 1998). A state on the boundary of two basins cannot be proved, and neither can one so near to it that
    rounding decides. The proof is about the real map with the float64 constants of f; what it assumes of the arithmetic
    is in `docs/certificates.md`.

    R. J. Lohner (1987), *Enclosing the solutions of ordinary initial and boundary value problems*; W. Kühn (1998),
    *Rigorously computed orbits of dynamical systems without the wrapping effect*; F. C. Schweppe (1973), *Uncertain
    dynamic systems*.
    """
    check_at_least("max_steps", max_steps, 0)
    check_states("states", states)
    balls = trapping_balls_of(f, points)
    check_states("states", states, balls.centers.shape[1])
    states = np.asarray(states, np.float64)
    num = len(states)
    if not balls.proved.any():
        nothing, ends = np.full(num, -1), np.full(num, journeys.TRAVELLING)
        one = np.ones(len(balls.radii))
        reasons = ("no memory has a trapping ball",) * num
        return CertifiedBasins(
            states, nothing, nothing, np.zeros(num, int), balls, one, np.zeros(len(one), int), _verdicts(ends), reasons
        )
    with interval_precision():
        f = let_in(f, states[0])
        arrivals = find_arrivals(f, balls, min(max_steps, LONGEST_SETTLING))
        stations = Stations(f, balls, arrivals.rows)
        found = journeys.follow_states(f, states, arrivals.targets, stations, max_steps, progress=progress)
    arrived = found.balls >= 0
    entered = np.where(arrived, arrivals.rows[found.balls], -1)
    labels = np.where(arrived, balls.owners[entered], -1)
    owners = balls.owners[arrivals.rows]
    reasons = tuple(found.words(row, owners) for row in range(num))
    return CertifiedBasins(
        states,
        labels,
        entered,
        found.steps,
        balls,
        arrivals.multiples,
        arrivals.settling,
        _verdicts(found.ends),
        reasons,
    )


class CertifiedBasins(Judged):
    """In which memory each of M states is proved to end.

    - `states`: (M, N).
    - `labels`: the row of `points`, (M,); -1 where nothing was proved.
    - `entered`: the row of `balls` that the orbit is proved to come near, (M,), which also tells the phase of a cycle:
        the state is at most `multiples` times the radius from its centre.
    - `steps`: after how many iterations, (M,).
    - `balls`: the `TrappingBalls`, B of them.
    - `multiples`, `settling`: every state within `multiples` times the radius of a ball, (B,), is in a trapping ball of
        that memory `settling` iterations later, (B,).
    - `result`: a batch (M,) of `DestinationVerdict`; `reasons`: M texts, what stood in the way of each state, with
        numbers; empty where it is proved.
    """

    states: Float[np.ndarray, "M N"]
    labels: Int[np.ndarray, " M"]
    entered: Int[np.ndarray, " M"]
    steps: Int[np.ndarray, " M"]
    balls: TrappingBalls
    multiples: Float[np.ndarray, " B"]
    settling: Int[np.ndarray, " B"]
    result: DestinationVerdict
    reasons: tuple[str, ...]

    @property
    def proved(self) -> Bool[np.ndarray, " M"]:
        """Of which states it is proved where they end."""
        return is_verdict(self.result, DestinationVerdict.proved)

    def __len__(self) -> int:
        return len(self.states)

    def table(self) -> str:
        num = int(self.proved.sum())
        lines = [f"CertifiedBasins: {num} of {len(self)} states proved ({100 * num / len(self):.1f} %)"]
        lines.append(f"  {int(self.balls.proved.sum())} of {len(self.balls)} memories have a trapping ball")
        lines.append("  memory  states  steps, median  largest")
        for k in range(min(len(self.balls), 20)):
            own = self.labels == k
            text = f"{np.median(self.steps[own]):13.0f}  {self.steps[own].max():7d}" if own.any() else ""
            lines.append(f"  {k:6d}  {int(own.sum()):6d}  {text}".rstrip())
        if len(self.balls) > 20:
            lines.append(f"  ... and {len(self.balls) - 20} more")
        words, counts = np.unique(self.message[~self.proved], return_counts=True)
        lines += [f"  {count:6d}  {word}" for word, count in zip(words, counts)]
        lines += [f"  state {k} {self.reasons[k]}" for k in np.flatnonzero(~self.proved)[:5]]
        return "\n".join(lines)


def _verdicts(ends: np.ndarray) -> DestinationVerdict:
    return first_verdict(
        (ends == journeys.ARRIVED, DestinationVerdict.proved),
        (ends == journeys.BLURRED, DestinationVerdict.blurred),
        (ends == journeys.NOT_FINITE, DestinationVerdict.not_finite),
        otherwise=DestinationVerdict.not_arrived,
    )
