"""Lyapunov exponents of a whole family of systems: gains, seeds, networks."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int
from tqdm.auto import tqdm

from rnndyn._archive import read_archive, write_archive
from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.dynamics.growth._arguments import check_growth_arguments, check_growth_settings
from rnndyn.dynamics.growth._frame_run import Plan, make_plan, run_frame_forward
from rnndyn.dynamics.growth._spectrum_summary import summarise
from rnndyn.dynamics.growth.verdicts import GrowthVerdict
from rnndyn.dynamics.numerics.devices import deal, is_first_process, num_devices
from rnndyn.dynamics.numerics.drivers import MEMORY_BUDGET, double_precision
from rnndyn.dynamics.numerics.frames import random_frame
from rnndyn.dynamics.numerics.identity import identity
from rnndyn.results import Judged

_KEPT = (
    "exponents",
    "stderr",
    "kaplan_yorke_dimension",
    "kaplan_yorke_stderr",
    "entropy_rate",
    "entropy_stderr",
    "sum",
    "sum_rule_defect",
    "first_nonfinite",
    "result",
)

CACHE_BUDGET = 2 * 2**20
"""Bytes of what one core of a CPU works on that stay near it: its second-level cache."""


def lyapunov_sweep(
    build: Callable[..., tuple[Callable, Any]],
    axes: Mapping[str, ArrayLike | Sequence],
    num_steps: int,
    *,
    num_exponents: int | None = None,
    num_transient: int = 0,
    qr_every: int | None = None,
    dt: float | int = 1.0,
    chunk_size: int | None = None,
    path: str | Path | None = None,
    progress: bool = True,
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
) -> "LyapunovSweep":
    r"""The Lyapunov spectrum at every point of a grid of parameters, seeds or networks, in float64 and in chunks.

    $$\lambda_i(p) = \lim_{T \to \infty} \frac{1}{T\,dt} \sum_{t=1}^{T} \ln (R_t)_{ii}, \qquad
    DF_p(x_t)\, Q_t = Q_{t+1} R_{t+1}, \qquad p \in \text{axis}_1 \times \text{axis}_2 \times \dots$$

    **Arguments:**

    - `build`: makes the system at one grid point, `build(gain=..., seed=...) -> (f, x0)`, with the names of `axes`.
      It is traced, so it is written in JAX: weights are drawn with `jax.random.key(seed)`.
    - `axes`: the values along each axis of the grid, by name, e.g. `{"gain": [1.2, 2.0], "seed": range(5)}`.
    - `num_steps`, `num_exponents`, `num_transient`, `qr_every`, `dt`: as in `lyapunov_spectrum`.
    - `chunk_size`: grid points computed at once. By default as many as 256 MB hold, on a CPU as many as its cache
      holds (2 MB), and at least eight chunks when there is a `path` to resume from.
    - `path`: a file that every finished chunk is added to. A sweep that was interrupted continues from it; one with
      other axes or settings, or of a `build` that does something else, refuses to. The processes of a job share it:
        the first one writes.
    - `progress`: whether to show a bar.
    - `devices`: JAX devices, or a `jax.sharding.Mesh` of them, that share the work; also those of other processes
        (`jax.distributed`), which then all make this call. By default the default device.

    **Returns:** a `LyapunovSweep` in float64, whatever the global flag.

    **Raises:** `ValueError` for an empty axis, axes that are not one-dimensional, a file of another sweep, or one that
    is damaged.

    The systems of one chunk run side by side (`vmap`), orthonormalised together as often as the worst of them needs.
    Another `num_steps`, `num_transient`, `qr_every` or `dt` compiles nothing new, from 64 steps on. All start anew: for
    the continuation of one state along a parameter see `orbit_diagram`.

    ??? cite "Reference"
        G. Benettin, L. Galgani, A. Giorgilli & J.-M. Strelcyn (1980), "Lyapunov characteristic exponents for smooth
        dynamical systems and for Hamiltonian systems", Meccanica 15.
    """
    names = tuple(axes)
    values = {name: np.asarray(list(axis) if isinstance(axis, range) else axis) for name, axis in axes.items()}
    if not names:
        raise ValueError("axes: expected at least one axis, got none.")
    for name, axis in values.items():
        if axis.ndim != 1 or axis.size == 0:
            raise ValueError(f"axes: expected one-dimensional, non-empty values; {name!r} has shape {axis.shape}.")
    if chunk_size is not None:
        check_at_least("chunk_size", chunk_size, 1)
    shape = tuple(axis.size for axis in values.values())
    grid = np.array(list(itertools.product(*(range(size) for size in shape))))
    check_growth_settings(num_steps, num_transient, qr_every)
    plan = make_plan(num_steps, num_transient, qr_every, None)

    with double_precision(devices):
        points = {name: values[name][grid[:, i]] for i, name in enumerate(names)}
        points = {name: p.astype(np.float64) if p.dtype.kind == "f" else p for name, p in points.items()}
        first = {name: p[0] for name, p in points.items()}
        if chunk_size is None:
            chunk_size = _default_chunk(build, first, len(grid), path, num_exponents)
        fingerprint = ""
        if path is not None:
            settings = [names, num_steps, num_exponents, num_transient, qr_every, float(dt)]
            fingerprint = identity(settings, list(values.values()), lambda p: _image(build, p), first)
        done = _read(path, fingerprint)
        compute = lambda part: _chunk(build, part, plan, np.asarray(dt, np.float64), num_exponents)
        with tqdm(
            total=len(grid),
            initial=len(done["result"]),
            desc="Lyapunov exponents",
            delay=2.0,
            leave=False,
            disable=None if progress else True,
        ) as bar:
            while (count := len(done["result"])) < len(grid):
                starts = range(count, min(count + chunk_size * num_devices(), len(grid)), chunk_size)
                parts = [{k: _padded(p[s : s + chunk_size], chunk_size) for k, p in points.items()} for s in starts]
                found = deal(compute, parts)
                new = {name: np.concatenate([part[name] for part in found])[: len(grid) - count] for name in _KEPT}
                done = {name: np.concatenate([done[name], new[name]]) if count else new[name] for name in _KEPT}
                _write(path, fingerprint, done)
                bar.update(len(new["result"]))

    fields: dict[str, Any] = {name: array.reshape(shape + array.shape[1:]) for name, array in done.items()}
    fields["result"] = jax.tree.map(lambda _: fields["result"], GrowthVerdict.converged)
    return LyapunovSweep(axis_names=names, axis_values=values, **fields)


class LyapunovSweep(Judged):
    """The k largest Lyapunov exponents on a grid, with the evidence at every point of it.

    Every array has one leading axis per name in `axis_names`, in that order; "..." stands for them. Points whose
    trajectory left the floating-point range have NaN for rates and errors, and `not_finite` in `result`.
    """

    axis_names: tuple[str, ...]
    """The names of the axes of the grid, the slowest first."""
    axis_values: dict[str, np.ndarray]
    """The values along each axis, by its name."""
    exponents: Float[np.ndarray, "... k"]
    """The exponents, descending, in nats per step or per unit time."""
    stderr: Float[np.ndarray, "... k"]
    """Their standard errors (batch means)."""
    kaplan_yorke_dimension: Float[np.ndarray, "..."]
    """$j + (\\lambda_1 + \\dots + \\lambda_j) / |\\lambda_{j+1}|$; NaN where k exponents do not reach it."""
    kaplan_yorke_stderr: Float[np.ndarray, "..."]
    """Its standard error."""
    entropy_rate: Float[np.ndarray, "..."]
    """The sum of the positive exponents; NaN where all of k < N are positive."""
    entropy_stderr: Float[np.ndarray, "..."]
    """Its standard error."""
    sum: Float[np.ndarray, "..."]
    """The growth rate of k-dimensional volume, in nats per step or per unit time."""
    sum_rule_defect: Float[np.ndarray, "..."]
    """For k = N, how far that is from the mean of ln |det DF|, over four blocks of the window."""
    first_nonfinite: Int[np.ndarray, "..."]
    """The step, counted from the start of the transient, that left the floating-point range; -1 if none did."""
    result: GrowthVerdict
    """The verdicts, a batch of `GrowthVerdict`; `message` has them in words."""

    @property
    def converged(self) -> Bool[Array | np.ndarray, "..."]:
        """Where every check of the run passed."""
        return (self.result == GrowthVerdict.converged) | (self.result == GrowthVerdict.singular)

    def table(self) -> str:
        grid = " x ".join(f"{name} ({len(self.axis_values[name])})" for name in self.axis_names)
        lines = [f"LyapunovSweep over {grid}"]
        for message, count in zip(*np.unique(self.message, return_counts=True)):
            lines.append(f"  {count:>5} {message}")
        first = self.axis_names[0]
        others = tuple(range(1, len(self.axis_names)))
        lines.append(
            f"  {first:>12}   lambda_1   D_KY      (means over the other axes)"
            if others
            else f"  {first:>12}   lambda_1   D_KY"
        )
        for value, largest, dimension in zip(
            self.axis_values[first],
            self.exponents[..., 0].mean(axis=others),
            self.kaplan_yorke_dimension.mean(axis=others),
        ):
            lines.append(f"  {value!s:>12} {largest:>10.5f} {dimension:>7.3f}")
        return "\n".join(lines)


@compiled
def _chunk(build, points, plan: Plan, dt, num_exponents) -> dict[str, Array]:
    def one(point):
        f, x0 = build(**point)
        f, x0, _, k = check_growth_arguments(f, x0, 1, 0, None, num_exponents)
        frame = random_frame(x0.shape[0], k, x0.dtype)
        fields = summarise(run_frame_forward(f, x0, frame, plan), plan, jnp.asarray(dt, x0.dtype))
        return {name: jax.tree.leaves(fields[name])[0] for name in _KEPT}

    return jax.vmap(one)(points)


def _image(build, point):
    """What a sweep computes at a point begins with: the initial state and the one after it."""
    f, x0 = build(**point)
    return x0, f(x0)


def _default_chunk(build, point, num_points, path, num_exponents) -> int:
    f, x0 = eqx.filter_eval_shape(lambda p: build(**p), point)
    num_units = x0.shape[0]
    weights = sum(leaf.size for leaf in jax.tree.leaves(f) if hasattr(leaf, "size"))
    # The frame, its image, and what the QR makes of them.
    frames = 12 * num_units * (num_exponents or num_units)
    # A CPU gains nothing from more networks at once than fit into its cache: see benchmarks/lyapunov.py.
    budget = CACHE_BUDGET if jax.default_backend() == "cpu" else MEMORY_BUDGET
    fitting = max(1, budget // (8 * (weights + frames)))
    num_each = -(-num_points // num_devices())
    return max(1, min(fitting, num_each if path is None else -(-num_each // 8)))


def _padded(array, size):
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing > 0 else array


def _read(path, fingerprint) -> dict[str, np.ndarray]:
    if path is None or not Path(path).exists():
        return {name: np.empty(0) for name in _KEPT}
    header, arrays = read_archive(Path(path))
    if header.get("sweep") != fingerprint or set(arrays) != set(_KEPT):
        raise ValueError(
            f"path: {path} does not hold the beginning of this sweep (other axes, settings or systems, or no sweep at "
            "all). Choose another path, or delete the file to start over."
        )
    return arrays


def _write(path, fingerprint, done):
    if path is not None and is_first_process():
        write_archive(Path(path), {"sweep": fingerprint}, done)
