"""The clipped shallow piecewise-linear cell: one whose states cannot run away."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.networks.cells._relu_forms import ReluForm, affine_of, pattern_of, slow_decay
from rnndyn.networks.cells._weights import build_with_weights, draw, shape_of, sizes_of
from rnndyn.networks.cells.bounds import affine_bounds, input_bounds
from rnndyn.networks.cells.checks import check_hidden, check_input, check_sizes
from rnndyn.networks.cells.claims import claim
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers, as_leaf


class ClippedShallowCell(eqx.Module):
    r"""One step of a shallow piecewise-linear network whose nonlinear part is bounded:

        z' = A z + W_1 [relu(W_2 z + h_2) - relu(W_2 z)] + h_1 + C u

    with A diagonal. A bracket lies between 0 and its entry of h_2, so that with |A| < 1 no state runs away, whatever
    the weights are. The weights are `diagonal` = A (H,), `weight_hh` = W_1 (H, L), `bias` = h_1 (H,), `weight_ih` = C
    (H, I), `hidden_weight` = W_2 (L, H) and `hidden_bias` = h_2 (L,). The state is `z`, of shape (H,).

    It has `relu_form`, `pattern` and `affine_map` as `PiecewiseLinearCell` does, with 2 L rectifiers: those with the
    bias first.

    Reference: Hess, Monfared, Brenner and Durstewitz, 2023, "Generalized teacher forcing for learning chaotic
    dynamics".
    """

    diagonal: Float[Array, " H"]
    weight_hh: Float[Array, "H L"]
    bias: Float[Array, " H"]
    weight_ih: Float[Array, "H I"]
    hidden_weight: Float[Array, "L H"]
    hidden_bias: Float[Array, " L"]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    num_relus: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_hidden: int,
        *,
        diagonal_init: Initializer | None = None,
        weight_ih_init: Initializer | None = None,
        weight_hh_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        hidden_weight_init: Initializer | None = None,
        hidden_bias_init: Initializer | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `input_size`: entries I of the input; zero for a cell without input.
        - `hidden_size`: entries H of the state.
        - `num_hidden`: L.
        - `diagonal_init`: uniform on [0.5, 0.9] when not given.
        - `weight_ih_init`, `weight_hh_init`, `bias_init`, `hidden_weight_init`, `hidden_bias_init`: see
            `rnndyn.initializers`; uniform on ±1/√L for W_1 and ±1/√H for the others when not given.
        - `dtype`: of the weights; JAX's default float when not given.
        - `key`: a `jax.random.key` from which the weights are drawn.
        """
        check_sizes(input_size, hidden_size)
        check_at_least("num_hidden", num_hidden, 1)
        dtype = jnp.result_type(float) if dtype is None else dtype
        keys = jax.random.split(key, 6)
        default, outer = inverse_sqrt_uniform(hidden_size), inverse_sqrt_uniform(num_hidden)
        self.diagonal = draw("diagonal_init", diagonal_init or slow_decay, keys[0], (hidden_size,), dtype)
        self.weight_hh = draw("weight_hh_init", weight_hh_init or outer, keys[1], (hidden_size, num_hidden), dtype)
        self.bias = draw("bias_init", bias_init or default, keys[2], (hidden_size,), dtype)
        self.weight_ih = draw("weight_ih_init", weight_ih_init or default, keys[3], (hidden_size, input_size), dtype)
        self.hidden_weight = draw(
            "hidden_weight_init", hidden_weight_init or default, keys[4], (num_hidden, hidden_size), dtype
        )
        self.hidden_bias = draw("hidden_bias_init", hidden_bias_init or default, keys[5], (num_hidden,), dtype)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_relus = 2 * num_hidden

    @classmethod
    def from_weights(
        cls,
        diagonal: Numbers,
        weight_hh: Numbers,
        bias: Numbers,
        hidden_weight: Numbers,
        hidden_bias: Numbers,
        *,
        weight_ih: Numbers | None = None,
    ) -> "ClippedShallowCell":
        """The cell with these weights (shapes: see the class); without `weight_ih` it has no input.

        **Raises:** `ValueError` for a weight of another shape, or with NaN or infinity.
        """
        if len(shape_of(diagonal)) != 1:
            raise ValueError(f"diagonal: expected the diagonal of A, shape (H,), got shape {shape_of(diagonal)}.")
        if weight_ih is None:
            weight_ih = np.zeros((shape_of(diagonal)[0], 0), as_leaf("diagonal", diagonal).dtype)
        input_size, num_hidden = sizes_of(weight_ih, weight_hh)
        weights = {"diagonal": diagonal, "weight_hh": weight_hh, "bias": bias, "weight_ih": weight_ih}
        weights |= {"hidden_weight": hidden_weight, "hidden_bias": hidden_bias}
        settings = {"input_size": input_size, "hidden_size": shape_of(diagonal)[0], "num_hidden": num_hidden}
        return build_with_weights(cls, settings, weights)

    def __call__(self, state: Any, input: Any) -> Float[Array, " H"]:
        """The next state (H,), from a state (H,) and an input (I,)."""
        check_hidden(state, self.hidden_size)
        check_input(input, self.input_size)
        drive = self.hidden_weight @ state
        clipped = jax.nn.relu(drive + self.hidden_bias) - jax.nn.relu(drive)
        return self.diagonal * state + self.weight_hh @ clipped + self.bias + self.weight_ih @ input

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))

    def output(self, state: Any) -> Any:
        """What a readout sees: the state."""
        return state

    def state_bounds(self, input: Any) -> Any:
        """The box around c = m / (1 - A) of radius r / (1 - |A|), where what is added to A z stays within m ± r; `None`
        where a unit does not decay, |A| >= 1.

        |z' - c| <= |A| |z - c| + r: the box is mapped into itself and draws every state nearer. `None` under tracing,
        where A cannot be looked at.
        """
        lower, upper = input_bounds(input, self.input_size)
        if isinstance(self.diagonal, Tracer) or not (np.abs(np.asarray(self.diagonal)) < 1).all():
            return None
        low, high = affine_bounds(self.weight_ih, lower, upper)
        # A bracket is relu(a + h) - relu(a), between 0 and h.
        clip_low, clip_high = affine_bounds(
            self.weight_hh, jnp.minimum(self.hidden_bias, 0), jnp.maximum(self.hidden_bias, 0)
        )
        low, high = low + clip_low + self.bias, high + clip_high + self.bias
        centre = (low + high) / 2 / (1 - self.diagonal)
        radius = (high - low) / 2 / (1 - jnp.abs(self.diagonal))
        # Some roundings of the terms of a step, more where the decay is slow.
        eps = jnp.finfo(jnp.result_type(radius)).eps
        radius = radius + 16 * eps * (jnp.abs(centre) + radius + jnp.abs(self.bias)) / (1 - jnp.abs(self.diagonal))
        return centre - radius, centre + radius

    @claim
    def relu_form(self, input: Any) -> ReluForm:
        """The cell with `input` (I,) held, as z' = linear z + outer relu(inner z + inner_bias) + offset."""
        check_input(input, self.input_size)
        return ReluForm(
            linear=jnp.diag(jnp.asarray(self.diagonal)),
            outer=jnp.concatenate([self.weight_hh, -self.weight_hh], axis=1),
            inner=jnp.concatenate([self.hidden_weight, self.hidden_weight]),
            inner_bias=jnp.concatenate([self.hidden_bias, jnp.zeros_like(self.hidden_bias)]),
            offset=self.bias + self.weight_ih @ input,
        )

    @claim
    def pattern(self, state: Any) -> Bool[Array, " R"]:
        """Which of the 2 L rectifiers are on at `state` (H,); on a border they count as off."""
        check_hidden(state, self.hidden_size)
        return pattern_of(self.relu_form(jnp.zeros(self.input_size)), state)

    @claim
    def affine_map(self, pattern: Any, input: Any) -> tuple[Float[Array, "H H"], Float[Array, " H"]]:
        """`(matrix, vector)` of z' = matrix z + vector in the region of `pattern` (2 L,), with `input` (I,) held."""
        return affine_of(self.relu_form(input), pattern)
