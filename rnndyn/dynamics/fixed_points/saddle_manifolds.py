"""The stable and unstable manifolds of a saddle of a planar map: the curves that bound basins and steer transients."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.fixed_points.verdicts import ManifoldVerdict
from rnndyn.dynamics.numerics.drivers import double_precision, let_in, map_in_chunks
from rnndyn.results import Judged, stack_verdicts

_NUM_NEWTON = 8
"""Newton steps for a preimage; from the guess of its neighbours two or three suffice."""

_LEAST_GAP = 1e-4
"""Points of the first stretch are not put closer than this fraction of it: where a curve still tears, it ends."""


def find_saddle_manifolds(
    f: Callable[[Array], Array],
    point: ArrayLike | Sequence[float],
    lower: Any,
    upper: Any,
    *,
    num_images: int = 200,
    resolution: float = 5e-3,
    offset: float = 1e-4,
) -> "SaddleManifolds":
    r"""Follow the stable and unstable manifolds of a saddle of a map of the plane, within a box.

    With $DF(x^*) v = \lambda v$, the unstable manifold is the union of the images $F^n(\sigma_0)$ of a stretch
    $\sigma_0$ from $x^* + \epsilon v$ to its own image, on both sides; the stable manifold that of its preimages, with
    the contracting direction. Where $\lambda < 0$ the two sides change places, and $F^2$ is used.

    **Arguments:**

    - `f`: the map, `(2,) -> (2,)`, one-to-one near the saddle.
    - `point`: the saddle, `(2,)`, one multiplier inside and one outside the unit circle.
    - `lower`, `upper`: corners of the box, `(2,)`. A branch ends where it leaves the box.
    - `num_images`: the most images, or preimages, of the first stretch.
    - `resolution`: the largest gap between neighbouring points of a curve, as a fraction of the box.
    - `offset`: where the first stretch begins, as a fraction of the box.

    **Returns:** a `SaddleManifolds`.

    **Raises:** `ValueError` for a point that is no saddle, a box that does not hold it, or bad options.

    Preimages are solved by Newton's method from those of neighbouring points. Where the map folds the plane a point has
    several of them, or none: the curve then ends, and further parts of the stable set exist.

    Reference: D. Hobson (1993), *An efficient method for computing invariant manifolds of planar maps*; J. P.
    England, B. Krauskopf & H. M. Osinga (2004), *Computing one-dimensional stable manifolds and stable sets of planar
    maps without the inverse*.
    """
    check_state("point", point)
    check_at_least("num_images", num_images, 1)
    for name, value in (("resolution", resolution), ("offset", offset)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: expected a fraction of the box between 0 and 1, got {value}.")
    with double_precision():
        saddle = np.asarray(point, np.float64)
        box = np.stack([np.asarray(corner, np.float64) for corner in (lower, upper)])
        if saddle.shape != (2,) or box.shape != (2, 2) or not np.all((box[0] < saddle) & (saddle < box[1])):
            raise ValueError("point: expected a state (2,) inside the box lower < point < upper of the plane.")
        f = let_in(f, saddle)
        jacobian = np.asarray(jax.jacfwd(f)(jnp.asarray(saddle)))
        values, vectors = np.linalg.eig(jacobian)
        order = np.argsort(np.abs(values))
        # Whether the eigenvalues of a real matrix are stored as complex numbers is NumPy's affair.
        is_real = not np.any(np.imag(values))
        if not is_real or not np.abs(values[order[0]]) < 1 < np.abs(values[order[1]]):
            raise ValueError(f"point: expected a saddle, one multiplier inside the unit circle; they are {values}.")
        values, vectors = np.real(values), np.real(vectors)
        defect = np.max(np.abs(np.asarray(f(jnp.asarray(saddle))) - saddle))
        if defect > 1e-6 * np.max(box[1] - box[0]):
            raise ValueError(f"point: expected a fixed point; the map moves it by {defect:.2g}. Polish it first.")

        def branches(which: int) -> tuple[tuple[np.ndarray, Any], tuple[np.ndarray, Any]]:
            value, vector = values[order[which]], vectors[:, order[which]]
            # The inverse of a map that flattens the plane has no such direction.
            if value == 0:
                return (saddle[None], ManifoldVerdict.absent), (saddle[None], ManifoldVerdict.absent)
            stretch = _Stretch(f, jacobian, saddle, float(value), forward=which == 1, box=box)
            first, second = (stretch.grow(s * vector, offset, resolution, num_images) for s in (1.0, -1.0))
            return first, second

        curves, ends = zip(*branches(0), *branches(1))
    verdicts = stack_verdicts([stack_verdicts(ends[:2]), stack_verdicts(ends[2:])])
    return SaddleManifolds(saddle, values[order], curves[:2], curves[2:], verdicts)


class SaddleManifolds(Judged):
    """Curves through a saddle, each from the saddle on.

    - `point`: the saddle, `(2,)`.
    - `multipliers`: the contracting and the expanding one, `(2,)`.
    - `stable`: the two branches of the stable manifold, `(M, 2)` each.
    - `unstable`: the two branches of the unstable manifold, `(M, 2)` each.
    - `result`: why each branch ends, a batch `(2, 2)` of `ManifoldVerdict`; first the stable ones.
    """

    point: Float[np.ndarray, "2"]
    multipliers: Float[np.ndarray, "2"]
    stable: tuple[np.ndarray, np.ndarray]
    unstable: tuple[np.ndarray, np.ndarray]
    result: ManifoldVerdict

    def table(self) -> str:
        lengths = [np.sum(np.linalg.norm(np.diff(c, axis=0), axis=1)) for c in (*self.stable, *self.unstable)]
        ends = [word.partition(":")[0] for word in self.message.ravel()]
        return (
            f"Manifolds of the saddle at {np.array2string(self.point, precision=6)}, "
            f"multipliers {self.multipliers[0]:.4g} and {self.multipliers[1]:.4g}\n"
            f"  lengths, stable    {lengths[0]:.4g} ({ends[0]}) and {lengths[1]:.4g} ({ends[1]})\n"
            f"  lengths, unstable  {lengths[2]:.4g} ({ends[2]}) and {lengths[3]:.4g} ({ends[3]})"
        )


class _Stretch:
    """The first stretch of a branch, and its images under F, or under the inverse of F."""

    def __init__(
        self, f: Callable, jacobian: np.ndarray, saddle: np.ndarray, value: float, *, forward: bool, box: np.ndarray
    ):
        self.f, self.saddle, self.forward, self.box = f, saddle, forward, box
        self.num_maps = 1 if value > 0 else 2
        self.growth = np.abs(value if forward else 1 / value) ** self.num_maps
        self.orientation = float(np.sign(np.linalg.det(jacobian)))
        self.extent = box[1] - box[0]

    def grow(self, vector: np.ndarray, offset: float, resolution: float, num_images: int) -> tuple[np.ndarray, Any]:
        """The branch that leaves the saddle along `vector`, and why it ends."""
        start = offset * vector / np.max(np.abs(vector) / self.extent)
        places = np.linspace(0, 1, 9)
        images = [self.saddle + self.growth ** places[:, None] * start]
        curve, why = [self.saddle[None], images[0]], ManifoldVerdict.out_of_images
        for _ in range(num_images):
            new = self._next(images[-1])
            while True:
                gaps = np.max(np.abs(np.diff(new, axis=0)) / self.extent, axis=1)
                wide = np.flatnonzero((gaps > resolution) & (np.diff(places) > _LEAST_GAP))
                if wide.size == 0:
                    break
                added = (places[wide] + places[wide + 1]) / 2
                chain = [self.saddle + self.growth ** added[:, None] * start]
                for level in range(len(images)):
                    following = images[level + 1] if level + 1 < len(images) else new
                    chain.append(self._next(chain[-1], guess=(following[wide] + following[wide + 1]) / 2))
                places = np.insert(places, wide + 1, added)
                images = [np.insert(old, wide + 1, more, axis=0) for old, more in zip(images, chain)]
                new = np.insert(new, wide + 1, chain[-1], axis=0)
            inside = np.all((new >= self.box[0]) & (new <= self.box[1]), axis=1)
            gaps = np.max(np.abs(np.diff(new, axis=0)) / self.extent, axis=1)
            # NaN (no preimage) is not inside. A gap that stays wide is a tear: another preimage took over.
            good = inside & np.concatenate([[True], ~(gaps > 2 * resolution)])
            end = len(good) if good.all() else int(np.argmin(good))
            curve.append(new[1:end])
            length = np.sum(gaps[: max(end - 1, 0)])
            if end < len(good):
                # What leaves the box lands beyond it; what is torn has no preimage, or one on another sheet.
                left = np.isfinite(new[end]).all() and not inside[end]
                why = ManifoldVerdict.left_box if left else ManifoldVerdict.torn
                break
            if length < 1e-3 * resolution:
                why = ManifoldVerdict.shrank
                break
            images.append(new)
        return np.concatenate(curve), why

    def _next(self, points: np.ndarray, guess: np.ndarray | None = None) -> np.ndarray:
        if self.forward:
            step = lambda batch: _images(self.f, batch[0], self.num_maps)
        elif guess is None:
            # The first point came from the last one, so that is where its preimage lies.
            return self._preimages_in_order(points)
        else:
            step = lambda batch: _preimages(self.f, batch[0], batch[1], self.num_maps, self.orientation)
        return self._in_chunks(step, points, points if guess is None else guess)

    def _preimages_in_order(self, points: np.ndarray) -> np.ndarray:
        step = lambda batch: _preimages_along(self.f, batch[0], points[-1], self.num_maps, self.orientation)
        return self._in_chunks(step, points, points)

    def _in_chunks(self, step: Callable, points: np.ndarray, guess: np.ndarray) -> np.ndarray:
        # Sizes are rounded up, so that the compilations are few.
        return map_in_chunks(
            step, (points, guess), bytes_per_item=512, description="manifolds", progress=False, least_size=256
        )


@compiled
def _images(f: Any, points: Any, num_maps: int) -> Array:
    return jax.vmap(_Repeated(f, num_maps))(jnp.asarray(points))


@compiled
def _preimages(f: Any, points: Any, guesses: Any, num_maps: int, orientation: Any) -> Array:
    solve = _preimage_of(_Repeated(f, num_maps), f, orientation)
    return jax.vmap(solve)(jnp.asarray(points), jnp.asarray(guesses))


@compiled
def _preimages_along(f: Any, points: Any, first: Any, num_maps: int, orientation: Any) -> Array:
    """Preimages of the points of a curve one after the other, each from the one before."""
    points, first, iterated = jnp.asarray(points), jnp.asarray(first), _Repeated(f, num_maps)
    solve = _preimage_of(iterated, f, orientation)

    def step(before: Array, x: Array) -> tuple[Array, Array]:
        y = solve(x, before)
        return y, y

    return jax.lax.scan(step, first, points)[1]


def _preimage_of(iterated: "_Repeated", f: Any, orientation: Any) -> Callable[[Array, Array], Array]:
    def solve(x: Array, guess: Array) -> Array:
        def step(_: Any, y: Array) -> Array:
            return y - jnp.linalg.solve(jax.jacfwd(iterated)(y), iterated(y) - x)

        y = jax.lax.fori_loop(0, _NUM_NEWTON, step, guess)
        found = jnp.max(jnp.abs(iterated(y) - x)) <= 1e-9 * (jnp.max(jnp.abs(x)) + 1e-3)
        same_sheet = jnp.linalg.det(jax.jacfwd(f)(y)) * orientation > 0
        return jnp.where(found & same_sheet, y, jnp.nan)

    return solve


class _Repeated(NamedTuple):
    """F, or F after F."""

    f: Callable[[Array], Array]
    num_maps: int

    def __call__(self, x: Array) -> Array:
        for _ in range(self.num_maps):
            x = self.f(x)
        return x
