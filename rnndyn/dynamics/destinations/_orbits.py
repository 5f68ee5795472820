"""Fixed points and cycles as they are given: orbits that the map is to keep."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnndyn._programs import compiled
from rnndyn._validation import check_states
from rnndyn.dynamics.numerics.eigenvalues import orbit_product

Points = Array | np.ndarray | Sequence[Array | np.ndarray]


def as_cycles(name: str, points: Any) -> list[np.ndarray]:
    """Fixed points and cycles as a list of arrays (p, N), checked."""
    groups = list(points) if isinstance(points, list | tuple) else [points]
    cycles: list[np.ndarray] = []
    for group in groups:
        shape = np.shape(group)
        if len(shape) not in (1, 2, 3):
            raise ValueError(
                f"{name}: expected fixed points (K, N), cycles (K, p, N) or a list of such arrays, got shape {shape}."
            )
        array = np.asarray(group)
        if array.ndim == 1:
            array = array[None]
        check_states(name, array.reshape(-1, shape[-1]))
        array = array.astype(np.float64)
        cycles += list(array[:, None] if array.ndim == 2 else array)
    sizes = {cycle.shape[1] for cycle in cycles}
    if len(sizes) > 1:
        raise ValueError(f"{name}: expected states of one length, got {sorted(sizes)}.")
    if not cycles:
        raise ValueError(f"{name}: expected at least one fixed point or cycle, got none.")
    return cycles


@compiled
def jacobians_along(f: Callable, points: Any) -> Any:
    return jax.vmap(jax.jacfwd(f))(jnp.asarray(points))


@compiled
def _images(f: Callable, points: Any) -> Any:
    return jax.vmap(f)(jnp.asarray(points))


def check_kept(name: str, f: Callable, cycles: list[np.ndarray]) -> None:
    """Raise unless f takes every point to the next, as far as floating point tells."""
    for k, cycle in enumerate(cycles):
        defect = np.max(np.abs(np.asarray(_images(f, cycle)) - np.roll(cycle, -1, axis=0)))
        if not defect <= 1e-6 * (1 + np.max(np.abs(cycle))):
            what = "fixed point" if len(cycle) == 1 else f"cycle of period {len(cycle)}"
            raise ValueError(
                f"{name}: row {k} is no {what}: the map takes it {defect:.2g} away from itself. Polish it with "
                "find_fixed_points or find_cycles, and mind the input that the map holds."
            )


def check_stable(f: Callable, cycles: list[np.ndarray], jacobians: list[np.ndarray]) -> None:
    check_kept("points", f, cycles)
    for k, chain in enumerate(jacobians):
        if not np.isfinite(chain).all():
            continue
        largest = np.max(np.abs(np.linalg.eigvals(orbit_product(chain))))
        if largest > 1 + 1e-9:
            raise ValueError(
                f"points: row {k} is unstable, with a multiplier of modulus {largest:.6g}: no memory. Pass the stable "
                "ones only, points[is_stable]; a network may keep its memories as cycles (find_cycles)."
            )
