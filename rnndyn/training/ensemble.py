"""Training many networks of one structure at once."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from rnndyn.training._loop import Settings, train
from rnndyn.training.callbacks import Callback
from rnndyn.training.fit import FitResult
from rnndyn.training.history import History


def fit_ensemble(
    models: Any,
    loss: Callable[..., Any],
    batches: Any,
    optimizer: Any,
    *,
    num_steps: int,
    key: PRNGKeyArray,
    learning_rate: Any = None,
    max_grad_norm: float | None = None,
    validation: Any = None,
    metric: Callable[[Any, Any], Any] | None = None,
    carry: Any = None,
    validate_every: int = 100,
    target: float | None = None,
    patience: int | None = None,
    snapshots_every: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
    progress: bool = True,
    trainable: Any = None,
    precision: Any = None,
    callbacks: Sequence[Callback] = (),
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
) -> "EnsembleFitResult":
    """Train E networks of one structure side by side, as E independent runs of `rnndyn.fit`.

    ```python
    make = lambda key: rd.RNN(...)
    models = eqx.filter_vmap(make)(jax.random.split(key, 5))
    trained = rd.fit_ensemble(models, loss, batches, optax.adam(1e-2), num_steps=600, key=key)
    trained.member(3).model
    ```

    Member i gets what `fit` with the key `jax.random.split(key, E)[i]` gives, up to rounding: the same batches
    where `batches` is a function of a key (an iterable's batches are shared), its own clipping, optimiser state,
    best model and early stop. A member that has stopped keeps its parameters while the others go on; training ends
    when all have stopped.

    **Arguments:** those of `rnndyn.fit`, except

    - `models`: a model each of whose arrays has a leading axis E.
    - `validation`: a batch is shared by the members; a function of a key gives each its own.
    - `carry`: the first one is that of every member; each then has its own.
    - `target`, `patience`: apply to each member by itself.
    - `devices`: JAX devices of this process, or a `jax.sharding.Mesh` of them, that share the members, as many each:
        their number divides E.

    **Returns:** an `EnsembleFitResult`. A member whose loss or gradient was not finite has stopped there; it is
    named in a warning, in the printed table and by `.diverged`, and does not disturb the others.

    **Raises:** `ValueError` as `fit` does, and when the arrays of `models` have no common leading axis.
    `EnsembleDivergenceError`, a `FloatingPointError`, when every member diverged; its `result` holds the runs up to
    there.
    """
    # Arrays of NumPy, as a model has that came from the device, are arrays too.
    models = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, models)
    num_members = _num_members(models)
    keys = jax.random.split(key, num_members)
    if devices is not None:
        models, keys = _spread((models, keys), num_members, devices)
    settings = Settings(
        num_steps=num_steps,
        max_grad_norm=max_grad_norm,
        validate_every=validate_every,
        target=target,
        patience=patience,
        snapshots_every=snapshots_every,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        progress=progress,
        trainable=trainable,
        precision=precision,
        callbacks=tuple(callbacks),
    )
    run, schedule = train(
        models,
        loss,
        batches,
        optimizer,
        keys=keys,
        learning_rate=learning_rate,
        validation=validation,
        metric=metric,
        carry=carry,
        settings=settings,
        ensemble=True,
    )
    result = EnsembleFitResult(
        models=run.best_model,
        last_models=run.model,
        snapshots=tuple(run.snapshots),
        snapshot_steps=run.snapshot_steps,
        histories=tuple(run.history(member, schedule) for member in range(num_members)),
    )
    if result.diverged:
        failures = ", ".join(f"{i} (at step {len(result.histories[i].losses)})" for i in result.diverged)
        advice = "Try max_grad_norm=1, a smaller learning rate or a smaller initial gain of the recurrent weights."
        if run.failures:
            advice = "Because of the data: " + "; ".join(f"of {i}, {why}" for i, why in run.failures.items()) + "."
        if len(result.diverged) == num_members:
            raise EnsembleDivergenceError(f"Training diverged in every member: {failures}. {advice}", result)
        count = f"{len(result.diverged)} of {num_members}"
        warnings.warn(f"Training diverged in {count} members: {failures}. {advice}", stacklevel=2)
    return result


class EnsembleFitResult(eqx.Module):
    """The networks of an ensemble and how each came about."""

    models: Any
    """The best model of every member, each array with a leading axis E."""
    last_models: Any
    """The model of every member after its last update."""
    snapshots: tuple[Any, ...]
    """The models of all members at `snapshot_steps`, where `snapshots_every` was given."""
    snapshot_steps: Int[np.ndarray, " S"]
    """How many steps had been made at each snapshot; a member that had stopped before is as it was then."""
    histories: tuple[History, ...]
    """One history per member; a member that stopped early has a shorter one."""

    def __len__(self) -> int:
        return len(self.histories)

    @property
    def diverged(self) -> tuple[int, ...]:
        """The members whose loss or gradient was not finite."""
        return tuple(i for i, history in enumerate(self.histories) if history.stopped == "diverged")

    def member(self, index: int) -> FitResult:
        """One network, as `rnndyn.fit` would have returned it.

        **Raises:** `ValueError` when there is no such member.
        """
        if not 0 <= index < len(self):
            raise ValueError(f"index: expected 0 to {len(self) - 1}, got {index}.")
        take = lambda tree: jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, tree)
        history = self.histories[index]
        return FitResult(
            model=take(self.models),
            last_model=take(self.last_models),
            snapshots=tuple(take(snapshot) for snapshot in self.snapshots[: len(history.snapshot_steps)]),
            history=history,
        )

    def __str__(self) -> str:
        lines = [f"EnsembleFitResult: {len(self)} members", "  member   steps       loss  best validation  stopped by"]
        for i, history in enumerate(self.histories):
            best = history.best_validation_loss
            validation = "-" if best is None else f"{best:.3g}"
            last = f"{history.losses[-1]:.3g}" if history.losses.size else "-"
            lines.append(f"  {i:>6}  {len(history.losses):>6}  {last:>9}  {validation:>15}  {history.stopped}")
        return "\n".join(lines)


def _num_members(models: Any) -> int:
    leaves = [leaf for leaf in jax.tree.leaves(models) if eqx.is_array(leaf)]
    lengths = {leaf.shape[:1] for leaf in leaves}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(
            f"models: expected arrays with one common leading axis of members, got the shapes "
            f"{[leaf.shape for leaf in leaves]}. Make them with eqx.filter_vmap(make_model)(jax.random.split(key, E))."
        )
    ((num_members,),) = lengths
    if num_members == 0:
        raise ValueError("models: expected at least one member, got a leading axis of length 0.")
    return num_members


def _spread(tree: Any, num_members: int, devices: Any) -> Any:
    """The arrays of `tree`, each with a leading axis of members, laid out over devices; programs follow their data."""
    chosen = list(devices.devices.flat if isinstance(devices, jax.sharding.Mesh) else devices)
    if not chosen or any(device.process_index != jax.process_index() for device in chosen):
        raise ValueError(f"devices: expected devices of this process (jax.local_devices()), got {devices!r}.")
    if num_members % len(chosen):
        raise ValueError(
            f"devices: {num_members} members cannot be shared by {len(chosen)} devices, as many each. "
            "Take a number of members that the number of devices divides, or fewer devices."
        )
    mesh = jax.sharding.Mesh(np.array(chosen), ("members",))
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("members"))
    return jax.tree.map(lambda leaf: jax.device_put(leaf, layout) if eqx.is_array(leaf) else leaf, tree)


class EnsembleDivergenceError(FloatingPointError):
    """Training met losses or gradients that are not finite in every member of an ensemble."""

    result: EnsembleFitResult
    """The runs up to there; `last_models` are those whose loss or gradient is not finite."""

    def __init__(self, message: str, result: EnsembleFitResult):
        self.result = result
        super().__init__(message)
