"""Proofs of where input pulses lead: the transition table of a memory network as a theorem."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from rnndyn._validation import check_at_least
from rnndyn.dynamics.destinations import _journeys as journeys
from rnndyn.dynamics.destinations._orbits import Points
from rnndyn.dynamics.destinations._sets import Ellipsoids, advance
from rnndyn.dynamics.destinations.trapping_balls import TrappingBalls, trapping_balls_of
from rnndyn.dynamics.destinations.verdicts import DestinationVerdict
from rnndyn.dynamics.numerics.drivers import let_in
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.results import Judged, first_verdict, is_verdict


def certify_transitions(
    g: Callable[[Array, Array], Array],
    points: Points | TrappingBalls,
    inputs: Array | np.ndarray | Sequence[Array | np.ndarray],
    *,
    rest: ArrayLike | None = None,
    max_steps: int = 1000,
    num_shares: int = 6,
    progress: bool = True,
) -> "CertifiedTransitions":
    r"""Prove to which memory each input pulse leads from each memory, for all states of a ball around it.

    With $B_i$ balls around the memories at the input `rest`, and pulses $u_1, \dots, u_T$,

        F(x) in B_j  for every x in B_i,   F = f^t o g(., u_T) o ... o g(., u_1),   f = g(., rest).

    The balls in which the pulses arrive are those from which they start. So the table holds for any sequence of pulses,
    for all times, if between two of them the input rests for at least `settling` steps, the largest t.

    **Arguments:**

    - `g`: the driven map, `(N,), (I,) -> (N,)`, made of the operations that `docs/certificates.md` lists.
    - `points`: the memories at the input `rest`, as for `certify_basins`.
    - `inputs`: the pulses: (S, I) of one step each, (S, T, I), or a list of S arrays (T, I).
    - `rest`: the input between pulses (I,); zero by default.
    - `max_steps`: steps at rest after which a pulse is given up.
    - `num_shares`: how often the balls may be halved: a smaller ball is easier to follow through a pulse.
    - `progress`: whether a progress bar may appear.

    **Returns:** `CertifiedTransitions`; `labels` (K, S) has the memory that each pulse leads to, -1 where nothing
    was proved.

    **Raises:** as `certify_basins`, and `ValueError` for inputs that are not finite or of different widths.

    The balls are the trapping balls times a share, one share for all: the largest of 1, 1/2, 1/4, ... with which most
    transitions are proved. A ball is followed as an ellipsoid, as in `certify_basins`. Of a memory that is a cycle, the
    pulse is proved to lead to j from every phase.
    """
    check_at_least("max_steps", max_steps, 0)
    check_at_least("num_shares", num_shares, 1)
    pulses = _as_pulses(inputs)
    width = pulses[0].shape[1]
    still = np.zeros(width) if rest is None else np.asarray(rest, np.float64)
    if still.shape != (width,) or not np.isfinite(still).all():
        raise ValueError(f"rest: expected a finite input ({width},), the width of the pulses, got shape {still.shape}.")
    balls = trapping_balls_of(_Held(g, still), points)
    best: tuple[Any, ...] | None = None
    with interval_precision():
        program = let_in(g, balls.centers[0], still, name="g")
        for halvings in range(num_shares):
            share = 0.5**halvings
            found = _table(program, balls, pulses, still, share, max_steps, progress)
            if best is None or (found[0] >= 0).sum() > (best[1][0] >= 0).sum():
                best = share, found
            if (found[0] >= 0).all():
                break
    assert best is not None
    share, (labels, steps, ends, words) = best
    return CertifiedTransitions(
        inputs=tuple(pulses),
        rest=still,
        labels=labels,
        steps=steps,
        share=share,
        balls=balls,
        result=_verdicts(ends),
        reasons=tuple(tuple(row) for row in words),
    )


class CertifiedTransitions(Judged):
    """To which memory each of S pulses is proved to lead from each of K memories.

    - `inputs`: the pulses, a tuple of S arrays (T, I); `rest`: the input between them, (I,).
    - `labels`: the row of `points`, (K, S); -1 where nothing was proved.
    - `steps`: steps at rest until the ball is reached, (K, S).
    - `share`: of the radii of the trapping balls, what the pulses start from and arrive in.
    - `balls`: the `TrappingBalls` at the input `rest`.
    - `result`: a batch (K, S) of `DestinationVerdict`; `reasons`: K tuples of S texts, what stood in the way, with
        numbers; empty where it is proved.
    """

    inputs: tuple[Float[np.ndarray, "_ I"], ...]
    rest: Float[np.ndarray, " I"]
    labels: Int[np.ndarray, "K S"]
    steps: Int[np.ndarray, "K S"]
    share: float
    balls: TrappingBalls
    result: DestinationVerdict
    reasons: tuple[tuple[str, ...], ...]

    @property
    def proved(self) -> Any:
        """Which transitions are proved, (K, S)."""
        return is_verdict(self.result, DestinationVerdict.proved)

    @property
    def settling(self) -> int:
        """After how many steps at rest the next pulse may come, for the table to hold: of the proved transitions."""
        return int(self.steps[self.proved].max(initial=0))

    def table(self) -> str:
        shown = f"{int(self.proved.sum())} of {self.labels.size}"
        lines = [
            f"CertifiedTransitions: {shown} proved, from {self.share:g} of the trapping balls",
            f"  for any sequence of pulses with at least {self.settling} steps of rest between them",
            "  memory  " + "  ".join(f"pulse {s}" for s in range(min(len(self.inputs), 12))),
        ]
        for k in range(min(len(self.labels), 32)):
            row = ["?" if label < 0 else str(label) for label in self.labels[k, :12]]
            lines.append(f"  {k:6d}  " + "  ".join(f"{text:>{6 + len(str(s))}}" for s, text in enumerate(row)))
        words, counts = np.unique(self.message[~self.proved], return_counts=True)
        lines += [f"  {count:6d}  {word}" for word, count in zip(words, counts)]
        missing = np.argwhere(~self.proved)[:5]
        lines += [f"  pulse {s} from memory {k}: {self.reasons[k][s]}" for k, s in missing]
        return "\n".join(lines)


# --- helpers


class _Held(eqx.Module):
    """The driven map with its input held."""

    g: Callable
    held: np.ndarray

    def __call__(self, x: Array) -> Array:
        return self.g(x, self.held)


def _as_pulses(inputs: Any) -> list[np.ndarray]:
    if isinstance(inputs, list | tuple) and all(np.ndim(pulse) == 2 for pulse in inputs):
        pulses = [np.asarray(pulse, np.float64) for pulse in inputs]
    else:
        array = np.asarray(inputs, np.float64)
        if array.ndim not in (2, 3):
            raise ValueError(f"inputs: expected pulses (S, I), (S, T, I) or a list of (T, I), got shape {array.shape}.")
        pulses = list(array[:, None] if array.ndim == 2 else array)
    if not pulses or any(pulse.size == 0 for pulse in pulses):
        raise ValueError("inputs: expected at least one pulse of at least one step.")
    widths = {pulse.shape[1] for pulse in pulses}
    if len(widths) > 1:
        raise ValueError(f"inputs: expected pulses of one width, got {sorted(widths)}.")
    for s, pulse in enumerate(pulses):
        if not np.isfinite(pulse).all():
            raise ValueError(f"inputs: pulse {s} holds NaN or infinity.")
    return pulses


def _table(
    g: Callable,
    balls: TrappingBalls,
    pulses: list[np.ndarray],
    still: np.ndarray,
    share: float,
    max_steps: int,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[list[str]]]:
    """Labels, steps, ends and what stood in the way (K, S), with balls of one share.

    A memory counts only as all of its phases do.
    """
    targets, rows = balls.targets(share)
    num = len(balls)
    labels, steps = np.full((num, len(pulses)), -1), np.zeros((num, len(pulses)), int)
    ends = np.full((num, len(pulses)), journeys.BLURRED)
    words = [["the memory has no trapping ball"] * len(pulses) for _ in range(num)]
    if rows.size == 0:
        return labels, steps, ends, words
    start = Ellipsoids(balls.centers[rows], balls.factors[rows], balls.radii[rows] * share)
    shapes = {pulse.shape[0] for pulse in pulses}
    for length in sorted(shapes):
        which = [s for s, pulse in enumerate(pulses) if len(pulse) == length]
        sets = Ellipsoids(*(np.concatenate([a] * len(which)) for a in start))
        for t in range(length):
            inputs = np.repeat(np.stack([pulses[s][t] for s in which]), len(rows), axis=0)
            sets = advance(g, sets, inputs)
        found = journeys.follow_sets(
            g, sets, targets, max_steps, still, progress=progress, description="Following pulses"
        )
        arrived, took, how = (a.reshape(len(which), len(rows)) for a in (found.balls, found.steps, found.ends))
        owners = balls.owners[rows]
        for i, s in enumerate(which):
            for k in np.unique(balls.owners[rows]):
                own = balls.owners[rows] == k
                reached = np.where(arrived[i, own] >= 0, balls.owners[rows[arrived[i, own]]], -1)
                agree = (reached == reached[0]).all() and reached[0] >= 0
                labels[k, s] = reached[0] if agree else -1
                steps[k, s] = took[i, own].max()
                ends[k, s] = journeys.ARRIVED if agree else max(how[i, own].max(), journeys.TRAVELLING)
                lost = [i * len(rows) + j for j in np.flatnonzero(own) if how[i, j] != journeys.ARRIVED]
                words[k][s] = "" if agree else "its phases lead to different memories"
                if lost:
                    words[k][s] = (
                        f"the ball, at a share of {share:g}, {found.words(int(lost[0]), owners)}; or raise num_shares"
                    )
    return labels, steps, ends, words


def _verdicts(ends: np.ndarray) -> DestinationVerdict:
    return first_verdict(
        (ends == journeys.ARRIVED, DestinationVerdict.proved),
        (ends == journeys.BLURRED, DestinationVerdict.blurred),
        (ends == journeys.NOT_FINITE, DestinationVerdict.not_finite),
        otherwise=DestinationVerdict.not_arrived,
    )
