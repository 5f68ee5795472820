"""D_stsp: how differently two systems fill state space."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.dynamics.comparison._series import check_pair, check_series

MOST_BINNED = 5
"""Series of more channels are compared by mixtures of Gaussians, as their authors do: bins then hold a point each."""


def state_space_divergence(
    x: ArrayLike,
    y: ArrayLike,
    *,
    method: str = "auto",
    num_bins: int = 30,
    smoothing: float = 1e-5,
    bounds: tuple[ArrayLike, ArrayLike] | None = None,
    variance: float = 1.0,
    num_samples: int = 1000,
    max_points: int = 10_000,
    key: PRNGKeyArray | None = None,
) -> Float[Array, ""]:
    r"""D_stsp: the Kullback-Leibler divergence of where a copy's states lie from where the system's do.

    $$D_{stsp} = \sum_k p_k \ln \frac{p_k}{q_k}$$

    *By bins*: p and q are the shares of the states of x and y in the cells of a grid, `num_bins` to a dimension, with
    Laplace smoothing: $p_k = (n_k + \alpha) / (\sum_j n_j + \alpha K)$ over all K cells. The grid reaches from
    $\min x - 0.1 \sigma$ to $\max x + 0.1 \sigma$ in each dimension, and states outside of it are left out.

    *By mixtures*: p and q are mixtures of Gaussians, one around each of the first `max_points` states, of the given
    variance in every direction, and the mean of $\ln p - \ln q$ is taken over `num_samples` draws from p.

    **Arguments:**

    - `x`: the system, (T, N).
    - `y`: the copy, (T', N).
    - `method`: `"bins"`, `"mixture"` or `"auto"`: bins up to five channels.
    - `num_bins`: cells to a dimension.
    - `smoothing`: $\alpha$, in states per cell.
    - `bounds`: lower and upper corner of the grid, (N,) each, in place of the range of x.
    - `variance`: of each Gaussian, in squared units of the state: the default is meant for series standardised by x.
    - `num_samples`, `max_points`: of the mixtures.
    - `key`: of the draws; `jax.random.key(0)` by default.

    **Returns:** the divergence in nats, 0 where p and q agree. It is not symmetric.

    **Raises:** `ValueError` for other shapes, different channels, NaN or infinity, a constant channel of x (under `jit`
    the result is NaN or infinite instead), or options out of range.

    Definition and defaults are those of the code of Hess et al. (GTF-shPLRNN: 30 bins, $\alpha = 10^{-5}$, the range
    of the data with a tenth of a standard deviation on either side). Brenner et al. (2022) take a grid from
    $-2 \sigma$ to $2 \sigma$ of standardised data: pass it as `bounds`. Their first code also drops the lowest cell of
    each dimension, which is not done here. Numbers depend on the grid and on T: a cell that y never visits costs
    $p_k \ln (p_k T' / \alpha)$. Compare two halves of the system first. Where all of y is outside, smoothing leaves it
    uniform over the grid. The mixtures here do not drop samples of vanishing likelihood, as that code does, but compute
    logarithms. Pure: `jit` and `vmap` work. Counts cost O((T + T') log(T + T')), whatever the number of cells.

    ??? cite "Reference"
        G. Koppe, H. Toutounji, P. Kirsch, S. Lis & D. Durstewitz (2019), "Identifying nonlinear dynamical systems via
        generative recurrent neural networks", PLoS Computational Biology 15; M. Brenner et al. (2022), "Tractable
        dendritic RNNs for reconstructing nonlinear dynamical systems", ICML; F. Hess, Z. Monfared, M. Brenner & D.
        Durstewitz (2023), "Generalized teacher forcing for learning chaotic dynamics", ICML; J. Hershey & P. Olsen
        (2007), "Approximating the Kullback Leibler divergence between Gaussian mixture models", ICASSP.
    """
    x = check_series("x", x, varies=True)
    y = check_series("y", y, least=1)
    check_pair(x, y, same_length=False)
    check_at_least("num_bins", num_bins, 1)
    check_at_least("num_samples", num_samples, 1)
    check_at_least("max_points", max_points, 1)
    for name, value in (("smoothing", smoothing), ("variance", variance)):
        if not value > 0:
            raise ValueError(f"{name}: expected a positive number, got {value}.")
    if method not in ("auto", "bins", "mixture"):
        raise ValueError(f'method: expected "auto", "bins" or "mixture", got {method!r}.')
    dtype = jnp.promote_types(x.dtype, y.dtype)
    x, y = x.astype(dtype), y.astype(dtype)
    if method == "bins" or (method == "auto" and x.shape[1] <= MOST_BINNED):
        lower, upper = default_bounds(x) if bounds is None else _corners(bounds, x)
        return binned_divergence(x, y, lower, upper, num_bins, smoothing)
    if bounds is not None:
        raise ValueError('bounds: mixtures have no grid. Leave it out, or pass method="bins".')
    key = jax.random.key(0) if key is None else key
    return mixture_divergence(x[:max_points], y[:max_points], variance, num_samples, key)


@jax.jit
def default_bounds(x: Float[Array, "T N"]) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """The range of the data and a tenth of a standard deviation on either side."""
    margin = 0.1 * jnp.std(x, axis=0, ddof=1)
    return jnp.min(x, axis=0) - margin, jnp.max(x, axis=0) + margin


def _corners(bounds: tuple[ArrayLike, ArrayLike], x: Array) -> tuple[Array, Array]:
    lower, upper = (jnp.asarray(corner, x.dtype) for corner in bounds)
    if lower.shape != x.shape[1:] or upper.shape != x.shape[1:]:
        raise ValueError(
            f"bounds: expected two corners of shape {x.shape[1:]}, got {np.shape(lower)} and {np.shape(upper)}."
        )
    return lower, upper


@functools.partial(jax.jit, static_argnames="num_bins")
def binned_divergence(
    x: Float[Array, "T N"],
    y: Float[Array, "S N"],
    lower: Float[Array, " N"],
    upper: Float[Array, " N"],
    num_bins: int,
    smoothing: ArrayLike,
) -> Float[Array, ""]:
    """D_stsp on a grid. A state that is not finite lies outside of it, like any other that is in no cell."""
    states = jnp.concatenate([x, y])
    places = jnp.floor(num_bins * (states - lower) / (upper - lower))
    inside = jnp.all((places >= 0) & (places < num_bins), axis=1)
    # Whatever lies outside goes to one cell of its own, which is not counted.
    cells = jnp.where(inside[:, None], places, num_bins).astype(jnp.int32)
    of_x = jnp.arange(states.shape[0]) < x.shape[0]
    # Sorted, equal cells are neighbours: no array of all the cells is ever made.
    *columns, of_x = jax.lax.sort((*cells.T, of_x), num_keys=x.shape[1])
    cells = jnp.stack(columns, axis=1)
    is_new = jnp.any(cells[1:] != cells[:-1], axis=1)
    number = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(is_new, dtype=jnp.int32)])
    counted = cells[:, 0] < num_bins
    num_cells = float(num_bins) ** x.shape[1]

    def shares(which: Array) -> tuple[Array, Array, Array]:
        """How many states each visited cell holds, the share that gives it, and that of a cell that holds none."""
        held = jnp.zeros(states.shape[0], x.dtype).at[number].add((which & counted).astype(x.dtype))
        total = jnp.sum(held) + smoothing * num_cells
        return held, (held + smoothing) / total, smoothing / total  # pyright: ignore[reportReturnType]

    held_by_x, p, p_empty = shares(of_x)
    held_by_y, q, q_empty = shares(~of_x)
    visited = held_by_x + held_by_y > 0
    empty = (num_cells - jnp.sum(visited)) * p_empty * jnp.log(p_empty / q_empty)
    return (jnp.sum(jnp.where(visited, p * jnp.log(p / q), 0)) + empty).astype(x.dtype)


@functools.partial(jax.jit, static_argnames="num_samples")
def mixture_divergence(
    x: Float[Array, "T N"], y: Float[Array, "S N"], variance: ArrayLike, num_samples: int, key: PRNGKeyArray
) -> Float[Array, ""]:
    """D_stsp between mixtures of one Gaussian around each state: the mean of ln p - ln q over draws from p."""
    index_key, noise_key = jax.random.split(key)
    index = jax.random.randint(index_key, (num_samples,), 0, x.shape[0])
    noise = jax.random.normal(noise_key, (num_samples, x.shape[1]), x.dtype)
    samples = x[index] + jnp.sqrt(jnp.asarray(variance, x.dtype)) * noise

    def log_density(sample: Array, centres: Array) -> Array:
        squares = jnp.sum((sample - centres) ** 2, axis=1)
        # The normalisation of the Gaussians is the same in p and q.
        return jax.nn.logsumexp(-squares / (2 * jnp.asarray(variance, x.dtype))) - jnp.log(float(centres.shape[0]))

    difference = lambda sample: log_density(sample, x) - log_density(sample, y)
    return jnp.mean(jax.lax.map(difference, samples, batch_size=32)).astype(x.dtype)
