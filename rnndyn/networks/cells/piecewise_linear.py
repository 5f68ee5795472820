"""Piecewise-linear recurrent cells (PLRNN), whose fixed points and cycles can be found exactly."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.networks.cells._relu_forms import ReluForm, affine_of, slow_decay
from rnndyn.networks.cells._weights import build_with_weights, draw, shape_of, sizes_of
from rnndyn.networks.cells.bounds import input_bounds
from rnndyn.networks.cells.checks import check_hidden, check_input, check_sizes
from rnndyn.networks.cells.claims import claim
from rnndyn.networks.initializers import Initializer, inverse_sqrt_uniform
from rnndyn.networks.precision import Numbers, as_leaf


class PiecewiseLinearCell(eqx.Module):
    """One step of a piecewise-linear recurrent network, in one of three forms, with A diagonal:

        standard:       z' = A z + W relu(z) + h + C u
        almost-linear:  z' = A z + W φ(z) + h + C u      φ rectifies the last P units and leaves the others
        shallow:        z' = A z + W_1 relu(W_2 z + h_2) + h_1 + C u

    `num_rectified=P` makes it almost-linear, `num_hidden=L` makes it shallow, neither makes it standard. The weights
    are `diagonal` = A (H,), `weight_hh` = W (H, H) or W_1 (H, L), `bias` = h or h_1 (H,), `weight_ih` = C (H, I), and
    for the shallow form `hidden_weight` = W_2 (L, H) and `hidden_bias` = h_2 (L,). The state is `z`, of shape (H,).

    An exact solver needs three methods, which are the same for all forms. Every form is

        z' = linear z + outer relu(inner z + inner_bias) + offset

    (`relu_form`). The signs of the pre-activations, the *pattern* of z (`pattern`), name the linear region in which
    z lies, and in that region z' = matrix z + vector (`affine_map`).

    References: Durstewitz, 2017, "A state space approach for piecewise-linear recurrent neural networks" (standard);
    Hess, Monfared, Brenner and Durstewitz, 2023, "Generalized teacher forcing for learning chaotic dynamics"
    (shallow); Brenner, Hemmer, Monfared and Durstewitz, 2024, "Almost-linear RNNs yield highly interpretable symbolic
    codes in dynamical systems reconstruction".
    """

    diagonal: Float[Array, " H"]
    weight_hh: Float[Array, "H L"]
    bias: Float[Array, " H"]
    weight_ih: Float[Array, "H I"]
    hidden_weight: Float[Array, "L H"] | None
    hidden_bias: Float[Array, " L"] | None
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    num_relus: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_rectified: int | None = None,
        num_hidden: int | None = None,
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
        - `num_rectified`: for the almost-linear form, how many units, the last ones, are rectified: 0 to H.
        - `num_hidden`: for the shallow form, the number L of ReLUs.
        - `diagonal_init`: uniform on [0.5, 0.9] when not given, a slow decay.
        - `weight_ih_init`, `weight_hh_init`, `bias_init`, `hidden_weight_init`, `hidden_bias_init`: see
            `rnndyn.initializers`; uniform on ±1/√(number of ReLUs read) and ±1/√H when not given.
        - `dtype`: of the weights; JAX's default float when not given.
        - `key`: a `jax.random.key` from which the weights are drawn.

        **Raises:** `ValueError` when both `num_rectified` and `num_hidden` are given, or one is out of range, or an
        initialiser is given for a weight that the form does not have.
        """
        check_sizes(input_size, hidden_size)
        is_shallow = num_hidden is not None
        if is_shallow and num_rectified is not None:
            raise ValueError("num_rectified: the shallow form (num_hidden) rectifies no unit; give one of the two.")
        if not is_shallow and (hidden_weight_init is not None or hidden_bias_init is not None):
            raise ValueError("hidden_weight_init, hidden_bias_init: only the shallow form (num_hidden) has them.")
        if is_shallow:
            check_at_least("num_hidden", num_hidden, 1)
        if num_rectified is not None and not 0 <= num_rectified <= hidden_size:
            raise ValueError(f"num_rectified: expected 0 to hidden_size = {hidden_size}, got {num_rectified}.")
        dtype = jnp.result_type(float) if dtype is None else dtype
        size, columns = hidden_size, num_hidden if num_hidden is not None else hidden_size
        diagonal_key, hh_key, bias_key, ih_key, weight_key, hidden_key = jax.random.split(key, 6)
        default, outer_default = inverse_sqrt_uniform(hidden_size), inverse_sqrt_uniform(columns)
        self.diagonal = draw("diagonal_init", diagonal_init or slow_decay, diagonal_key, (size,), dtype)
        self.weight_hh = draw("weight_hh_init", weight_hh_init or outer_default, hh_key, (size, columns), dtype)
        self.bias = draw("bias_init", bias_init or default, bias_key, (size,), dtype)
        self.weight_ih = draw("weight_ih_init", weight_ih_init or default, ih_key, (size, input_size), dtype)
        if is_shallow:
            self.hidden_weight = draw(
                "hidden_weight_init", hidden_weight_init or default, weight_key, (columns, size), dtype
            )
            self.hidden_bias = draw("hidden_bias_init", hidden_bias_init or default, hidden_key, (columns,), dtype)
        else:
            self.hidden_weight, self.hidden_bias = None, None
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_relus = columns if num_rectified is None else num_rectified

    @classmethod
    def from_weights(
        cls,
        diagonal: Numbers,
        weight_hh: Numbers,
        bias: Numbers,
        *,
        weight_ih: Numbers | None = None,
        num_rectified: int | None = None,
        hidden_weight: Numbers | None = None,
        hidden_bias: Numbers | None = None,
    ) -> "PiecewiseLinearCell":
        """The cell with these weights (shapes: see the class); without `weight_ih` it has no input.

        `hidden_weight` and `hidden_bias` make it the shallow form, `num_rectified` the almost-linear one.

        **Raises:** `ValueError` for a weight of another shape, or with NaN or infinity.
        """
        if len(shape_of(diagonal)) != 1:
            raise ValueError(f"diagonal: expected the diagonal of A, shape (H,), got shape {shape_of(diagonal)}.")
        hidden_size = shape_of(diagonal)[0]
        if weight_ih is None:
            weight_ih = np.zeros((hidden_size, 0), as_leaf("diagonal", diagonal).dtype)
        input_size, columns = sizes_of(weight_ih, weight_hh)
        weights = {"diagonal": diagonal, "weight_hh": weight_hh, "bias": bias, "weight_ih": weight_ih}
        if (hidden_weight is None) != (hidden_bias is None):
            raise ValueError("hidden_weight, hidden_bias: the shallow form needs both, the other forms neither.")
        if hidden_weight is not None:
            weights |= {"hidden_weight": hidden_weight, "hidden_bias": hidden_bias}
        num_hidden = None if hidden_weight is None else columns

        settings = {"input_size": input_size, "hidden_size": hidden_size}
        return build_with_weights(cls, settings | {"num_rectified": num_rectified, "num_hidden": num_hidden}, weights)

    def __call__(self, state: Any, input: Any) -> Float[Array, " H"]:
        """The next state.

        **Arguments:**

        - `state`: shape (H,).
        - `input`: shape (I,).

        **Returns:** the state one step later, shape (H,).

        **Raises:** `ValueError` for another shape, or a state that is not floating-point.
        """
        check_hidden(state, self.hidden_size)
        check_input(input, self.input_size)
        if self.hidden_weight is not None and self.hidden_bias is not None:
            features = jax.nn.relu(self.hidden_weight @ state + self.hidden_bias)
        else:
            num_linear = self.hidden_size - self.num_relus
            features = jnp.concatenate([state[:num_linear], jax.nn.relu(state[num_linear:])])
        return self.diagonal * state + self.weight_hh @ features + self.bias + self.weight_ih @ input

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))

    def output(self, state: Any) -> Array | np.ndarray:
        """What a readout sees: the state."""
        return state

    def state_bounds(self, input: Any) -> None:
        """`None`: a piecewise-linear cell may grow without bound."""
        input_bounds(input, self.input_size)

    @claim
    def relu_form(self, input: Any) -> ReluForm:
        """The cell with `input` (I,) held, as z' = linear z + outer relu(inner z + inner_bias) + offset."""
        check_input(input, self.input_size)
        linear = jnp.diag(self.diagonal)
        offset = self.bias + self.weight_ih @ input
        if self.hidden_weight is not None and self.hidden_bias is not None:
            return ReluForm(linear, self.weight_hh, self.hidden_weight, self.hidden_bias, offset)
        num_linear = self.hidden_size - self.num_relus
        return ReluForm(
            linear=linear.at[:, :num_linear].add(self.weight_hh[:, :num_linear]),
            outer=self.weight_hh[:, num_linear:],
            inner=jnp.eye(self.hidden_size, dtype=linear.dtype)[num_linear:],
            inner_bias=jnp.zeros(self.num_relus, linear.dtype),
            offset=offset,
        )

    @claim
    def pattern(self, state: Any) -> Bool[Array, " L"]:
        """Which of the L = `num_relus` rectifiers are on at `state` (H,): it names the linear region.

        On a border, where a pre-activation is zero, the rectifier counts as off; the map is continuous there.
        """
        check_hidden(state, self.hidden_size)
        if self.hidden_weight is not None and self.hidden_bias is not None:
            return jnp.matmul(self.hidden_weight, state) + self.hidden_bias > 0
        return jnp.asarray(state)[self.hidden_size - self.num_relus :] > 0

    @claim
    def affine_map(self, pattern: Any, input: Any) -> tuple[Float[Array, "H H"], Float[Array, " H"]]:
        """`(matrix, vector)` of z' = matrix z + vector in the region of `pattern` (L,), with `input` (I,) held.

        **Raises:** `ValueError` for a pattern of another length.
        """
        return affine_of(self.relu_form(input), pattern)
