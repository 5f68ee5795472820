"""The dynamics of a network in one of its contexts: slow points, selection vectors, and the weight of evidence."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd


class Context(rd.Result):
    """The dynamics of one network in one context, with the streams off.

    - `slow`: its slow points.
    - `time_constants`: steps, of the slowest mode and the second slowest at each of them, `(M, 2)`.
    - `angles`: degrees between the selection vector and the effect of each stream on the state, `(M, 2)`, folded to
        [0, 90].
    - `angles_right`: the same for the right eigenvector, the direction of the line.
    - `weights`: of each stream in the output over the time at which it comes, `(bins, 2)`, in units of the mean of the
        stream that counts.
    """

    slow: rd.SlowPoints
    time_constants: np.ndarray
    angles: np.ndarray
    angles_right: np.ndarray
    weights: np.ndarray


def analyse_context(
    cell: Any,
    context: int,
    states: jax.Array,
    stimulus: np.ndarray,
    answer: np.ndarray,
    key: Any,
    *,
    num_candidates: int,
    length: int,
    num_bins: int,
) -> Context:
    """Slow points with the context held and the streams at zero, their modes, and the weight of evidence."""
    held = jnp.zeros(4).at[2 + context].set(1)
    f, driven = rd.as_map(cell, held), rd.as_driven_map(cell)
    candidates = rd.sample_candidates(states, num_candidates, key=key, noise=0.02)
    # A mode counts as slow when it takes as long as the longest trial, in units of tau; what is faster is let settle.
    slow = rd.find_slow_points(f, candidates, slow_time=length * float(f.dt), progress=False)
    angles, angles_right = [], []
    for point in slow.manifold.points:
        lin = rd.linearize(driven, point.astype(np.float32), held)
        mode = int(np.argmin(np.abs(1 - lin.multipliers)))
        left, right = np.real(lin.left[mode]), np.real(lin.right[:, mode])
        streams = np.asarray(lin.input_jacobian)[:, :2]
        angles.append([angle(left, streams[:, k]) for k in (0, 1)])
        angles_right.append([angle(right, streams[:, k]) for k in (0, 1)])
    with np.errstate(divide="ignore"):
        time_constants = 1 / np.abs(np.log(np.abs(slow.manifold.multipliers[:, :2])))
    return Context(
        slow, time_constants, np.array(angles), np.array(angles_right), weights_of(stimulus, answer, context, num_bins)
    )


def weights_of(stimulus: np.ndarray, answer: np.ndarray, context: int, num_bins: int) -> np.ndarray:
    """Least squares of the answer on both streams in bins of time, over the mean of the stream that counts."""
    bins = np.array_split(np.arange(stimulus.shape[1]), num_bins)
    # Sums, so that the bins may differ by a step.
    rows = np.stack([stimulus[:, steps].mean(axis=1) for steps in bins], axis=1)
    flat = np.concatenate([rows.reshape(len(rows), -1), np.ones((len(rows), 1))], axis=1)
    weights = np.linalg.lstsq(flat, answer, rcond=None)[0][:-1].reshape(num_bins, 2)
    return weights / weights[:, context].mean()


def angle(a: Any, b: Any) -> float:
    """Degrees between two lines, from 0 to 90."""
    cosine = abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.degrees(np.arccos(min(cosine, 1.0))))
