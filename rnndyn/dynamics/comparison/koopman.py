"""Eigenvalues of the Koopman operator from data, with residuals that tell which of them are there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Bool, Complex, Float

from rnndyn._validation import check_at_least
from rnndyn.dynamics.comparison._delay_operators import moments, whitened
from rnndyn.dynamics.comparison.similarity import check_rank, check_trials
from rnndyn.dynamics.comparison.verdicts import KoopmanVerdict
from rnndyn.dynamics.numerics.drivers import double_precision
from rnndyn.results import Judged, first_verdict


def koopman_spectrum(
    trajectories: ArrayLike | Sequence[ArrayLike],
    *,
    num_delays: int = 10,
    delay_interval: int = 1,
    rank: int = 10,
    tol: float = 0.1,
) -> "KoopmanSpectrum":
    r"""Eigenvalues of the Koopman operator on delay coordinates, each with the residual of its eigenfunction.

    On the leading principal coordinates $\psi$ of the delay-embedded states, $K = \arg\min \sum_t \|\psi(x_{t+1})^T -
    \psi(x_t)^T K\|^2$; for $K g = \lambda g$ the eigenfunction $\phi = \psi^T g$ should obey $\phi(F(x)) =
    \lambda \phi(x)$, and misses it by

    $$\mathrm{res}(\lambda, g) = \sqrt{\frac{g^* (L - \lambda A^* - \bar\lambda A + |\lambda|^2 G)\, g}{g^* G g}},
    \qquad G = \langle \psi \psi^* \rangle,\; A = \langle \psi \psi'^* \rangle,\; L = \langle \psi' \psi'^* \rangle.$$

    A finite matrix always has eigenvalues; those with a large residual are of the truncation, not of the dynamics.

    **Arguments:**

    - `trajectories`: trials (B, T, N), or one series (T, N), of one system.
    - `num_delays`, `delay_interval`, `rank`: as in `dynamical_similarity`.
    - `tol`: the residual from which on an eigenvalue counts as spurious: $\epsilon$ predicts about $1/\epsilon$ steps.

    **Returns:** a `KoopmanSpectrum`.

    **Raises:** `ValueError` for NaN or infinity, constant channels, other shapes, trials too short for the embedding, a
    rank beyond that of the data, a `tol` that is not positive.

    The mean of the states is taken off first, so that the constant function, whose eigenvalue is 1, is not among them.
    A residual at or below `tol` shows that $\lambda$ lies in the approximate point spectrum, up to the error of the
    averages over the data; a large one shows nothing about other functions. A driver: it computes in float64.

    ??? cite "Reference"
        M. J. Colbrook & A. Townsend (2024), "Rigorous data-driven computation of spectral properties of Koopman
        operators for dynamical systems", Communications on Pure and Applied Mathematics 77 (arXiv 2021); H. Arbabi & I.
        Mezić (2017), "Ergodic theory, dynamic mode decomposition, and computation of spectral properties of the Koopman
        operator", SIAM Journal on Applied Dynamical Systems 16 (delay coordinates).
    """
    for name, value in (("num_delays", num_delays), ("delay_interval", delay_interval), ("rank", rank)):
        check_at_least(name, value, 1)
    if not tol > 0:
        raise ValueError(f"tol: expected a positive residual, got {tol}.")
    series: Any = np.asarray(trajectories, np.float64)
    (trials,), (inputs,) = check_trials([series], None, num_delays, delay_interval, rank)
    with double_precision():
        sums = moments(trials, inputs, num_delays, delay_interval, rank, len(trials))
        check_rank(0, np.asarray(sums.sizes) ** 2, rank)
        gram, across, later, sizes = (np.asarray(part) for part in whitened(sums, np.ones(len(trials)), rank))
    matrix = np.linalg.solve(gram, across)
    values, functions = np.linalg.eig(matrix)
    order = np.argsort(-np.abs(values), kind="stable")
    values, functions = values[order].astype(complex), functions[:, order].astype(complex)
    return KoopmanSpectrum(
        eigenvalues=values,
        residuals=_residuals(values, functions, gram, across, later),
        matrix=matrix,
        tol=float(tol),
        explained_variance=float(np.sum(sizes[:rank] ** 2) / np.sum(sizes**2)),
    )


class KoopmanSpectrum(Judged):
    """Eigenvalues of the Koopman operator with their residuals, by falling modulus.

    - `eigenvalues`: per step, (r,).
    - `residuals`: the root mean square by which each eigenfunction, of mean square 1, misses its equation, (r,).
    - `matrix`: K, (r, r).
    - `tol`: up to which residual an eigenvalue is taken for one.
    - `explained_variance`: the share of the variance of the embedding that the r coordinates hold.
    """

    eigenvalues: Complex[np.ndarray, " r"]
    residuals: Float[np.ndarray, " r"]
    matrix: Float[np.ndarray, "r r"]
    tol: float
    explained_variance: float

    @property
    def is_spurious(self) -> Bool[np.ndarray, " r"]:
        """Which eigenvalues are not shown to be ones of the dynamics."""
        return self.residuals > self.tol

    @property
    def result(self) -> Any:
        """The verdict of each eigenvalue, a batch of `KoopmanVerdict`."""
        return first_verdict((self.is_spurious, KoopmanVerdict.spurious), otherwise=KoopmanVerdict.resolved)

    def table(self) -> str:
        lines = [
            f"KoopmanSpectrum: {int(np.sum(~self.is_spurious))} of {len(self.eigenvalues)} eigenvalues resolved",
            "      modulus  angle (rad)  residual",
        ]
        for value, residual, spurious in zip(self.eigenvalues, self.residuals, self.is_spurious):
            mark = "  spurious" if spurious else ""
            lines.append(f"  {abs(value):>11.6f} {np.angle(value):>12.6f} {residual:>9.2g}{mark}")
        return "\n".join(lines)


def _residuals(
    values: np.ndarray, functions: np.ndarray, gram: np.ndarray, across: np.ndarray, later: np.ndarray
) -> np.ndarray:
    """The residual of each pair; `across` is the sum of psi psi'^T, all sums real."""
    residuals = []
    for value, g in zip(values, functions.T):
        # sum |g^T psi' - lambda g^T psi|^2, multiplied out.
        cross = g.conj() @ across @ g
        square = g.conj() @ later @ g - 2 * np.real(np.conj(value) * cross) + np.abs(value) ** 2 * (g.conj() @ gram @ g)
        residuals.append(np.sqrt(max(square.real, 0.0) / (g.conj() @ gram @ g).real))
    return np.array(residuals)
