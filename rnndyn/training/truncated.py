r"""Truncated backpropagation through time: long sequences in windows, with the state carried from one to the next."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from rnndyn._validation import check_at_least


def truncated_bptt(trial_loss: Callable[..., Any]) -> "TruncatedLoss":
    r"""A loss for `rnndyn.fit` that goes on from the states in which the window before ended.

    With $s^-$ the states after the window before, and $\operatorname{sg}$ the stop of the gradient,

    $$L = \frac{1}{B} \sum_b \ell\bigl(\text{outputs from } \operatorname{sg}(s^-_b), \text{targets}_b\bigr),$$

    so the forward pass sees the whole past and the gradient the last window of it. Where a sequence starts anew, its
    state is `model.start()`, through which the gradient goes.

    ```python
    windows = rd.training.Windows((inputs, targets), 50)      # (B, T, I), (B, T, O)
    loss = rd.training.truncated_bptt(rd.training.mean_squared_error)
    rd.fit(model, loss, windows, optax.adam(1e-3), carry=rd.training.start_states(model, B), ...)
    ```

    **Arguments:**

    - `trial_loss`: `trial_loss(outputs, targets, mask)` -> scalar, for one sequence; without a mask in the batch it is
      called with the first two.

    **Returns:** a function `(model, window, states) -> (loss, states)` of a model with `start`, `states` and `read`,
    and a `Window` with a leading axis of sequences.

    ??? cite "Reference"
        R. J. Williams & J. Peng (1990), "An efficient gradient-based algorithm for on-line training of recurrent
        network trajectories", Neural Computation 2, 490-501.
    """
    return TruncatedLoss(trial_loss)


def start_states(model: Any, batch_size: int) -> PyTree[Array]:
    """The states from which `batch_size` sequences start: the `carry` of `rnndyn.fit` for `truncated_bptt`.

    **Raises:** `ValueError` for a `batch_size` below 1.
    """
    check_at_least("batch_size", batch_size, 1)
    return jax.tree.map(lambda leaf: jnp.tile(leaf, (batch_size, *[1] * jnp.ndim(leaf))), model.start())


class Window(NamedTuple):
    """A window of a batch of sequences, in the order of time: the batch of `truncated_bptt`."""

    inputs: Any
    """(B, T, I), or tokens (B, T)."""
    targets: Any
    """(B, T, O), or class numbers (B, T)."""
    mask: Any
    """(B, T), which steps count; `None` for all."""
    is_start: Bool[Array | np.ndarray, "*B"]
    """Whether the sequence starts with this window, so that the state carried over is not of its past."""


class Windows(eqx.Module):
    """Sequences cut into windows, one after the other: the `batches` of `rnndyn.fit` for `truncated_bptt`.

    Every sequence gives floor(T / num_steps) windows; the steps left over are dropped. After the last window all
    sequences start anew.
    """

    data: tuple[Any, ...]
    num_steps: int

    def __init__(self, data: tuple[Any, ...], num_steps: int):
        """
        **Arguments:**

        - `data`: `(inputs, targets)` or `(inputs, targets, mask)`, arrays with leading axes (B, T).
        - `num_steps`: steps of a window, at most T.

        **Raises:** `ValueError` when the arrays disagree about B and T, or a window is longer than the sequences.
        """
        if len(data) not in (2, 3):
            raise ValueError(f"data: expected (inputs, targets) or (inputs, targets, mask), got {len(data)} entries.")
        self.data = tuple(np.asarray(leaf) for leaf in data)
        shapes = [leaf.shape for leaf in self.data]
        if len({shape[:2] for shape in shapes}) != 1 or len(shapes[0]) < 2:
            raise ValueError(f"data: expected arrays with common leading axes (B, T), got the shapes {shapes}.")
        if not 1 <= num_steps <= shapes[0][1]:
            raise ValueError(
                f"num_steps: expected a window of 1 to {shapes[0][1]} steps, the length of the sequences, got "
                f"{num_steps}."
            )
        self.num_steps = num_steps

    @property
    def num_windows(self) -> int:
        """Windows per pass."""
        return self.data[0].shape[1] // self.num_steps

    def __iter__(self) -> Iterator[Window]:
        for index in range(self.num_windows):
            cut = slice(index * self.num_steps, (index + 1) * self.num_steps)
            inputs, targets, *mask = (leaf[:, cut] for leaf in self.data)
            is_start = np.full(len(inputs), index == 0)
            yield Window(inputs, targets, mask[0] if mask else None, is_start)


class TruncatedLoss(eqx.Module):
    """What `truncated_bptt` returns."""

    # Static, so that two losses made of one function are one to jit.
    trial_loss: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, model: Any, window: Window, states: PyTree[Array]) -> tuple[Float[Array, ""], PyTree[Array]]:
        def sequence(inputs: Any, targets: Any, mask: Any, is_start: Any, state: Any) -> tuple[Array, Any]:
            state = jax.tree.map(
                lambda first, old: jnp.where(is_start, first, jax.lax.stop_gradient(old)), model.start(), state
            )
            states = model.states(inputs, state)
            outputs = jax.vmap(model.read)(states)
            rest = () if mask is None else (mask,)
            return self.trial_loss(outputs, targets, *rest), jax.tree.map(lambda leaf: leaf[-1], states)

        losses, states = jax.vmap(sequence)(*window, states)
        return jnp.mean(losses), states
