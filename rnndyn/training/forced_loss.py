"""The loss of networks that learn a system from its series: errors of runs that are drawn towards the data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnndyn.networks.adapters import as_cell
from rnndyn.tasks.dynamical_systems.stretches import Stretches, without_missing
from rnndyn.training._masked_error import squared_errors
from rnndyn.training.encoded import Encoded
from rnndyn.training.forcing_strength import forcing_strength
from rnndyn.training.losses import mean_squared_error
from rnndyn.training.per_series import PerSeries
from rnndyn.training.teacher_forcing import generalized_teacher_forcing, nearest_state


def forced_loss(
    alpha: Any = "adaptive", *, decay: float = 0.99, fixed_readout: bool = False, reconstruction: float = 1.0
) -> "ForcedLoss":
    r"""The squared error of a network whose state is drawn towards the data, over stretches of series.

    ```python
    windows = rd.tasks.dynamical_systems.SeriesWindows(series, 30, 16)
    loss = rd.training.forced_loss(0.2)
    rd.fit(model, loss, windows, optax.adam(1e-3), carry=loss.first_carry(), ...)
    ```

    **Arguments:**

    - `alpha`: the strength: a number in [0, 1] (0 runs freely); strengths for every step (T,), such as those of
        `sparse_forcing`; a schedule of the number of updates, such as those of optax; or `"adaptive"`: what
        `forcing_strength` gives for the Jacobians of the network along the data of a batch, the largest of its
        stretches, smoothed over updates:
        $\alpha \leftarrow \gamma \alpha + (1 - \gamma) \alpha_{batch}$, from 1 on.
    - `decay`: $\gamma$ of the adaptive strength.
    - `fixed_readout`: keep the readout as it is, where the state is the output.
    - `reconstruction`: for an `Encoded` model, the weight $\rho$ of the error of what is read out of encoded data,
        $\rho\, \| C E(y_{t-k+1}, \dots, y_t) + b - y_t \|^2$, at least 0: it makes the encoder an inverse of the
        readout.

    **Returns:** a `ForcedLoss`, `loss(model, batch, carry) -> (scalar, carry)`. `rnndyn.fit` takes it with
    `carry=loss.first_carry()`: the strength, and the number of updates made. Its batches are those of `SeriesWindows`:
    stretches (B, T + 1, O) whose first entries are where runs start, or `Stretches` with inputs and the numbers of
    their series. Its models:

    - an `RNN` with a linear readout: its state is drawn towards the nearest one that gives the true output;
    - an `Encoded` one, with any readout: towards the state that its encoder makes of the last samples, where runs start
        as well (the k-th sample of a stretch, where the encoder reads k);
    - a `PerSeries` one of either: each stretch has the weights of its series.

    *Missing samples*: where the batch says what was measured (`Stretches.observed`), errors are those of measured
    entries, each of the batch with equal weight; a measured output draws the state and the others do not
    (`generalized_teacher_forcing`); an encoder is asked only where all that it reads is there, and adaptive strengths
    are those along the data with the network's own predictions in the gaps. Outputs of the first sample that were not
    measured are those of `model.start()`, and a first state whose encoder lacks a sample reads zeros for it:
    `SeriesWindows` starts elsewhere. NaN that nobody has marked is an error.

    **Raises:** `ValueError` for a decay outside [0, 1), a negative weight; (the loss) for a batch of another shape, a
    cell with inputs and a batch without, per-series weights and a batch that does not say of which series it is, and
    (where values can be looked at, not under `jit`) NaN.

    ??? cite "Reference"
        F. Hess, Z. Monfared, M. Brenner & D. Durstewitz (2023), "Generalized teacher forcing for learning chaotic
        dynamics", ICML.
    """
    if isinstance(alpha, str) and alpha != "adaptive":
        raise ValueError(f"alpha: expected numbers, a schedule, or 'adaptive', got {alpha!r}.")
    if not 0 <= decay < 1:
        raise ValueError(f"decay: expected a number in [0, 1), got {decay}.")
    if not reconstruction >= 0:
        raise ValueError(f"reconstruction: expected a weight of at least 0, got {reconstruction}.")
    if not callable(alpha) and not isinstance(alpha, str):
        alpha = tuple(map(float, alpha)) if jnp.ndim(alpha) else float(alpha)
    return ForcedLoss(alpha, decay, fixed_readout, float(reconstruction))


class ForcedLoss(eqx.Module):
    """What `forced_loss` returns."""

    # Static, so that two losses of the same settings are one to jit.
    alpha: Any = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    fixed_readout: bool = eqx.field(static=True)
    reconstruction: float = eqx.field(static=True)

    def first_carry(self) -> tuple[Array, Array]:
        """The strength and the number of updates to begin with: the `carry` of `rnndyn.fit`."""
        return jnp.ones(()), jnp.zeros((), int)

    def __call__(self, model: Any, batch: Any, carry: Any) -> tuple[Array, Any]:
        strength, step = carry
        batch = _check_batch(model, batch)
        if isinstance(self.alpha, str):
            found = jax.vmap(lambda stretch: _strength(_prepare(model, stretch, False), stretch))(batch)
            strength = self.decay * strength + (1 - self.decay) * found.max().astype(strength.dtype)
            alpha: Any = strength
        else:
            alpha = self.alpha(step) if callable(self.alpha) else jnp.asarray(self.alpha)

        def one(stretch: Stretches) -> tuple[Any, Any]:
            network = _prepare(model, stretch, self.fixed_readout)
            return _errors(network, stretch, alpha, _mean if batch.observed is None else squared_errors)

        error, of_encoded = jax.vmap(one)(batch)
        if batch.observed is None:
            loss = jnp.mean(error if of_encoded is None else error + self.reconstruction * of_encoded)
        else:
            loss = _over_all(error)
            loss = loss if of_encoded is None else loss + self.reconstruction * _over_all(of_encoded)
        return loss, (jax.lax.stop_gradient(strength), step + 1)


def _errors(network: Any, stretch: Stretches, alpha: Any, error_of: Any) -> tuple[Any, Any]:
    """Errors of a forced run over one stretch, and of what is read out of encoded data (`None` without an encoder)."""
    rnn = network.model if isinstance(network, Encoded) else network
    teachers, known = _teachers(network, stretch)
    seen = stretch.observed
    lost = 0 if teachers is None else len(stretch.values) - len(teachers)
    targets = stretch.values[lost + 1 :]
    later = None if seen is None else seen[lost + 1 :]
    inputs = None if stretch.inputs is None else stretch.inputs[lost:]
    if teachers is None:
        outputs = generalized_teacher_forcing(
            rnn, targets, alpha, inputs=inputs, state=_first_state(network, stretch), observed=later
        )
        return error_of(outputs, targets, later), None
    strengths = alpha if known is None else jnp.where(known[1:], alpha, 0)
    outputs = generalized_teacher_forcing(
        rnn, targets, strengths, inputs=inputs, state=teachers[0], teachers=teachers[1:]
    )
    read = jax.vmap(rnn.read)(teachers)
    whole = None if known is None else jnp.broadcast_to(known[:, None], read.shape)
    return error_of(outputs, targets, later), error_of(read, stretch.values[lost:], whole)


def start_vector(model: Any, dtype: Any) -> Array:
    """The state that a model starts from.

    **Raises:** `ValueError` for a state that is not one vector, such as an LSTM's.
    """
    state = model.start()
    if not isinstance(state, jax.Array) or state.ndim != 1:
        raise ValueError(
            f"model: expected its state to be one vector, all read out, got {jax.tree.map(jnp.shape, state)}."
        )
    return state.astype(dtype)


def _check_batch(model: Any, batch: Any) -> Stretches:
    """The batch as `Stretches`, once it has what the model needs."""
    shape = jnp.shape(batch.values if isinstance(batch, Stretches) else batch)
    if len(shape) != 3 or shape[1] < 2:
        raise ValueError(f"batch: expected stretches of shape (B, T + 1, N), T at least 1, got {shape}.")
    batch = without_missing(batch)
    if isinstance(model, PerSeries) and batch.series is None:
        raise ValueError(
            "batch: this model has weights for each series, and the batch does not say of which its stretches are. "
            "Pass SeriesWindows(..., with_series=True)."
        )
    network = model.model if isinstance(model, PerSeries) else model
    lags = network.num_lags if isinstance(network, Encoded) else 1
    if shape[1] < lags + 1:
        raise ValueError(f"batch: the encoder reads {lags} samples, so stretches need {lags + 1}, got {shape[1]}.")
    rnn = network.model if isinstance(network, Encoded) else network
    cell: Any = as_cell(rnn.cell)
    given = 0 if batch.inputs is None else jnp.shape(batch.inputs)[2]
    if given != cell.input_size:
        raise ValueError(
            f"batch: the cell has {cell.input_size} inputs and the batch {given}. Pass SeriesWindows(..., inputs=)."
        )
    return batch


def _prepare(model: Any, stretch: Stretches, fixed_readout: bool) -> Any:
    """The network of the series of a stretch, its readout held where that is asked for."""
    network = model.member(stretch.series) if isinstance(model, PerSeries) else model
    if not fixed_readout:
        return network
    where = lambda m: (m.model if isinstance(m, Encoded) else m).readout
    return eqx.tree_at(where, network, jax.lax.stop_gradient(where(network)))


def _first_state(network: Any, stretch: Stretches) -> Array:
    """Where a run of a network without encoder starts: the state nearest to `start()` that gives what was measured."""
    start = start_vector(network, stretch.values.dtype)
    return nearest_state(network, start, stretch.values[0], None if stretch.observed is None else stretch.observed[0])


def _teachers(network: Any, stretch: Stretches) -> tuple[Any, Any]:
    """States that an encoder makes of a stretch, from the first sample on for which it can, and which it knows.

    `None` without an encoder; the second also where nothing is missing.
    """
    if not isinstance(network, Encoded):
        return None, None
    teachers = network.encode_all(jnp.asarray(stretch.values))
    if stretch.observed is None:
        return teachers, None
    whole = jnp.all(stretch.observed, axis=1)
    lags = [whole[lag : lag + len(teachers)] for lag in range(network.num_lags)]
    return teachers, jnp.all(jnp.stack(lags), axis=0)


def _strength(network: Any, stretch: Stretches) -> Array:
    """What the Jacobians along the data of a stretch ask for."""
    states = _states_along(network, stretch)
    cell: Any = as_cell(network.model.cell if isinstance(network, Encoded) else network.cell)
    if stretch.inputs is None:
        return forcing_strength(lambda x: cell(x, jnp.zeros(cell.input_size, x.dtype)), states)
    return forcing_strength(cell, states, inputs=stretch.inputs[-len(states) :])


def _states_along(network: Any, stretch: Stretches) -> Array:
    """States that belong to the samples of a stretch but the last; in gaps, what the network says."""
    teachers, known = _teachers(network, stretch)
    if stretch.observed is None:
        if teachers is not None:
            return teachers[:-1]
        start = start_vector(network, stretch.values.dtype)
        return jax.vmap(lambda output: nearest_state(network, start, output))(stretch.values[:-1])
    cell: Any = as_cell(network.model.cell if isinstance(network, Encoded) else network.cell)
    first = _first_state(network, stretch) if teachers is None else teachers[0]
    number = len(stretch.values) - 2 if teachers is None else len(teachers) - 2
    # Of rows that end with the last sample, those between the first state and the last one.
    between = lambda rows: None if rows is None else rows[-number - 1 : -1]
    inputs = jnp.zeros((number, cell.input_size), first.dtype) if stretch.inputs is None else between(stretch.inputs)

    def step(x: Array, at: tuple[Any, ...]) -> tuple[Array, Array]:
        input, value, seen, teacher, is_known = at
        x = cell(x, input)
        drawn = nearest_state(network, x, value, seen) if teacher is None else jnp.where(is_known, teacher, x)
        return drawn.astype(first.dtype), drawn.astype(first.dtype)

    along = (inputs, between(stretch.values), between(stretch.observed), between(teachers), between(known))
    return jnp.concatenate([first[None], jax.lax.scan(step, first, along)[1]])


def _mean(outputs: Any, targets: Any, _: None) -> Array:
    return mean_squared_error(outputs, targets)


def _over_all(errors: tuple[Array, Array]) -> Array:
    """The mean over all entries of a batch that were measured, of sums and counts of each stretch; 0 of none."""
    total, count = (jnp.sum(part) for part in errors)
    return total / jnp.maximum(count, 1)
