"""The latent variables of a low-rank network: its dynamics, exactly, in as many dimensions as its rank."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from rnndyn.maps import CellMap, as_map
from rnndyn.networks.cells.activations import activation_function, activation_range
from rnndyn.networks.cells.bounds import affine_bounds
from rnndyn.networks.cells.leaky_low_rank import LeakyLowRankCell
from rnndyn.networks.cells.low_rank import LowRankCell
from rnndyn.networks.precision import Numbers


def latent_map(cell: Any, input: Numbers | None = None) -> "LatentMap":
    r"""A low-rank network with its input held, as a map of its R latent variables.

    With $W_{hh} = M N^\top / H$, drive $d = W_{ih} u + b$ and leak $\alpha$ (1 for `LowRankCell`),

    $$\kappa' = (1 - \alpha)\,\kappa + \tfrac{\alpha}{H}\, N^\top \varphi(M \kappa + d).$$

    - State variable *rate* (and `LowRankCell`): $\kappa = N^\top r / H$ of every state r moves by this map, exactly.
    - State variable *current*: the plane $x = M\kappa + d$ is mapped into itself, and on it the network is this map,
      exactly. Every state comes to the plane as $(1 - \alpha)^t$, so all fixed points, cycles and attractors lie on it.

    So fixed points and cycles of the network and of the map correspond one to one, fixed points by `lift`, and at a
    fixed point the network has the R multipliers of the map; its other H - R multipliers are $1 - \alpha$.

    **Arguments:**

    - `cell`: a `LowRankCell`, or a `LeakyLowRankCell` with one time constant for all units.
    - `input`: the held input (I,); zero by default.

    **Returns:** a `LatentMap`: call it on $\kappa$ (R,).

    **Raises:** `ValueError` for another kind of cell, time constants of the units' own, or what `as_map` refuses.

    Reference: Mastrogiuseppe and Ostojic, 2018; Beiran, Dubreuil, Valente, Mastrogiuseppe and Ostojic, 2021, "Shaping
    dynamics with multiple populations in low-rank recurrent networks".
    """
    full = as_map(cell, input)
    if type(full.cell) not in (LowRankCell, LeakyLowRankCell):
        raise ValueError(
            f"cell: expected a LowRankCell or a LeakyLowRankCell, got a {type(full.cell).__name__}. A weight of low "
            "rank is factored by an SVD: W = M N^T / H."
        )
    if np.ndim(getattr(full.cell, "tau", 1.0)) != 0:
        raise ValueError(
            "cell: its units have time constants of their own, so their rates do not close in R latent variables."
        )
    return LatentMap(full)


class LatentMap(eqx.Module):
    """A low-rank network on its latent variables, (R,) -> (R,); see `latent_map`.

    A map like any other: every analysis takes it, in R dimensions instead of H. `lift` leads from latent variables to
    states of the network, `project` back; `region` is a box that the map keeps, where the rates are bounded, and `dt`
    the time of a step. Weights and input are leaves, so it may be differentiated and continued in them.
    """

    full: CellMap
    """The network itself, (N,) -> (N,), with its input held."""

    @property
    def dt(self) -> Any:
        """The time of one step, as of the network."""
        return self.full.dt

    @property
    def region(self) -> tuple[Array, Array] | None:
        """A box that every state comes to and that the map takes into itself: the averages of bounded rates."""
        bounds = activation_range(self._cell.activation)
        if bounds is None:
            return None
        right = jnp.asarray(self._cell.right)
        ones = jnp.ones(right.shape[0], right.dtype)
        return affine_bounds(right.T / right.shape[0], bounds[0] * ones, bounds[1] * ones)

    @property
    def _cell(self) -> Any:
        return self.full.cell

    @property
    def _is_current(self) -> bool:
        return getattr(self._cell, "state_variable", "rate") == "current"

    def __call__(self, x: Float[Array | np.ndarray, " R"]) -> Float[Array, " R"]:
        cell = self._cell
        alpha = getattr(cell, "alpha", 1.0)
        rates = activation_function(cell.activation)(cell.left @ x + self._drive())
        return (1 - alpha) * x + alpha * (cell.right.T @ rates) / cell.hidden_size

    def lift(self, x: ArrayLike) -> Float[Array, " H"]:
        """The state of the network for latent variables (R,).

        Currents: M κ + d, the state on the plane. Rates: φ(M κ + d), which is the state at a fixed point, and for a
        `LowRankCell` the state that follows any state of these latent variables.
        """
        cell = self._cell
        currents = cell.left @ jnp.asarray(x) + self._drive()
        return currents if self._is_current else activation_function(cell.activation)(currents)

    def project(self, state: ArrayLike) -> Float[Array, " R"]:
        """The latent variables (R,) of a state (H,).

        Rates: Nᵀ r / H. Currents: the κ whose M κ + d is nearest to the state, which is exact on the plane.
        """
        cell, state = self._cell, jnp.asarray(state)
        if self._is_current:
            return jnp.linalg.lstsq(jnp.asarray(cell.left), state - self._drive())[0]
        return cell.right.T @ state / cell.hidden_size

    def _drive(self) -> Array:
        return self._cell.weight_ih @ jnp.asarray(self.full.input) + self._cell.bias
