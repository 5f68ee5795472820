"""Dynamical similarity analysis: whether networks move alike, whatever basis they do it in."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Complex, Float
from scipy.optimize import linear_sum_assignment

from rnndyn._validation import check_at_least
from rnndyn.dynamics.comparison._delay_operators import LEAST_SIZE, Moments, moments, operator, whitened
from rnndyn.dynamics.comparison._procrustes_over_fields import Field, angles, random_turns, scaled
from rnndyn.dynamics.comparison._series import check_values
from rnndyn.dynamics.numerics.drivers import double_precision
from rnndyn.results import Result

_NUM_BLOCKS = 16
"""Into how many pieces the data of one network are cut at least, to be split into halves."""


def dynamical_similarity(
    trajectories: Sequence[ArrayLike] | ArrayLike,
    *,
    inputs: Sequence[ArrayLike] | ArrayLike | None = None,
    num_delays: int = 10,
    delay_interval: int = 1,
    rank: int = 10,
    num_starts: int = 4,
    num_splits: int = 50,
    seed: int = 0,
) -> "DynamicalSimilarity":
    r"""DSA: distances between the dynamics of M networks, up to an orthogonal change of basis, with p-values.

    The states of each network, less their mean, are embedded by delays, reduced to their `rank` leading principal
    coordinates of unit variance p, and carried one step on by a linear map, $p_{t+1} = A p_t + c$ (least squares). Two
    networks are as far apart as the best change of basis leaves them:

    $$\theta_{ij} = \min_{C \in O(r)} \arccos
        \frac{\operatorname{tr}(A_i^T\, C A_j C^T)}{\|A_i\|_F \|A_j\|_F} \;\in [0, \pi],$$

    which is $2 \arcsin \tfrac12 \min_C \|A_i - C A_j C^T\|_F$ for operators of norm 1. With inputs,
    $p_{t+1} = A p_t + B u_t + c$, and the cosine is the mean of that of A and of
    $\operatorname{tr}(B_i^T C B_j) / (\|B_i\| \|B_j\|)$: inputs have the same meaning in all networks.

    **Arguments:**

    - `trajectories`: of each network, (B, T, N) from B trials, or (T, N). N may differ, B and T may not.
    - `inputs`: what drove each network, (B, T, I) or (T, I): row t acts between rows t and t + 1. Without them, driven
        networks differ also by their input.
    - `num_delays`, `delay_interval`: the embedding, delays in units of the interval in steps. Enough of them make the
        fit linear.
    - `rank`: r, how many coordinates are kept. Also the least number of delays times N.
    - `num_starts`: random changes of basis to start from, of either determinant in turn, beside the spectral one.
    - `num_splits`: random halves of each network for the null.
    - `seed`: of starts and splits.

    **Returns:** a `DynamicalSimilarity`: distances (M, M) with p-values, and the distances of the spectra alone.

    **Raises:** `ValueError` for NaN or infinity, constant channels, other shapes, networks with different B or T,
    trials too short for the embedding, a rank beyond that of the data.

    *The null* is each network against itself: its trials (or, with fewer than 16, stretches of them) are split into
    random halves, and $\theta$ is taken between the operators of the halves. The p-value of a pair is the share of the
    halvings of either network that are at least as far apart, $(1 + \#) / (1 + 2 \cdot splits)$. Halves are noisier
    than wholes, so p is on the safe side. It answers whether two networks differ at all, which by enough data all do;
    the distances say by how much. The search for C is not convex: more starts can only lower a distance.

    A driver: it computes in float64, all pairs in one program.

    ??? cite "Reference"
        M. Ostrow, A. Eisen, L. Kozachkov & I. Fiete (2023), "Beyond geometry: comparing the temporal structure of
        computation in neural circuits with dynamical similarity analysis", NeurIPS; A. Huang, M. Ostrow, S. Kumar, L.
        Kozachkov, A. Ahamed & I. Fiete (2025), "InputDSA: demixing then comparing recurrent and externally driven
        dynamics", arXiv; Z. Wen & W. Yin (2013), "A feasible method for optimization with orthogonality constraints",
        Mathematical Programming 142; W. T. Redman et al. (2024), "Identifying equivalent training dynamics", NeurIPS
        (distances of spectra).
    """
    for name, value, least in (
        ("num_delays", num_delays, 1),
        ("delay_interval", delay_interval, 1),
        ("rank", rank, 1),
        ("num_starts", num_starts, 0),
        ("num_splits", num_splits, 1),
    ):
        check_at_least(name, value, least)
    networks, drives = check_trials(trajectories, inputs, num_delays, delay_interval, rank)
    if len(networks) < 2:
        raise ValueError(f"trajectories: expected at least two networks, got {len(networks)}.")
    num_trials = networks[0].shape[0]
    with double_precision():
        # Inputs of unit size: their scale is one, for all networks, and goes into B.
        scale = np.sqrt(np.mean([np.mean(u**2, axis=(0, 1)) for u in drives], axis=0))
        drives = [u / np.where(scale > 0, scale, 1) for u in drives]
        num_blocks = max(_NUM_BLOCKS, num_trials)
        # Small arrays from here on: put together on the host, where that needs no compilation.
        found = [
            jax.device_get(moments(x, u, num_delays, delay_interval, rank, num_blocks))
            for x, u in zip(networks, drives)
        ]
        variances = [np.asarray(part.sizes) ** 2 for part in found]
        for index, variance in enumerate(variances):
            check_rank(index, variance, rank)
        sums = Moments(*(np.stack(parts) for parts in zip(*(part[:3] for part in found))), np.zeros(len(found)))  # pyright: ignore[reportCallIssue]
        halves = _random_halves(num_splits, sums.now.shape[1], np.random.default_rng(seed))
        wholes = _operators(sums, np.ones((1, halves.shape[1])), rank)
        split = [_operators(sums, weights, rank) for weights in (halves, 1 - halves)]
        turns = random_turns(num_starts, rank, seed)
        distances = _all_pairs(jax.device_get(_scaled(wholes)), turns)
        # Halves of one network are in one basis, but for what whitening did.
        flat = [Field(*(np.concatenate(part) for part in jax.device_get(_scaled(field)))) for field in split]
        null = np.asarray(angles(*flat, turns[:0])).reshape(len(networks), num_splits)
        operators = np.asarray(wholes.a)[:, 0]
    explained = np.array([variance[:rank].sum() / variance.sum() for variance in variances])
    spectra = np.stack([_sorted_eigenvalues(a) for a in operators])
    return DynamicalSimilarity(
        distances=distances,
        p_values=_p_values(distances, null),
        null_distances=null,
        spectral_distances=_spectral_distances(spectra),
        operators=operators,
        eigenvalues=spectra,
        explained_variance=explained,
    )


class DynamicalSimilarity(Result):
    """How far the dynamics of M networks are apart.

    - `distances`: angles in radians, 0 for conjugate dynamics, (M, M).
    - `p_values`: of each pair, that one system shows such a distance from itself, (M, M); 1 on the diagonal.
    - `null_distances`: between random halves of each network, (M, S).
    - `spectral_distances`: Wasserstein distances (order 2) of the eigenvalues of the operators, (M, M): no basis, and
        no search, but blind to how far from normal an operator is.
    - `operators`: A of each network, (M, r, r).
    - `eigenvalues`: of the operators, by falling modulus, (M, r).
    - `explained_variance`: the share of the variance of the embedding that the r coordinates hold, (M,).
    """

    distances: Float[np.ndarray, "M M"]
    p_values: Float[np.ndarray, "M M"]
    null_distances: Float[np.ndarray, "M S"]
    spectral_distances: Float[np.ndarray, "M M"]
    operators: Float[np.ndarray, "M r r"]
    eigenvalues: Complex[np.ndarray, "M r"]
    explained_variance: Float[np.ndarray, " M"]

    def table(self) -> str:
        upper = np.triu_indices(len(self.distances), 1)
        pairs, p = self.distances[upper], self.p_values[upper]
        bar = np.quantile(self.null_distances, 0.99)
        return (
            f"Dynamical similarity of {len(self.distances)} networks, rank {self.operators.shape[1]}\n"
            f"  distances of pairs     {pairs.min():.3g} to {pairs.max():.3g} rad, median {np.median(pairs):.3g}\n"
            f"  a network from itself  {np.median(self.null_distances):.3g}, 99 % below {bar:.3g}\n"
            f"  pairs with p <= 0.01   {int(np.sum(p <= 0.01))} of {len(p)}\n"
            f"  explained variance     {self.explained_variance.min():.1%} or more"
        )


def check_trials(
    trajectories: Any, inputs: Any, num_delays: int, interval: int, rank: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The trials of each network (B, T, N) and its inputs (B, T, I), I = 0 without any; or a `ValueError`."""
    networks = [_as_trials(f"trajectories[{k}]", series) for k, series in enumerate(trajectories)]
    for k, trials in enumerate(networks):
        if trials.shape[:2] != networks[0].shape[:2]:
            raise ValueError(
                f"trajectories[{k}]: expected {networks[0].shape[0]} trials of {networks[0].shape[1]} steps like "
                f"trajectories[0], got {trials.shape[0]} of {trials.shape[1]}. Networks are compared on equal amounts "
                "of data, sampled alike: cut or resample them."
            )
        check_values(f"trajectories[{k}]", trials.reshape(-1, trials.shape[2]), varies=True)
        if trials.shape[2] * num_delays < rank:
            raise ValueError(
                f"rank: {rank} coordinates are asked of {num_delays} delays of {trials.shape[2]} channels "
                f"(trajectories[{k}]). Lower rank, or raise num_delays."
            )
    num_steps = networks[0].shape[1] if networks else 0
    lost = (num_delays - 1) * interval
    blocks = -(-_NUM_BLOCKS // networks[0].shape[0]) if networks else 1
    if num_steps - lost - 1 < 2 * blocks:
        raise ValueError(
            f"trajectories: {num_steps} steps are too short for {num_delays} delays of {interval} steps. Lower "
            "num_delays or delay_interval, or take longer trials."
        )
    if inputs is None:
        return networks, [np.zeros((*trials.shape[:2], 0)) for trials in networks]
    drives = [_as_trials(f"inputs[{k}]", series) for k, series in enumerate(inputs)]
    if len(drives) != len(networks):
        raise ValueError(f"inputs: expected those of {len(networks)} networks, got {len(drives)}.")
    for k, (drive, trials) in enumerate(zip(drives, networks)):
        if drive.shape[:2] != trials.shape[:2] or drive.shape[2] != drives[0].shape[2]:
            raise ValueError(
                f"inputs[{k}]: expected shape {(*trials.shape[:2], drives[0].shape[2])}, got {drive.shape}."
            )
        check_values(f"inputs[{k}]", drive.reshape(-1, drive.shape[2]), varies=True)
    return networks, drives


def check_rank(index: int, variance: np.ndarray, rank: int) -> None:
    """Raise where the data of a network have fewer independent coordinates than asked for."""
    independent = int(np.sum(variance > LEAST_SIZE**2 * variance[0]))
    if independent < rank:
        raise ValueError(
            f"rank: the embedding of trajectories[{index}] has {independent} independent coordinates, fewer than "
            f"{rank}. Lower rank."
        )


def _as_trials(name: str, series: Any) -> np.ndarray:
    array = np.asarray(series, np.float64)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"{name}: expected trials of shape (B, T, N), or one (T, N), got shape {array.shape}.")
    return array[None] if array.ndim == 2 else array


def _random_halves(num_splits: int, num_blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Which blocks are in the first half, `(num_splits, num_blocks)` of 0 and 1."""
    order = np.argsort(rng.random((num_splits, num_blocks)), axis=1)
    return (order < num_blocks // 2).astype(float)


@functools.partial(jax.jit, static_argnums=2)
def _operators(sums: Moments, weights: Any, rank: int) -> Field:
    """The field of each network with each set of weights, `(M, S, ...)`."""

    def one(network: Moments, weight: Any) -> Field:
        return Field(*operator(whitened(network, weight, rank), rank))

    return jax.vmap(lambda network: jax.vmap(lambda weight: one(network, weight))(weights))(sums)


@jax.jit
def _scaled(fields: Field) -> Field:
    return jax.vmap(jax.vmap(scaled))(*fields)


def _all_pairs(fields: Field, turns: np.ndarray) -> np.ndarray:
    num = len(fields.a)
    i, j = np.triu_indices(num, 1)
    found = np.asarray(angles(*(Field(*(part[k, 0] for part in fields)) for k in (i, j)), turns))
    distances = np.zeros((num, num))
    distances[i, j] = distances[j, i] = found
    return distances


def _p_values(distances: np.ndarray, null: np.ndarray) -> np.ndarray:
    beyond = np.sum(null[:, None, :] >= distances[:, :, None], axis=2)
    p = (1 + beyond + beyond.T) / (1 + 2 * null.shape[1])
    np.fill_diagonal(p, 1.0)
    return p


def _sorted_eigenvalues(matrix: np.ndarray) -> np.ndarray:
    values = np.linalg.eigvals(matrix).astype(complex)
    return values[np.argsort(-np.abs(values))]


def _spectral_distances(spectra: np.ndarray) -> np.ndarray:
    num = len(spectra)
    distances = np.zeros((num, num))
    for i, j in zip(*np.triu_indices(num, 1)):
        cost = np.abs(spectra[i][:, None] - spectra[j]) ** 2
        distances[i, j] = distances[j, i] = np.sqrt(cost[linear_sum_assignment(cost)].mean())
    return distances
