"""Multiple shooting: a long series cut into short runs whose starts are learned, and made to meet."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._validation import check_at_least
from rnndyn.networks.adapters import as_cell
from rnndyn.tasks.dynamical_systems.stretches import without_missing
from rnndyn.training._masked_error import squared_errors
from rnndyn.training.forced_loss import start_vector
from rnndyn.training.losses import mean_squared_error
from rnndyn.training.teacher_forcing import nearest_state


def multiple_shooting(model: Any, targets: Any, num_steps: int) -> "MultipleShooting":
    r"""A network together with the states at which the pieces of a series start, to be trained by `rnndyn.fit`.

    **Arguments:**

    - `model`: an `RNN` with a linear readout and one vector as state.
    - `targets`: the series, (T, O); or a `Stretches` of one with the mask of what was measured, as
        `rnndyn.tasks.dynamical_systems.Series.stretch` gives it.
    - `num_steps`: steps L of a piece; what is left over at the end of the series is not used.

    **Returns:** a `MultipleShooting`: `.model`, and `.starts` (S, N), the states nearest to zero that give the samples
    where the S pieces start, interpolated where they are missing. Its loss is `rnndyn.training.multiple_shooting_loss`.

    **Raises:** `ValueError` for a series of less than two pieces.

    ??? cite "Reference"
        H. U. Voss, J. Timmer & J. Kurths (2004), "Nonlinear dynamical system identification from uncertain and indirect
        measurements", International Journal of Bifurcation and Chaos 14, 1905-1933.
    """
    check_at_least("num_steps", num_steps, 1)
    series = without_missing(targets, "targets")
    targets = jnp.asarray(series.values)
    if targets.ndim != 2 or (len(targets) - 1) // num_steps < 2:
        raise ValueError(
            f"targets: expected a series (T, O) of at least two pieces of {num_steps} steps and a start, got shape "
            f"{targets.shape}."
        )
    num_pieces = (len(targets) - 1) // num_steps
    if series.observed is not None:
        targets = jnp.asarray(_interpolated(np.asarray(targets), np.asarray(series.observed)))
    state = start_vector(model, targets.dtype)
    starts = jax.vmap(lambda y: nearest_state(model, state, y))(targets[: num_pieces * num_steps : num_steps])
    return MultipleShooting(model, starts, num_steps)


class MultipleShooting(eqx.Module):
    """A network and the states (S, N) at which pieces of a series start; made by `multiple_shooting`."""

    model: Any
    starts: Float[Array, "S N"]
    num_steps: int = eqx.field(static=True)


def multiple_shooting_loss(penalty: float = 1.0) -> "MultipleShootingLoss":
    r"""The error of all pieces, run freely from their starts, and the gaps between an end and the next start.

    $$L = \frac1S \sum_{s=1}^{S} \frac{1}{L} \sum_{t=1}^{L} \bigl\| y^{(s)}_t - \hat y_{(s-1) L + t} \bigr\|^2 / O
    + \frac{\rho}{S - 1} \sum_{s=1}^{S-1} \bigl\| x^{(s)}_L - x^{(s+1)}_0 \bigr\|^2 / N$$

    **Arguments:**

    - `penalty`: $\rho$, at least 0. Raised in the course of training it makes the pieces one trajectory.

    **Returns:** a `MultipleShootingLoss`, `loss(shooting, targets)` of a `MultipleShooting` and its series (T, O). Of a
    `Stretches` with a mask the first sum is over what was measured, with equal weights.

    **Raises:** `ValueError` for a negative penalty; (the loss) for a series of another length, or NaN that is not
    marked as missing (where values can be looked at, not under `jit`).
    """
    check_at_least("penalty", penalty, 0)
    return MultipleShootingLoss(float(penalty))


class MultipleShootingLoss(eqx.Module):
    """What `multiple_shooting_loss` returns."""

    penalty: float = eqx.field(static=True)

    def __call__(self, shooting: MultipleShooting, targets: Any) -> Float[Array, ""]:
        series = without_missing(targets, "targets")
        targets = jnp.asarray(series.values)
        num_pieces, num_steps = len(shooting.starts), shooting.num_steps
        if targets.ndim != 2 or len(targets) < num_pieces * num_steps + 1:
            raise ValueError(
                f"targets: expected the series (T, O) of {num_pieces} pieces of {num_steps} steps, got {targets.shape}."
            )
        into_pieces = lambda rows: rows[1 : num_pieces * num_steps + 1].reshape(num_pieces, num_steps, -1)
        cell: Any = as_cell(shooting.model.cell)

        def run(start: Array) -> tuple[Array, Array]:
            zeros = jnp.zeros(cell.input_size, start.dtype)

            def step(x: Array, _: None) -> tuple[Array, Array]:
                x = cell(x, zeros)
                return x, shooting.model.read(x)

            return jax.lax.scan(step, start, length=num_steps)

        ends, outputs = jax.vmap(run)(shooting.starts)
        gaps = jnp.mean((ends[:-1] - shooting.starts[1:]) ** 2)
        if series.observed is None:
            return jnp.mean(jax.vmap(mean_squared_error)(outputs, into_pieces(targets))) + self.penalty * gaps
        total, count = squared_errors(outputs, into_pieces(targets), into_pieces(jnp.asarray(series.observed)))
        return total / jnp.maximum(count, 1) + self.penalty * gaps


def _interpolated(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Straight lines over gaps (T, O), for a first guess of states; a variable never seen stays at zero."""
    steps = np.arange(len(values))
    filled = [
        np.interp(steps, steps[seen], column[seen]) if seen.any() else column
        for column, seen in zip(values.T, observed.T)
    ]
    return np.stack(filled, axis=1).astype(values.dtype)
