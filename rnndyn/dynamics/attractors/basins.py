"""Basins of attraction in a plane, and how uncertain they make the outcome: basin entropy."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from rnndyn._validation import check_at_least
from rnndyn.dynamics.attractors._search import UNDECIDED
from rnndyn.dynamics.attractors.attractors import Attractors, find_attractors
from rnndyn.results import Result


def find_basins(
    f: Callable[[Array], Array],
    lower: ArrayLike | Sequence[float],
    upper: ArrayLike | Sequence[float],
    *,
    resolution: int = 200,
    section: tuple[ArrayLike, ArrayLike] | None = None,
    max_map_steps: int = 2**14,
    max_period: int = 256,
    escape_radius: float | None = None,
    progress: bool = True,
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
) -> "Basins":
    r"""Colour a plane of initial states by the attractor that each of them goes to.

    The initial states are $x(a, b)$, for a map of two entries $(a, b)$ itself, for longer states a section
    $x(a, b) = x_0 + a v_1 + b v_2$.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`.
    - `lower`, `upper`: the corners of the rectangle of $(a, b)$, two numbers each.
    - `resolution`: grid points along each side, ends included.
    - `section`: for N > 2, `(origin, directions)` of shapes `(N,)` and `(2, N)`: $x_0$ and $v_1, v_2$.
    - `max_map_steps`, `max_period`, `escape_radius`, `progress`, `devices`: as in `find_attractors`.

    **Returns:** a `Basins`.

    **Raises:** `ValueError` for corners that are no rectangle, a missing or ill-shaped section, a bad map.
    """
    corners = [np.asarray(corner, np.float64) for corner in (lower, upper)]
    if any(corner.shape != (2,) for corner in corners) or not np.all(corners[0] < corners[1]):
        raise ValueError("lower, upper: expected the corners of a rectangle, two numbers each, with lower < upper.")
    check_at_least("resolution", resolution, 2)
    first, second = (np.linspace(corners[0][i], corners[1][i], resolution) for i in range(2))
    plane = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2)
    if section is None:
        origin, directions = np.zeros(2), np.eye(2)
    else:
        origin, directions = (np.asarray(part, np.float64) for part in section)
        if origin.ndim != 1 or directions.shape != (2, origin.size):
            raise ValueError(
                f"section: expected an origin (N,) and directions (2, N), got shapes {origin.shape} and "
                f"{directions.shape}."
            )
    attractors = find_attractors(
        f,
        origin + plane @ directions,
        max_map_steps=max_map_steps,
        max_period=max_period,
        escape_radius=escape_radius,
        progress=progress,
        devices=devices,
    )
    return Basins(first, second, attractors.labels.reshape(resolution, resolution), origin, directions, attractors)


class Basins(Result):
    """Which attractor each point of a plane goes to.

    - `first`, `second`: the coordinates a and b of the grid, `(R,)`.
    - `labels`: row i, column j is the label of (a_j, b_i): the index of an attractor, -1 undecided, -2 unbounded.
    - `origin`, `directions`: of the plane in state space, `(N,)` and `(2, N)`.
    - `attractors`: what `find_attractors` found from all points of the grid.
    """

    first: Float[np.ndarray, " R"]
    second: Float[np.ndarray, " R"]
    labels: Int[np.ndarray, "R R"]
    origin: Float[np.ndarray, " N"]
    directions: Float[np.ndarray, "2 N"]
    attractors: Attractors

    def entropy(self, box_size: int = 5) -> "BasinEntropy":
        """The basin entropy of the picture; see `basin_entropy`."""
        return basin_entropy(self.labels, box_size=box_size)

    def table(self) -> str:
        size = len(self.first)
        return (
            f"Basins on a grid of {size} x {size}: a in [{self.first[0]:g}, {self.first[-1]:g}], "
            f"b in [{self.second[0]:g}, {self.second[-1]:g}]\n{self.attractors.table()}"
        )


def basin_entropy(labels: ArrayLike, *, box_size: int = 5) -> "BasinEntropy":
    r"""How uncertain the outcome is when the initial state is known up to a box.

    The picture is cut into boxes of `box_size` by `box_size` cells. With $p_{ij}$ the share of attractor j in box i,

    $$ S_b = \frac1n \sum_{i=1}^{n} S_i, \quad S_i = -\sum_j p_{ij} \ln p_{ij}, \qquad
       S_{bb} = \frac{1}{n_b} \sum_{i \,:\, \text{more than one attractor}} S_i . $$

    **Arguments:**

    - `labels`: the picture, integers `(R, C)`; each value is an outcome, escape included, and -1 (undecided) none.
    - `box_size`: cells along the side of a box. Cells that fill no box at the far edges are left out.

    **Returns:** a `BasinEntropy`.

    **Raises:** `ValueError` for labels that are no picture, or are smaller than a box.

    $S_b$ is 0 for one basin and $\ln k$ for k basins mixed at random. A smooth boundary between two basins has
    $S_{bb} \le \ln 2$ away from points where three meet: above it, the boundary is fractal (sufficient, not necessary).
    From m cells in a box the entropy of k outcomes comes out low by about $(k - 1) / 2m$.

    Reference: A. Daza, A. Wagemakers, B. Georgeot, D. Guéry-Odelin & M. A. F. Sanjuán (2016), *Basin entropy:
    a new tool to analyze uncertainty in dynamical systems*.
    """
    picture = np.asarray(labels)
    if picture.ndim != 2 or not np.issubdtype(picture.dtype, np.integer):
        raise ValueError(f"labels: expected integers of shape (R, C), got {picture.dtype} of shape {picture.shape}.")
    check_at_least("box_size", box_size, 1)
    rows, columns = (size // box_size for size in picture.shape)
    if rows == 0 or columns == 0:
        raise ValueError(f"box_size: boxes of {box_size} cells do not fit into a picture of shape {picture.shape}.")
    cut = picture[: rows * box_size, : columns * box_size].reshape(rows, box_size, columns, box_size)
    boxes = cut.transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    outcomes = np.unique(boxes[boxes != UNDECIDED])
    counts = np.stack([np.sum(boxes == outcome, axis=1) for outcome in outcomes], axis=1) if outcomes.size else None
    if counts is None:
        raise ValueError("labels: every cell is undecided (-1). Raise max_map_steps.")
    counts = counts[counts.sum(axis=1) > 0]
    shares = counts / counts.sum(axis=1, keepdims=True)
    entropies = -np.sum(np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1)), 0), axis=1)
    at_boundary = np.sum(counts > 0, axis=1) > 1
    return BasinEntropy(
        entropy=float(entropies.mean()),
        boundary_entropy=float(entropies[at_boundary].mean()) if at_boundary.any() else 0.0,
        num_boxes=len(counts),
        num_boundary_boxes=int(at_boundary.sum()),
        num_outcomes=len(outcomes),
        box_size=box_size,
    )


class BasinEntropy(Result):
    """The uncertainty of the outcome, in nats.

    - `entropy`: $S_b$, the mean over all boxes.
    - `boundary_entropy`: $S_{bb}$, the mean over boxes with more than one outcome; 0 where there is none.
    - `num_boxes`, `num_boundary_boxes`: how many there are of each.
    - `num_outcomes`: how many outcomes the picture has.
    - `box_size`: cells along the side of a box.
    """

    entropy: float
    boundary_entropy: float
    num_boxes: int
    num_boundary_boxes: int
    num_outcomes: int
    box_size: int

    @property
    def is_fractal(self) -> bool:
        r"""Whether $S_{bb} > \ln 2$, which no smooth boundary of two basins reaches. False proves nothing."""
        return bool(self.boundary_entropy > np.log(2))

    def table(self) -> str:
        return (
            f"Basin entropy {self.entropy:.4f} of at most {np.log(self.num_outcomes):.4f}, on the boundary "
            f"{self.boundary_entropy:.4f} ({'above' if self.is_fractal else 'not above'} ln 2), "
            f"{self.num_boundary_boxes} of {self.num_boxes} boxes of {self.box_size} x {self.box_size} cells"
        )
