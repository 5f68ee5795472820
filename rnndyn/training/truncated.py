r"""Truncated backpropagation through time: long sequences in windows, with the state carried from one to the next."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from rnndyn._validation import check_at_least
from rnndyn.networks.call import wants_key
from rnndyn.networks.readouts import read_all
from rnndyn.training._data import to_numpy
from rnndyn.training.batch import Batch, as_batch, counting
from rnndyn.training.over_trials import OverTrials, check_classes, over_steps, over_trials


def truncated_bptt(
    trial_loss: Callable[..., Any], *, weigh: Literal["trials", "steps"] = "trials", ignore_index: int | None = None
) -> "TruncatedLoss":
    r"""A loss for `rnndyn.fit` that goes on from the states in which the window before ended.

    With $s^-$ the states after the window before, and $\operatorname{sg}$ the stop of the gradient,

    $$L = \frac{1}{B} \sum_b \ell\bigl(\text{outputs from } \operatorname{sg}(s^-_b), \text{targets}_b\bigr),$$

    so the forward pass sees the whole past and the gradient the last window of it. Where a sequence starts anew, its
    state is `model.start()`, through which the gradient goes. The mean is over the sequences of which a step counts in
    this window; where a sequence has no entries its state is held.

    ```python
    windows = rd.training.Windows((inputs, targets), 50)      # (B, T, I), (B, T, O)
    loss = rd.training.truncated_bptt(rd.training.mean_squared_error)
    rd.fit(model, loss, windows, optax.adam(1e-3), carry=rd.training.start_states(model, B), ...)
    ```

    **Arguments:**

    - `trial_loss`: `trial_loss(outputs, targets, mask)` -> scalar, for one sequence, the mask saying which steps count;
      without a mask in the window it is called with the first two.
    - `weigh`: whether all `"trials"` weigh the same, as in `over_trials`, or all `"steps"`, as in `over_steps`.
    - `ignore_index`: a class number in the targets that marks steps which do not count, such as -100.

    **Returns:** a function `(model, window, states, key=None) -> (loss, states)` of a model with `start`, `states` and
    `read`, and a `Window` with a leading axis of sequences.

    **Raises:** (the function) `ValueError` for a model that does not run forwards in time, or token numbers out of
    range where they are not traced.

    ??? cite "Reference"
        R. J. Williams & J. Peng (1990), "An efficient gradient-based algorithm for on-line training of recurrent
        network trajectories", Neural Computation 2, 490-501.
    """
    if weigh not in ("trials", "steps"):
        raise ValueError(f"weigh: expected 'trials' or 'steps', got {weigh!r}.")
    make = over_trials if weigh == "trials" else over_steps
    return TruncatedLoss(make(trial_loss, ignore_index=ignore_index))


def start_states(model: Any, batch_size: int) -> PyTree[Array]:
    """The states from which `batch_size` sequences start: the `carry` of `rnndyn.fit` for `truncated_bptt`.

    **Arguments:**

    - `model`: a model with `start()`, its state before the first step.
    - `batch_size`: B, the sequences of a batch.

    **Returns:** the state with a leading axis B on every leaf, all the same.

    **Raises:** `ValueError` for a `batch_size` below 1, or a model without `start`.
    """
    check_at_least("batch_size", batch_size, 1)
    check_forwards(model)
    return jax.tree.map(lambda leaf: jnp.tile(leaf, (batch_size, *[1] * jnp.ndim(leaf))), model.start())


class Window(NamedTuple):
    """A window of a batch of sequences, in the order of time: the batch of `truncated_bptt`."""

    inputs: Any
    """(B, T, I), or tokens (B, T)."""
    targets: Any
    """(B, T, O), or class numbers (B, T)."""
    counts: Any
    """(B, T), which steps count in the loss; `None` for all that exist."""
    is_start: Bool[Array | np.ndarray, "*B"]
    """Whether the sequence starts with this window, so that the state carried over is not of its past."""
    exists: Any = None
    """(B, T), which steps have an entry; `None` for all. The state is held where there is none."""


class Windows(eqx.Module):
    """Sequences cut into windows, one after the other: the `batches` of `rnndyn.fit` for `truncated_bptt`.

    Every sequence gives floor(T / num_steps) windows; the steps left over are dropped. After the last window all
    sequences start anew.
    """

    data: Batch
    num_steps: int

    def __init__(self, data: Any, num_steps: int):
        """
        **Arguments:**

        - `data`: a `Batch` (`rnndyn.training.pad_batch` makes one of sequences of unequal lengths), a `rnndyn.tasks`
          trial, or `(inputs, targets)`: arrays with leading axes (B, T).
        - `num_steps`: steps of a window, at most T.

        **Raises:** `ValueError` when the arrays disagree about B and T, a window is longer than the sequences, or a
        mask has no name.
        """
        if not isinstance(data, tuple | list) or (not hasattr(data, "_fields") and len(data) not in (2, 3)):
            raise ValueError(f"data: expected (inputs, targets) or a Batch, got {_size(data)}.")
        data = as_batch(jax.tree.map(to_numpy, data), model_reads_mask=True)
        self.data = Batch(*(None if leaf is None else np.asarray(leaf) for leaf in data))
        shapes = [leaf.shape for leaf in self.data if leaf is not None]
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
        return self.data.inputs.shape[1] // self.num_steps

    def __iter__(self) -> Iterator[Window]:
        for index in range(self.num_windows):
            cut = slice(index * self.num_steps, (index + 1) * self.num_steps)
            inputs, targets, counts, exists = (None if leaf is None else leaf[:, cut] for leaf in self.data)
            yield Window(inputs, targets, counts, np.full(len(self.data.inputs), index == 0), exists)


class TruncatedLoss(eqx.Module):
    """What `truncated_bptt` returns."""

    # Static, so that two losses made of one function are one to jit.
    batch_loss: OverTrials = eqx.field(static=True)

    def __call__(
        self, model: Any, window: Window, states: PyTree[Array], *, key: Any = None
    ) -> tuple[Float[Array, ""], PyTree[Array]]:
        check_forwards(model)
        num_sequences = jnp.shape(window.is_start)[0]
        batch = Batch(window.inputs, window.targets, window.counts, window.exists)
        check_classes(self.batch_loss.trial_loss, self.batch_loss.ignore_index, model, batch)
        keys = jax.random.split(key, num_sequences) if key is not None and wants_key(model) else None

        def sequence(window: Window, state: Any, key: Any) -> tuple[Array, Array, Any]:
            start = model.start()
            state = jax.tree.map(
                lambda first, old: jnp.where(window.is_start, first, jax.lax.stop_gradient(old)),
                start,
                state,
            )
            options = {} if key is None else {"key": key}
            states = model.states(window.inputs, state, window.exists, **options)
            outputs = read_all(model.read, getattr(model, "network", model).readout, states, key=key)
            counts = counting(window.counts, window.exists)
            return *self.batch_loss.of_outputs(outputs, window.targets, counts), jax.tree.map(lambda s: s[-1], states)

        losses, weights, after = jax.vmap(sequence)(window, states, keys)
        return self.batch_loss.mean(losses, weights), after

    def first_carry(self, model: Any, window: Window) -> PyTree[Array]:
        """States for the sequences of `window`, however many they are: what a validation starts from."""
        return start_states(model, jnp.shape(window.is_start)[0])


def check_forwards(model: Any) -> None:
    """Raise unless a model runs forwards in time from a state."""
    network = getattr(model, "network", model)
    if not all(hasattr(network, name) for name in ("start", "states", "read")):
        raise ValueError(
            f"model: expected one that runs forwards from a state, with start, states and read; got a "
            f"{type(network).__name__}. For whole sequences use rnndyn.training.over_trials."
        )


def _size(data: Any) -> str:
    return f"{len(data)} entries" if isinstance(data, tuple | list) else f"a {type(data).__name__}"
