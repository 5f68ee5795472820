"""Fixed points of many maps of one structure: over held inputs, or over an ensemble of networks."""

import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int
from tqdm.auto import tqdm

from rnndyn.dynamics.fixed_points._family import MOST_MEMBERS, Family
from rnndyn.dynamics.fixed_points._side_by_side import side_by_side
from rnndyn.dynamics.fixed_points.fixed_points import (
    check_options,
    find_fixed_points,
    search_for_fixed_points,
    warn_of_missing,
)
from rnndyn.dynamics.fixed_points.point_list import FixedPoints
from rnndyn.dynamics.numerics.devices import is_first_process, use_devices
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.identity import identity
from rnndyn.results import Result, load, stack_verdicts

_WRITE_EVERY = 5.0
"""Seconds between two writes of the file of a sweep: what is lost when the process is killed."""

MOST_UNITS_AT_ONCE = 64
"""States up to this length are searched for many maps at once. Longer ones keep a program busy by themselves."""


def find_fixed_points_sweep(
    maps: Callable[[Array], Array],
    candidates: ArrayLike,
    *,
    follow: bool = True,
    path: str | Path | None = None,
    progress: bool = True,
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
    **options: Any,
) -> "FixedPointSweep":
    """Find the fixed points of every map of a batch, with one compilation for all.

    ```python
    over_inputs = eqx.filter_vmap(lambda u: rd.as_map(cell, u))(inputs)      # inputs (B, I)
    over_networks = eqx.filter_vmap(rd.as_map)(cells)                        # a leading axis on every leaf
    sweep = rd.find_fixed_points_sweep(over_inputs, candidates)
    sweep[3].points, sweep.counts
    ```

    **Arguments:**

    - `maps`: a map whose arrays all have a leading axis B, as `equinox.filter_vmap` makes it.
    - `candidates`: starting points for all maps, `(K, N)`, or for each its own, `(B, K, N)`.
    - `follow`: add the points of the map before to the candidates, which keeps track of points along a sweep of one
        parameter. Without it maps do not wait for one another: those with states of up to 64 entries are searched 64
        at a time, in the same programs, which takes a fraction of the time.
    - `path`: a file (.npz) that the finished maps are added to, every few seconds and where the sweep is interrupted;
        `rnndyn.load` reads it. The same sweep continues from it, to the same result; another one refuses to.
    - `progress`: show a bar over the maps when it takes longer than two seconds.
    - `devices`: as in `find_fixed_points`: the candidates of each map are dealt out to them.
    - `options`: passed to `find_fixed_points`. What that finds for a map alone is found here, to rounding; of a
        chaotic map rounding may decide where a single candidate ends.

    **Returns:** a `FixedPointSweep`: `len` is B, `sweep[i]` the `FixedPoints` of map i. Maps may have different numbers
    of points.

    **Raises:** `ValueError` when the arrays of `maps` have no common leading axis, for a file of another sweep, and as
    `find_fixed_points` does.
    """
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(eqx.filter(maps, eqx.is_array))}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            "maps: expected a map whose arrays share a leading axis, as equinox.filter_vmap(lambda u: as_map(cell, u))"
            f"(inputs) makes it; got leading axes {sorted(sizes)}."
        )
    num_maps = next(iter(sizes))[0]
    starts = np.asarray(candidates)
    if starts.ndim == 3 and len(starts) != num_maps:
        raise ValueError(f"candidates: expected a leading axis of {num_maps}, one set for each map, got {len(starts)}.")
    rows = jax.tree.map(_on_host, maps)
    own_map = lambda i: jax.tree.map(lambda leaf, row: _row(leaf, row, i), maps, rows)
    file, this = None, ""
    results: list[FixedPoints] = []
    if path is not None:
        file = Path(path) if Path(path).suffix == ".npz" else Path(f"{path}.npz")
        settings = [follow, sorted((name, repr(value)) for name, value in options.items())]
        this = identity(
            settings, (eqx.filter(maps, eqx.is_array), starts), own_map(0), starts.reshape(-1, starts.shape[-1])[0]
        )
        results = _read(file, this)
    at_once = 1 if follow or starts.shape[-1] > MOST_UNITS_AT_ONCE else MOST_MEMBERS
    with use_devices(devices):
        written, last_write = len(results), time.monotonic()
        bar = tqdm(
            initial=len(results),
            total=num_maps,
            desc="sweep",
            delay=2.0,
            leave=False,
            disable=None if progress else True,
        )
        try:
            while len(results) < num_maps:
                chosen = range(len(results), min(len(results) + at_once, num_maps))
                own = [starts[i] if starts.ndim == 3 else starts for i in chosen]
                if follow and results and len(results[-1]):
                    own[0] = np.concatenate([own[0], results[-1].points.astype(own[0].dtype)])
                results += _find_all([own_map(i) for i in chosen], own, options)
                bar.update(len(chosen))
                if file is not None and time.monotonic() - last_write > _WRITE_EVERY:
                    _write(file, this, results)
                    written, last_write = len(results), time.monotonic()
        finally:
            bar.close()
            if file is not None and len(results) > written:
                _write(file, this, results)
    return FixedPointSweep(tuple(results), this)


def _find_all(maps: list[Any], starts: list[np.ndarray], options: dict[str, Any]) -> list[FixedPoints]:
    """The fixed points of several maps: of those of one program side by side, else one map after another."""
    found = _find_side_by_side(maps, starts, options) if len(maps) > 1 else None
    if found is None:
        found = [find_fixed_points(f, own, progress=False, **options) for f, own in zip(maps, starts)]
    return found


def _find_side_by_side(maps: list[Any], starts: list[np.ndarray], options: dict[str, Any]) -> list[FixedPoints] | None:
    bound = inspect.signature(find_fixed_points).bind(maps[0], starts[0], progress=False, **options)
    bound.apply_defaults()
    settings = {name: value for name, value in bound.arguments.items() if name not in ("f", "candidates", "devices")}
    for own in starts:
        check_options(own, settings["max_steps"], settings["max_rounds"], settings["num_paths"])
    with double_precision():
        doubled = [np.asarray(own, np.float64) for own in starts]
        programs = [let_in(f, own[0]) for f, own in zip(maps, doubled)]
        family = Family.of(programs)
        # The pieces of work are batched for states without angles.
        if family is None or any(program.period is not None for program in programs):
            return None
        searches = [search_for_fixed_points(f, own, **settings) for f, own in zip(programs, doubled)]
        found = side_by_side(searches, family)
    for result in found:
        warn_of_missing(result)
    return found


def _on_host(leaf: Any) -> Any:
    """An array of JAX as one of NumPy: to take a row of it on a device is a program for every shape."""
    is_plain = isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    return np.asarray(leaf) if is_plain and leaf.is_fully_addressable else leaf


def _row(leaf: Any, on_host: Any, i: int) -> Any:
    """Row i of an array, of the kind and dtype that the array has."""
    if not eqx.is_array(leaf):
        return leaf
    is_moved = isinstance(leaf, jax.Array) and isinstance(on_host, np.ndarray)
    return jnp.asarray(on_host[i], on_host.dtype) if is_moved else on_host[i]


def _read(file: Path, this: str) -> list[FixedPoints]:
    if not file.exists():
        return []
    found = load(file)
    if not isinstance(found, FixedPointSweep) or found.identity != this:
        raise ValueError(
            f"path: {file} does not hold the beginning of this sweep (other maps, candidates or options, or no sweep "
            "at all). Choose another path, or delete the file to start over."
        )
    return list(found.results)


def _write(file: Path, this: str, results: list[FixedPoints]) -> None:
    if is_first_process():
        FixedPointSweep(tuple(results), this).save(file)


class FixedPointSweep(Result):
    """The fixed points of each of B maps: `sweep[i]` are those of map i.

    - `results`: one `FixedPoints` for each map, in the order of the maps, B of them. Where the search of a map found
        nothing its result has no points, and its `unconverged` says where the candidates ended.
    - `identity`: a hash of what is computed, where the sweep has a file.
    """

    results: tuple[FixedPoints, ...]
    identity: str = ""

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> FixedPoints:
        return self.results[index]

    @property
    def counts(self) -> Int[np.ndarray, " B"]:
        """The number of fixed points of each map."""
        return np.array([len(result) for result in self.results], int)

    @property
    def completeness(self) -> Any:
        """Whether all fixed points of each map were found, a batch `(B,)` of `CompletenessVerdict`."""
        return stack_verdicts([result.completeness for result in self.results])

    @property
    def num_stable(self) -> Int[np.ndarray, " B"]:
        """The number of stable fixed points of each map."""
        return np.array([result.is_stable.sum() for result in self.results], int)

    def table(self) -> str:
        lines = [f"Fixed points of {len(self)} maps", "   map  points  stable  index sum"]
        shown = range(len(self)) if len(self) <= 20 else [*range(10), *range(len(self) - 10, len(self))]
        for i in shown:
            lines.append(f"  {i:4d}  {self.counts[i]:6d}  {self.num_stable[i]:6d}  {self[i].index_sum:9d}")
        if len(self) > 20:
            lines.insert(12, "   ...")
        return "\n".join(lines)
