r"""Teacher forcing, and two ways between it and a network that runs freely on its own outputs."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.networks.adapters import as_cell, check_transition, for_sequence, is_random, step_keys
from rnndyn.networks.call import model_for_sequence, promote_state, wants_key
from rnndyn.networks.precision import widest
from rnndyn.training._norm import wide
from rnndyn.training.truncated import check_forwards


def scheduled_sampling(
    model: Any,
    inputs: Any,
    probability: Any,
    *,
    key: PRNGKeyArray,
    state: Any = None,
    feed_back: Callable[..., Array] = lambda output: output,
    sampling_key: PRNGKeyArray | None = None,
    mask: Any = None,
    noise_key: PRNGKeyArray | None = None,
) -> Float[Array, "T O"]:
    r"""Run a model that reads the true input at some steps and its own last output at the others.

    $$u_t = \begin{cases} \text{inputs}_t & \text{with probability } \epsilon \\ f(y_{t-1}) & \text{else}\end{cases},
    \qquad s_{t+1} = \text{cell}(s_t, u_t), \quad y_t = \text{readout}(s_{t+1}),$$

    independently at every step; the first input is always the true one. $\epsilon = 1$ is teacher forcing, and
    $\epsilon = 0$ free running, `model.generate(inputs[0], T, feed_back=f)`.

    **Arguments:**

    - `model`: an `RNN`, `StackedRNN` or `TokenRNN`.
    - `inputs`: the true inputs, (T, I), or tokens (T,).
    - `probability`: $\epsilon$, of the true input: a number, also traced, such as a schedule of the number of updates
        (`rnndyn.training.with_step`).
    - `key`: fixes at which steps the true input is read.
    - `state`: the state to start from; `model.start()` when not given.
    - `feed_back`: from an output to the next input, $f$: the output itself by default. With `sampling_key` it is called
        as `feed_back(output, key)`, to draw from the output: `lambda logits, key: jax.random.categorical(key, logits)`.
    - `sampling_key`: see `feed_back`.
    - `mask`: booleans (T,), true where the sequence has an entry. Elsewhere the state is held, and what `inputs` holds
        has no influence.
    - `noise_key`: for a model with noise or dropout, a `jax.random.key`: the cell draws as in `rnndyn.unroll` with it,
        the readout from the key of its step. Without it nothing else is random.

    Inputs of integers that are no tokens are read as floats, and inputs, weights and what is fed back meet in the
    widest of their dtypes.

    **Returns:** the outputs (T, O). Gradients pass through what is fed back where `feed_back` lets them; through a
    drawn token they do not, as in the paper.

    **Raises:** `ValueError` for an empty sequence, a probability outside [0, 1], a `feed_back` that does not give an
    input, or a `noise_key` for a model that draws nothing.

    ??? cite "Reference"
        S. Bengio, O. Vinyals, N. Jaitly & N. Shazeer (2015), "Scheduled sampling for sequence prediction with
        recurrent neural networks", NeurIPS.
    """
    if jnp.ndim(inputs) == 0 or jnp.shape(inputs)[0] == 0:
        raise ValueError(f"inputs: expected at least one step, got shape {jnp.shape(inputs)}.")
    _check_unit_interval("probability", probability)
    check_forwards(model)
    if hasattr(model, "check_tokens"):
        model.check_tokens(inputs, mask)
    inputs = jnp.asarray(inputs)
    length = inputs.shape[0]
    exists = _check_exists(mask, length)
    inputs = _hide(inputs, exists)
    state = model.start() if state is None else state
    true = jax.random.bernoulli(key, probability, (length,)).at[0].set(True)
    keys = None if sampling_key is None else jax.random.split(sampling_key, length)
    noise_keys = None if noise_key is None else jax.random.split(noise_key, length)
    if noise_key is not None:
        if not wants_key(model):
            raise ValueError(f"noise_key: this {type(model).__name__} has no noise; leave the key out.")
        model = model_for_sequence(model, noise_key)

    def noise(step_key: Any) -> dict[str, Any]:
        return {} if step_key is None else {"key": step_key}

    def feed(output: Array, step_key: Any) -> Array:
        return jnp.asarray(feed_back(output) if step_key is None else feed_back(output, step_key))

    # The dtype of the outputs depends on that of the inputs, and that on what is fed back.
    for _ in range(2):
        state = promote_state(lambda state, first=inputs[0]: model.step(state, first)[0], state)
        fed_back = eqx.filter_eval_shape(
            lambda state, first, k: feed(model.step(state, first)[1], k), state, inputs[0], jax.tree.map(_first, keys)
        )
        if hasattr(model, "check_tokens") and not jnp.issubdtype(fed_back.dtype, jnp.integer):
            raise ValueError(
                f"feed_back: this model reads tokens, integers; got {fed_back.dtype}. Try feed_back=jnp.argmax."
            )
        if fed_back.shape != inputs.shape[1:]:
            raise ValueError(
                f"feed_back: expected it to give an input of shape {inputs.shape[1:]}, got {fed_back.shape}."
            )
        inputs = inputs.astype(widest(inputs.dtype, fed_back.dtype))

    def step(carry: tuple[Any, Array], xs: tuple[Any, ...]) -> tuple[tuple[Any, Array], Array]:
        state, fed_back = carry
        input, is_true, step_key, noise_key, is_there = xs
        after, output = model.step(state, jnp.where(is_true, input, fed_back), **noise(noise_key))
        next_input = feed(output, step_key).astype(inputs.dtype)
        if is_there is not None:
            after, next_input = _hold(is_there, (after, next_input), (state, fed_back))
        return (after, next_input), output

    return jax.lax.scan(step, (state, jnp.zeros_like(inputs[0])), (inputs, true, keys, noise_keys, exists))[1]


def generalized_teacher_forcing(
    model: Any,
    targets: Any,
    alpha: Any,
    *,
    inputs: Any = None,
    teachers: Any = None,
    observed: Any = None,
    state: Any = None,
    mask: Any = None,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "T O"]:
    r"""Run a model whose state is drawn, after every step, towards one that gives the true output.

    $$x_{t+1} = F(\tilde x_t, u_t), \qquad y_{t+1} = C x_{t+1} + b, \qquad
    \tilde x_t = (1 - \alpha)\, x_t + \alpha\, \hat x_t, \qquad
    \hat x_t = x_t + C^+ (\hat y_t - y_t),$$

    where $\hat x_t$ is the state nearest to $x_t$ whose output is the true one. $\alpha = 0$ lets the model run freely,
    $\alpha = 1$ is teacher forcing. The gradient shrinks by $1 - \alpha$ per step along the directions that are read
    out, so that it stays bounded on a chaotic trajectory when $\alpha$ is large enough: for a state that is read out
    whole, $\alpha \geq 1 - e^{-\lambda_1}$ with the largest Lyapunov exponent $\lambda_1$ per step.

    **Arguments:**

    - `model`: an `RNN` whose readout is an `equinox.nn.Linear` of the state, and whose state is one vector (an LSTM's
        is not). With $C$ the first rows of the identity the observed units themselves are forced, as in the paper.
    - `targets`: the true outputs, (T, O), at the times of the outputs that are returned.
    - `alpha`: the strength $\alpha$ in [0, 1], also traced; or one for each step, (T,). Zeros and ones drawn at random
        make it scheduled sampling.
    - `inputs`: external inputs (T, I), where the cell has any; zeros by default.
    - `teachers`: the states $\hat x_t$ (T, N) that the run is drawn towards, in place of those nearest to $x_t$: what
        an encoder makes of the data (`encoded`), for one. The readout may then be any.
    - `observed`: booleans (T, O), true where a target was measured. The others draw nothing: the state moves so that
        measured outputs come nearer to their targets, and the others stay what the model says. What `targets` hold
        there, NaN included, has no influence. Not with `teachers`, of which each is a whole state.
    - `state`: the state to start from; `model.start()` when not given. To start on the data, use
        `nearest_state(model, state, y)`.
    - `mask`: booleans (T,), true where the sequence has an entry. Elsewhere the state is held, and what `inputs` and
        `targets` hold has no influence.
    - `key`: for a cell with noise or dropout, as in `rnndyn.unroll`. Without it nothing is random.

    **Returns:** the outputs (T, O) before forcing: the predictions to be compared with `targets`. The last target only
    enters that comparison.

    **Raises:** `ValueError` for a readout or a state of another kind, $\alpha$ outside [0, 1], shapes that do not fit,
    or a `key` for a cell that draws nothing.

    ??? cite "Reference"
        F. Hess, Z. Monfared, M. Brenner & D. Durstewitz (2023), "Generalized teacher forcing for learning chaotic
        dynamics", ICML.
    """
    targets = jnp.asarray(targets)
    _check_unit_interval("alpha", alpha)
    cell: Any = as_cell(model.cell)
    if key is not None and not is_random(cell):
        raise ValueError(f"key: {type(cell).__name__} has no noise; leave the key out.")
    cell = for_sequence(cell, key)
    if targets.ndim != 2 or len(targets) == 0:
        raise ValueError(f"targets: expected shape (T, O) with at least one step, got {targets.shape}.")
    state = model.start() if state is None else state
    if jax.tree.structure(state) != jax.tree.structure(0) or jnp.ndim(state) != 1:
        raise ValueError(f"model: expected its state to be one vector, got {jax.tree.map(jnp.shape, state)}.")
    inverse: Any = None
    if teachers is None:
        weight = _linear_readout(model).weight
        if targets.shape[1] != weight.shape[0]:
            raise ValueError(f"targets: expected shape (T, {weight.shape[0]}), got {targets.shape}.")
        if jnp.shape(state) != (weight.shape[1],):
            raise ValueError(
                f"model: expected its state to be one vector of {weight.shape[1]} entries, all read out, got "
                f"{jnp.shape(state)}."
            )
        inverse = jnp.linalg.pinv(wide(weight))
    elif jnp.shape(teachers) != (len(targets), len(state)):
        raise ValueError(
            f"teachers: expected a state for each target, {(len(targets), len(state))}, got {jnp.shape(teachers)}."
        )
    if inputs is None:
        inputs = jnp.zeros((len(targets), cell.input_size), targets.dtype)
    if len(inputs) != len(targets):
        raise ValueError(f"inputs: expected one for each of the {len(targets)} targets, got {len(inputs)}.")
    exists = _check_exists(mask, len(targets))
    targets, inputs = _hide(targets, exists), _hide(jnp.asarray(inputs), exists)
    if observed is not None:
        observed = check_observed(observed, targets.shape)
        if teachers is not None:
            raise ValueError("observed: with teachers it has no meaning. Pass alpha = 0 at the steps without one.")
        targets = jnp.where(observed, targets, 0)
    if teachers is not None:
        teachers = _hide(jnp.asarray(teachers), exists)
    state = check_transition(cell, state, inputs[0])
    # A target in a wider dtype than the network's draws the state towards it in that dtype.
    drawn = (inverse @ targets[0]).astype(targets.dtype) if teachers is None else teachers[0]
    state = promote_state(lambda x: cell(x, inputs[0]) + drawn, state)

    def step(x: Array, at: tuple[Any, ...]) -> tuple[Array, Array]:
        input, target, seen, teacher, alpha, is_there, noise_key = at
        after = cell(x, input, **({} if noise_key is None else {"key": noise_key}))
        output = model.read(after)
        towards = inverse @ _where_seen(seen, target - output) if teacher is None else teacher - after
        after = (after + alpha * towards).astype(x.dtype)
        return after if is_there is None else _hold(is_there, after, x), output

    alphas = jnp.broadcast_to(jnp.asarray(alpha, state.dtype), (len(targets),))
    keys = step_keys(cell, key, len(targets))
    return jax.lax.scan(step, state, (inputs, targets, observed, teachers, alphas, exists, keys))[1]


def nearest_state(model: Any, state: Array, output: Array, observed: Any = None) -> Float[Array, " N"]:
    r"""The state nearest to `state` whose output is the given one: $\hat x = x + C^+(\hat y - C x - b)$.

    **Arguments:**

    - `model`: as in `generalized_teacher_forcing`.
    - `state`: $x$, shape (N,).
    - `output`: $\hat y$, shape (O,).
    - `observed`: booleans (O,), true where the output was measured: the others stay those of `state`.

    **Returns:** $\hat x$, shape (N,). With more outputs than units the output is met in the sense of least squares.

    **Raises:** `ValueError` for a readout that is not linear, or a mask of another shape.
    """
    inverse = jnp.linalg.pinv(wide(_linear_readout(model).weight))
    if observed is not None:
        observed = check_observed(observed, jnp.shape(output))
        output = jnp.where(observed, output, 0)
    return state + inverse @ _where_seen(observed, output - model.read(state))


def inverse_sigmoid_decay(half_life: float, sharpness: float = 5.0) -> optax.Schedule:
    r"""A schedule for `scheduled_sampling` that falls from 1 to 0 along a sigmoid.

    $$\epsilon(i) = \sigma\bigl(a\,(1 - i / h)\bigr) = \frac{k}{k + e^{\,a i / h}}, \qquad k = e^a .$$

    Bengio et al. write $k / (k + e^{i/k})$, which is $h = k \ln k$ and $a = \ln k$.

    **Arguments:**

    - `half_life`: $h$, the number of updates after which it is 1/2, above 0.
    - `sharpness`: $a$, above 0; it starts at $\sigma(a)$.

    **Returns:** a function of the number of updates made, a scalar, with values between 0 and 1; traceable.

    **Raises:** `ValueError` for values that are not positive.

    Reference: S. Bengio, O. Vinyals, N. Jaitly & N. Shazeer (2015), *Scheduled sampling for sequence prediction with
    recurrent neural networks*.
    """
    for name, value in (("half_life", half_life), ("sharpness", sharpness)):
        if not value > 0:
            raise ValueError(f"{name}: expected a positive number, got {value}.")
    return lambda count: jax.nn.sigmoid(sharpness * (1 - count / half_life))


def with_step(loss: Callable[[Any, Any, Any], Any]) -> "WithStep":
    """A loss for `rnndyn.fit` that knows how many updates have been made, for what changes in the course of training.

    ```python
    def loss(model, batch, step):
        probability = schedule(step)
        ...
    rd.fit(model, rd.training.with_step(loss), ..., carry=0)
    ```

    **Arguments:**

    - `loss`: `loss(model, batch, step)` -> scalar; `step` counts the updates made before, from the `carry` on.

    **Returns:** `loss(model, batch, carry) -> (scalar, carry + 1)`, which `rnndyn.fit` takes together with `carry=0`.
    Two made of one function share a compilation.
    """
    return WithStep(loss)


class WithStep(eqx.Module):
    """What `with_step` returns."""

    # Static, so that two losses made of one function are one to jit.
    loss: Callable[[Any, Any, Any], Any] = eqx.field(static=True)

    def __call__(self, model: Any, batch: Any, step: Any) -> tuple[Any, Any]:
        return self.loss(model, batch, step), step + 1


def check_observed(observed: Any, shape: tuple[int, ...]) -> Array:
    """A mask of targets as an array, once it has their shape."""
    if jnp.shape(observed) != shape or jnp.result_type(observed) != jnp.bool_:
        raise ValueError(
            f"observed: expected a boolean for each target, {shape}, got {jnp.result_type(observed)} of shape "
            f"{jnp.shape(observed)}."
        )
    return jnp.asarray(observed)


def _where_seen(seen: Any, error: Array) -> Array:
    """Errors of outputs, zero where nothing was measured."""
    return error if seen is None else jnp.where(seen, error, 0)


def _check_exists(mask: Any, length: int) -> Any:
    if mask is None:
        return None
    if jnp.shape(mask) != (length,) or jnp.result_type(mask) != jnp.bool_:
        raise ValueError(
            f"mask: expected booleans of shape ({length},), got {jnp.result_type(mask)} of shape {jnp.shape(mask)}."
        )
    return jnp.asarray(mask)


def _hide(rows: Array, exists: Any) -> Array:
    """Zeros where there is no entry: a NaN there would come back through the gradient."""
    return rows if exists is None else jnp.where(exists.reshape(-1, *[1] * (rows.ndim - 1)), rows, 0)


def _hold(is_there: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(is_there, a, b), new, old)


def _first(leaf: Array) -> Array:
    return leaf[0]


def _linear_readout(model: Any) -> eqx.nn.Linear:
    # The exact type: a subclass may read out something else than its weights say.
    if type(model.readout) is not eqx.nn.Linear:
        raise ValueError(f"model: expected a linear readout, equinox.nn.Linear, got a {type(model.readout).__name__}.")
    return model.readout


def _check_unit_interval(name: str, value: Any) -> None:
    if not isinstance(value, Tracer) and not ((np.asarray(value) >= 0) & (np.asarray(value) <= 1)).all():
        raise ValueError(f"{name}: expected a number between 0 and 1, got {value}.")
