"""The dendritic piecewise-linear cell: every unit a sum of thresholds, as of the branches of a dendrite."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.networks.cells._relu_forms import ReluForm, affine_of, pattern_of, slow_decay
from rnndyn.networks.cells._weights import build_with_weights, draw, shape_of, sizes_of
from rnndyn.networks.cells.bounds import input_bounds
from rnndyn.networks.cells.checks import check_hidden, check_input, check_sizes
from rnndyn.networks.cells.claims import claim
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform, uniform
from rnndyn.networks.precision import Numbers, as_leaf


class DendriticCell(eqx.Module):
    r"""One step of a piecewise-linear network with B branches to each unit, A diagonal:

        z' = A z + W φ(z) + h + C u,      φ(z) = Σ_b α_b relu(z - θ_b)

    The weights are `diagonal` = A (H,), `weight_hh` = W (H, H), `bias` = h (H,), `weight_ih` = C (H, I), `slopes` = α
    (B,) and `thresholds` = θ (B, H). One branch with slope 1 and thresholds 0 is the standard form of
    `PiecewiseLinearCell`. The state is `z`, of shape (H,).

    It has `relu_form`, `pattern` and `affine_map` as `PiecewiseLinearCell` does, with B H rectifiers: those of the
    first branch first.

    Reference: Brenner, Hess, Mikhaeil, Bereska, Monfared, Kuo and Durstewitz, 2022, "Tractable dendritic RNNs for
    reconstructing nonlinear dynamical systems".
    """

    diagonal: Float[Array, " H"]
    weight_hh: Float[Array, "H H"]
    bias: Float[Array, " H"]
    weight_ih: Float[Array, "H I"]
    slopes: Float[Array, " B"]
    thresholds: Float[Array, "B H"]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    num_relus: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_branches: int,
        *,
        diagonal_init: Initializer | None = None,
        weight_ih_init: Initializer | None = None,
        weight_hh_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        slopes_init: Initializer | None = None,
        thresholds_init: Initializer | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`: entries I of the input; zero for a cell without input.
        - `hidden_size`: entries H of the state.
        - `num_branches`: B.
        - `diagonal_init`: uniform on [0.5, 0.9] when not given.
        - `weight_ih_init`, `weight_hh_init`, `bias_init`: see `rnndyn.initializers`; uniform on ±1/√H when not given.
        - `slopes_init`: uniform on ±1/√B when not given.
        - `thresholds_init`: uniform on ±1 when not given, the spread of standardised data.
        - `dtype`: of the weights; JAX's default float when not given.
        - `key`: a `jax.random.key` from which the weights are drawn.
        """
        check_sizes(input_size, hidden_size)
        check_at_least("num_branches", num_branches, 1)
        dtype = jnp.result_type(float) if dtype is None else dtype
        keys = jax.random.split(key, 6)
        default, size, branches = inverse_sqrt_uniform(hidden_size), hidden_size, num_branches
        self.diagonal = draw("diagonal_init", diagonal_init or slow_decay, keys[0], (size,), dtype)
        self.weight_hh = draw("weight_hh_init", weight_hh_init or default, keys[1], (size, size), dtype)
        self.bias = draw("bias_init", bias_init or default, keys[2], (size,), dtype)
        self.weight_ih = draw("weight_ih_init", weight_ih_init or default, keys[3], (size, input_size), dtype)
        slopes_init = slopes_init or inverse_sqrt_uniform(branches)
        self.slopes = draw("slopes_init", slopes_init, keys[4], (branches,), dtype)
        self.thresholds = draw("thresholds_init", thresholds_init or uniform(1.0), keys[5], (branches, size), dtype)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_relus = branches * size

    @classmethod
    def from_weights(
        cls,
        diagonal: Numbers,
        weight_hh: Numbers,
        bias: Numbers,
        slopes: Numbers,
        thresholds: Numbers,
        *,
        weight_ih: Numbers | None = None,
    ) -> "DendriticCell":
        """The cell with these weights (shapes: see the class); without `weight_ih` it has no input.

        **Raises:** `ValueError` for a weight of another shape, or with NaN or infinity.
        """
        if len(shape_of(slopes)) != 1:
            raise ValueError(f"slopes: expected one for each branch, shape (B,), got shape {shape_of(slopes)}.")
        if weight_ih is None:
            weight_ih = np.zeros((shape_of(diagonal)[0], 0), as_leaf("diagonal", diagonal).dtype)
        input_size, hidden_size = sizes_of(weight_ih, weight_hh)
        weights = {"diagonal": diagonal, "weight_hh": weight_hh, "bias": bias, "weight_ih": weight_ih}
        weights |= {"slopes": slopes, "thresholds": thresholds}
        settings = {"input_size": input_size, "hidden_size": hidden_size, "num_branches": shape_of(slopes)[0]}
        return build_with_weights(cls, settings, weights)

    def __call__(self, state: Any, input: Any) -> Float[Array, " H"]:
        """The next state (H,), from a state (H,) and an input (I,)."""
        check_hidden(state, self.hidden_size)
        check_input(input, self.input_size)
        features = self.slopes @ jax.nn.relu(state - self.thresholds)
        return self.diagonal * state + self.weight_hh @ features + self.bias + self.weight_ih @ input

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))

    def output(self, state: Any) -> Any:
        """What a readout sees: the state."""
        return state

    def state_bounds(self, input: Any) -> None:
        """`None`: a piecewise-linear cell may grow without bound."""
        input_bounds(input, self.input_size)

    @claim
    def relu_form(self, input: Any) -> ReluForm:
        """The cell with `input` (I,) held, as z' = linear z + outer relu(inner z + inner_bias) + offset."""
        check_input(input, self.input_size)
        branches = len(self.slopes)
        return ReluForm(
            linear=jnp.diag(jnp.asarray(self.diagonal)),
            outer=jnp.concatenate([slope * self.weight_hh for slope in self.slopes], axis=1),
            inner=jnp.tile(jnp.eye(self.hidden_size, dtype=jnp.result_type(self.weight_hh)), (branches, 1)),
            inner_bias=-jnp.ravel(jnp.asarray(self.thresholds)),
            offset=self.bias + self.weight_ih @ input,
        )

    @claim
    def pattern(self, state: Any) -> Bool[Array, " R"]:
        """Which of the B H rectifiers are on at `state` (H,); on a border they count as off."""
        check_hidden(state, self.hidden_size)
        return pattern_of(self.relu_form(jnp.zeros(self.input_size)), state)

    @claim
    def affine_map(self, pattern: Any, input: Any) -> tuple[Float[Array, "H H"], Float[Array, " H"]]:
        """`(matrix, vector)` of z' = matrix z + vector in the region of `pattern` (B H,), with `input` (I,) held."""
        return affine_of(self.relu_form(input), pattern)
