"""Batches of trials, made anew from a key."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.tasks.registry import find_task
from rnndyn.tasks.trial import Trial


def batches(task: str | Callable[..., Trial], batch_size: int, **options: Any) -> "TrialBatches":
    """New trials for every batch: what `rnndyn.fit` takes as `batches` and `validation`.

    ```python
    rd.fit(model, loss, rd.tasks.batches("flip_flop", 128, num_bits=3), ...)
    ```

    **Arguments:**

    - `task`: the name of a task in `rnndyn.tasks.TASKS`, or any function of `key=` that returns a `Trial`.
    - `batch_size`: trials per batch.
    - `options`: further keyword arguments of the task.

    **Returns:** a pure function of a key that returns a `Trial` with leading axis `batch_size` on every array.

    **Raises:** `ValueError` for an unknown name, a batch size below 1, or an option that the task does not have or
    does not accept.
    """
    check_at_least("batch_size", batch_size, 1)
    generate = find_task(task).generate if isinstance(task, str) else task
    try:
        inspect.signature(generate).bind(key=None, **options)
    except TypeError as error:
        signature = f"{getattr(generate, '__name__', generate)}{inspect.signature(generate)}"
        raise ValueError(f"options: {signature} cannot be called with a key and {options}: {error}.") from error
    made = TrialBatches(generate, batch_size, tuple(sorted(options.items())))
    # An option out of range shows here and not in the middle of a compilation.
    jax.eval_shape(lambda: made(jax.random.key(0)))
    return made


class TrialBatches(eqx.Module):
    """What `batches` returns; two with the same task, size and options are one to jit."""

    generate: Callable[..., Trial] = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    options: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    @compiled
    def __call__(self, key: PRNGKeyArray) -> Trial:
        trial = lambda key: self.generate(key=key, **dict(self.options))
        return jax.vmap(trial)(jax.random.split(key, self.batch_size))
