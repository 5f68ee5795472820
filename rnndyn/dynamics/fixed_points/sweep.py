"""Fixed points of many maps of one structure: over held inputs, or over an ensemble of networks."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Int
from tqdm.auto import tqdm

from rnndyn.dynamics.fixed_points.fixed_points import FixedPoints, find_fixed_points
from rnndyn.results import Result, stack_verdicts


def find_fixed_points_sweep(
    maps: Callable[[Array], Array],
    candidates: ArrayLike,
    *,
    follow: bool = True,
    progress: bool = True,
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
        parameter.
    - `progress`: show a bar over the maps when it takes longer than two seconds.
    - `options`: passed to `find_fixed_points`.

    **Returns:** a `FixedPointSweep`: `len` is B, `sweep[i]` the `FixedPoints` of map i. Maps may have different numbers
    of points.

    **Raises:** `ValueError` when the arrays of `maps` have no common leading axis, and as `find_fixed_points` does.
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
    results: list[FixedPoints] = []
    for i in tqdm(range(num_maps), desc="sweep", delay=2.0, leave=False, disable=None if progress else True):
        f = jax.tree.map(lambda leaf, i=i: leaf[i] if eqx.is_array(leaf) else leaf, maps)
        own = starts[i] if starts.ndim == 3 else starts
        if follow and results and len(results[-1]):
            own = np.concatenate([own, results[-1].points.astype(own.dtype)])
        results.append(find_fixed_points(f, own, progress=False, **options))
    return FixedPointSweep(tuple(results))


class FixedPointSweep(Result):
    """The fixed points of each of B maps: `sweep[i]` are those of map i.

    - `results`: one `FixedPoints` for each map, in the order of the maps, B of them. Where the search of a map found
        nothing its result has no points, and its `unconverged` says where the candidates ended.
    """

    results: tuple[FixedPoints, ...]

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
