"""Work dealt out to devices, of this process and of others: every device runs the same program on a part of a batch.

Parts are independent, so each device gets one of its own (no collective inside a program, no loop that waits for
another device's slowest item), and a part is computed as it is on one device. Only results travel, at the end.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_devices: ContextVar[tuple[jax.Device, ...] | None] = ContextVar("devices", default=None)


def check_devices(devices: Any) -> tuple[jax.Device, ...]:
    """The devices as a tuple; a `ValueError` where drivers cannot use them."""
    chosen = tuple(devices.devices.flat) if isinstance(devices, jax.sharding.Mesh) else devices
    if not isinstance(chosen, Sequence) or not chosen or not all(isinstance(d, jax.Device) for d in chosen):
        raise ValueError(
            f"devices: expected a non-empty sequence of JAX devices, such as jax.devices(), or a Mesh; got {devices!r}."
        )
    chosen = tuple(chosen)
    if len(set(chosen)) < len(chosen):
        raise ValueError("devices: the same device is given twice. Give each once.")
    owners = {device.process_index for device in chosen}
    if owners != {jax.process_index()} and owners != set(range(jax.process_count())):
        raise ValueError(
            f"devices: of {jax.process_count()} processes only {sorted(owners)} have one of them. Every process of a "
            "job takes part in a call: give jax.devices(), or jax.local_devices() to work apart."
        )
    if any(device.platform == "tpu" for device in chosen):
        raise ValueError("devices: drivers compute in float64, for which a TPU has no hardware. Leave devices out.")
    return chosen


@contextlib.contextmanager
def use_devices(devices: "Sequence[jax.Device] | jax.sharding.Mesh | None") -> Iterator[None]:
    """Deal out the work of the block; with `None` as the block around it does, or to the default device alone."""
    if devices is None:
        yield
        return
    token = _devices.set(check_devices(devices))
    try:
        yield
    finally:
        _devices.reset(token)


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Nothing in the block is dealt out, whatever is around it: it is computed where it is."""
    token = _devices.set(None)
    try:
        yield
    finally:
        _devices.reset(token)


def num_devices() -> int:
    """How many devices share the work here."""
    return len(_devices.get() or (None,))


def is_first_process() -> bool:
    """Whether this process writes the files of a job whose processes work together."""
    devices = _devices.get()
    return devices is None or not _several_processes(devices) or jax.process_index() == 0


def deal(function: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
    """`[function(part) for part in parts]` as NumPy arrays, one part for each device at the most.

    In a job of several processes all of them call it with the same parts, each computes those of its devices, and all
    get all results.
    """
    devices = _devices.get()
    if devices is None:
        return [jax.device_get(function(part)) for part in parts]
    if len(parts) > len(devices):
        raise ValueError(f"parts: expected at most one for each of {len(devices)} devices, got {len(parts)}.")
    together = _several_processes(devices)
    if together:
        # Every process computes something, so that it knows what shapes to expect from the others.
        parts = [*parts, *[parts[-1]] * (len(devices) - len(parts))]
    own = []
    for part, device in zip(parts, devices):
        if device.process_index != jax.process_index():
            continue
        with jax.default_device(device), on_one_device():
            out = function(jax.device_put(part, device))
        # Devices of a CPU share its cores, and programs that run at once can hang there (see `threads`).
        own.append(jax.block_until_ready(out) if device.platform == "cpu" else out)
    own = jax.device_get(own)
    return _gather(own, devices) if together else own


def deal_rows(function: Callable[[Any], Any], batch: Any) -> Any:
    """`function(batch)` for a batched function, the rows of the batch dealt out to the devices in equal parts."""
    num_parts = num_devices()
    if num_parts == 1:
        return deal(function, [batch])[0]
    num_rows = jax.tree.leaves(batch)[0].shape[0]
    size = -(-num_rows // num_parts)
    rows = np.minimum(np.arange(size * num_parts), num_rows - 1).reshape(num_parts, size)
    found = deal(function, [jax.tree.map(lambda a, r=part: np.asarray(a)[r], batch) for part in rows])
    return jax.tree.map(lambda *pieces: np.concatenate(pieces)[:num_rows], *found)


def _several_processes(devices: tuple[jax.Device, ...]) -> bool:
    return len({device.process_index for device in devices}) > 1


def _gather(own: list[Any], devices: tuple[jax.Device, ...]) -> list[Any]:
    """The results of all devices in their order, in every process."""
    owners = [device.process_index for device in devices]
    most = max(owners.count(process) for process in set(owners))
    own = [*own, *[own[-1]] * (most - len(own))]  # processes with fewer devices fill up
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *own)
    everything = jax.tree.map(np.asarray, multihost_utils.process_allgather(stacked))
    places = [(process, owners[:i].count(process)) for i, process in enumerate(owners)]
    return [jax.tree.map(lambda a, place=place: a[place], everything) for place in places]
