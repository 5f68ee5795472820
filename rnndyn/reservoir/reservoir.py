"""Echo state networks: made at random, trained by ridge regression, run in closed loop."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.maps import CellMap, as_map
from rnndyn.networks.unroll import unroll
from rnndyn.reservoir.cells import ClosedLoopCell, ReservoirCell, features
from rnndyn.reservoir.ridge import check_ridge, gram, solve
from rnndyn.tasks.dynamical_systems.series import Series, Standardization, as_series, check_complete


def reservoir(
    input_size: int,
    num_units: int = 300,
    *,
    spectral_radius: float = 0.9,
    leak: float = 1.0,
    input_scaling: float = 0.1,
    bias_scaling: float = 0.1,
    num_connections: int = 6,
    squares: bool = True,
    key: PRNGKeyArray,
) -> "Reservoir":
    r"""An echo state network: a sparse random network that a signal drives, of which only the readout is learned.

    $$r_{t+1} = (1 - a)\, r_t + a \tanh(W r_t + W_{in} u_t + b), \qquad y_t = W_{out}\, \phi(r_t) + c$$

    W has on average `num_connections` entries in a row, uniform on [-1, 1], and is scaled to its spectral radius.

    **Arguments:**

    - `input_size`: variables of the signal, I.
    - `num_units`: H.
    - `spectral_radius`: of W, at least 0. Memory grows with it; below 1 the network usually forgets where it started.
    - `leak`: a in (0, 1]: small for signals that are slow against a step.
    - `input_scaling`: entries of $W_{in}$ are uniform on ± this, for signals of standard deviation 1.
    - `bias_scaling`: entries of b are uniform on ± this.
    - `num_connections`: the mean number of units that a unit hears of, above 0 and at most H.
    - `squares`: read out the squares of every second unit in place of the unit. Without them and without bias the
        network is odd: it can only learn systems that are the same for -y.
    - `key`: fixes the weights.

    **Returns:** a `Reservoir`; `.fit(series)` trains it.

    **Raises:** `ValueError` for sizes, scales or a leak out of range.

    Weights are float64 and W is stored as a full matrix. Called from Python: eigenvalues are computed on the host.

    ??? cite "Reference"
        H. Jaeger & H. Haas (2004), "Harnessing nonlinearity: predicting chaotic systems and saving energy in wireless
        communication", Science 304, 78-80; J. Pathak, Z. Lu, B. R. Hunt, M. Girvan & E. Ott (2017), "Using machine
        learning to replicate chaotic attractors and calculate Lyapunov exponents from data", Chaos 27, 121102.
    """
    check_settings(spectral_radius, leak, input_scaling, bias_scaling)
    weights = random_weights(input_size, num_units, num_connections, key)
    with jax.enable_x64(True):
        cell = scaled_cell(weights, spectral_radius, leak, input_scaling, bias_scaling)
    return Reservoir(jax.tree.map(np.asarray, cell), squares)


class Reservoir(eqx.Module):
    """A random network with its readout still to be learned; made by `reservoir`.

    `cell` is the driven network, a cell like any other; `fit` learns the readout by ridge regression and closes the
    loop. With `squares` the readout reads the squares in place of every second unit.
    """

    cell: ReservoirCell
    squares: bool = eqx.field(static=True)

    def fit(self, series: Any, *, ridge: float = 1e-6, num_washout: int = 100) -> "TrainedReservoir":
        r"""Learn the readout that says the next sample, by ridge regression.

        $$\min_{W_{out}, c} \; \frac1T \sum_t \bigl\| W_{out}\, \phi(r_t) + c - u_t \bigr\|^2
        + \beta\, \| W_{out} \|^2,$$

        where $r_t$ has seen the signal up to $u_{t-1}$.

        **Arguments:**

        - `series`: a `Series`, or arrays that `rnndyn.tasks.dynamical_systems.as_series` takes. One that is not
            standardised is standardised here, and predictions come back in its units.
        - `ridge`: β, above 0: the smaller, the closer the fit; too small, and the closed loop runs away.
        - `num_washout`: samples at the beginning of each series that only drive the network, until it has forgotten
            where it started.

        **Returns:** a `TrainedReservoir`.

        **Raises:** `ValueError` for a series of other variables or too short, or a `ridge` that is not positive.
        """
        check_ridge(ridge)
        series = prepare(series, self.cell.input_size, num_washout)
        with jax.enable_x64(True):
            cell = jax.tree.map(jnp.asarray, self.cell)
            sums = gram(cell, jnp.asarray(series.values), num_washout, self.squares)
            weight, bias, error = jax.tree.map(np.asarray, solve(sums, ridge))
        return TrainedReservoir(
            ClosedLoopCell(self.cell, weight, bias, self.squares), series.scale, series.dt, np.sqrt(error)
        )


class TrainedReservoir(eqx.Module):
    """A network that has learned to continue a signal; made by `Reservoir.fit`.

    The readout feeds the input, so the closed loop is an autonomous map on the units: `map`, for every analysis.
    `synchronize` brings the units to where a signal has left them, `output` reads the signal off their states.
    """

    cell: ClosedLoopCell
    """The closed loop, a cell without input: `rnndyn.as_map(trained.cell)` is `trained.map`."""
    scale: Standardization
    """What brings the signal to the units of the network."""
    dt: float = eqx.field(static=True)
    """The time of one step."""
    training_error: np.ndarray
    """Root mean square error of one step on the training series, in standard deviations, for each variable (I,)."""

    @property
    def map(self) -> CellMap:
        """The closed loop as an autonomous map on the units (H,); its `region` is the box between -1 and 1."""
        return as_map(self.cell)

    def output(self, states: Any) -> np.ndarray:
        """The signal (..., I), in the units of the series, at states (..., H) of the closed loop."""
        with jax.enable_x64(True):
            read = jnp.asarray(features(jnp.asarray(states), self.cell.squares)) @ self.cell.weight_out.T
            return self.scale.invert(np.asarray(read + self.cell.bias_out))

    def synchronize(self, values: Any) -> Float[np.ndarray, "K H"]:
        """The states of the units after they have seen a signal: where a prediction starts.

        **Arguments:**

        - `values`: signals (K, T, I) in the units of the series, long enough for the network to forget its start.

        **Returns:** the states (K, H), which say what comes after the last sample.

        **Raises:** `ValueError` for another shape, or NaN.
        """
        values = np.asarray(values, float)
        size = self.cell.reservoir.input_size
        if values.ndim != 3 or values.shape[2] != size or values.shape[1] == 0:
            raise ValueError(f"values: expected signals of shape (K, T, {size}), got {values.shape}.")
        if not np.isfinite(values).all():
            raise ValueError("values: expected finite samples, got NaN or infinity.")
        with jax.enable_x64(True):
            return np.asarray(_drive(self.cell.reservoir, jnp.asarray(self.scale.apply(values))))

    def predict(self, values: Any, num_steps: int) -> Float[np.ndarray, "K S I"]:
        """What comes after each signal, by the network alone.

        **Arguments:**

        - `values`: signals (K, T, I) as in `synchronize`.
        - `num_steps`: S, how far.

        **Returns:** the continuations (K, S, I), in the units of the series: row 0 follows the last sample given.
        """
        check_at_least("num_steps", num_steps, 1)
        states = self.synchronize(values)
        with jax.enable_x64(True):
            return self.scale.invert(np.asarray(_run(self.cell, jnp.asarray(states), num_steps)))


class RandomWeights(eqx.Module):
    """Weights before they are scaled: W with spectral radius 1, the others on [-1, 1]."""

    weight_hh: Float[np.ndarray, "H H"]
    weight_ih: Float[np.ndarray, "H I"]
    bias: Float[np.ndarray, " H"]


def random_weights(input_size: int, num_units: int, num_connections: int, key: PRNGKeyArray) -> RandomWeights:
    """The random weights of `reservoir`, unscaled."""
    check_at_least("input_size", input_size, 1)
    check_at_least("num_units", num_units, 1)
    if not 0 < num_connections <= num_units:
        raise ValueError(f"num_connections: expected 1 to num_units = {num_units}, got {num_connections}.")
    mask_key, hh_key, ih_key, bias_key = jax.random.split(key, 4)
    with jax.enable_x64(True):
        draw = lambda key, shape: np.array(jax.random.uniform(key, shape, minval=-1.0, maxval=1.0, dtype="float64"))
        weight_hh = draw(hh_key, (num_units, num_units))
        connected = jax.random.bernoulli(mask_key, num_connections / num_units, (num_units, num_units))
        weight_hh *= np.asarray(connected)
        radius = np.abs(np.linalg.eigvals(weight_hh)).max()
        # A very sparse network may have no loop: its powers vanish, and no scale gives it another radius.
        if radius < 1e-8:
            raise ValueError(
                f"num_connections: with {num_connections} in a row this network of {num_units} units has no loops, and "
                "its spectral radius is 0. Take more, or another key."
            )
        return RandomWeights(weight_hh / radius, draw(ih_key, (num_units, input_size)), draw(bias_key, (num_units,)))


def scaled_cell(weights: RandomWeights, radius: Any, leak: Any, input_scaling: Any, bias_scaling: Any) -> ReservoirCell:
    """The cell of these settings, numbers or traced."""
    return ReservoirCell(
        jnp.asarray(weights.weight_hh) * radius,
        jnp.asarray(weights.weight_ih) * input_scaling,
        jnp.asarray(weights.bias) * bias_scaling,
        jnp.asarray(leak, weights.bias.dtype),
    )


def check_settings(spectral_radius: Any, leak: Any, input_scaling: Any, bias_scaling: Any) -> None:
    """Raise unless every setting, a number or several, is in its range."""
    scales = {"spectral_radius": spectral_radius, "input_scaling": input_scaling, "bias_scaling": bias_scaling}
    for name, value in scales.items():
        if not (np.isfinite(value) & (np.asarray(value) >= 0)).all():
            raise ValueError(f"{name}: expected a number of at least 0, got {value}.")
    if not ((np.asarray(leak) > 0) & (np.asarray(leak) <= 1)).all():
        raise ValueError(f"leak: expected a number above 0 and at most 1, got {leak}.")


def prepare(series: Any, input_size: int | None, num_washout: int) -> Series:
    """The series, standardised, long enough for the washout and one step."""
    check_at_least("num_washout", num_washout, 0)
    series = series if isinstance(series, Series) else as_series(series)
    check_complete(series)
    series = series if series.scale is not None else series.standardize()
    if input_size is not None and series.num_variables != input_size:
        raise ValueError(f"series: expected {input_size} variables, the inputs, got {series.num_variables}.")
    if series.num_steps < num_washout + 2:
        raise ValueError(
            f"series: {series.num_steps} samples are too few for a washout of {num_washout} and one step to learn."
        )
    return series


@compiled
def _drive(cell: ReservoirCell, values: Array) -> Array:
    return jax.vmap(lambda signal: unroll(cell, signal)[-1])(values)


@compiled
def _run(cell: ClosedLoopCell, states: Array, num_steps: int) -> Array:
    def step(state: Array, _: None) -> tuple[Array, Array]:
        return cell(state, jnp.zeros(0, state.dtype)), cell.output(state)

    return jax.vmap(lambda state: jax.lax.scan(step, state, length=num_steps)[1])(states)
