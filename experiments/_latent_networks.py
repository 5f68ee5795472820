"""Low-rank networks that learn to hold bits, and what they are in their latent variables."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd
from experiments._settings import Seed
from experiments._training import train_networks


@dataclasses.dataclass(frozen=True)
class Training:
    """What decides the networks."""

    trained_units: int = 64
    trained_networks: int = 5
    num_updates: int = 500
    batch_size: int = 32
    trial_steps: int = 24
    learning_rate: float = 1e-2
    seed: Seed = 0


class Latent(rd.Result):
    """Trained networks of one rank.

    - `losses`: validation errors, one for each network.
    - `points`: the fixed points of the latent map of each.
    - `defect`: how far lifted points are from fixed points of the network, and its multipliers from those of the map,
      at most.
    - `grid`, `changes`: of rank one, the change of the latent variable in one step over it, for each network.
    - `left`, `right`, `bias`: the weights of the first network.
    """

    rank: int
    losses: np.ndarray
    points: tuple[rd.FixedPoints, ...]
    defect: float
    grid: np.ndarray
    changes: np.ndarray
    left: np.ndarray
    right: np.ndarray
    bias: np.ndarray


def train_latent(rank: int, config: Training) -> Latent:
    """Networks of this rank that hold as many bits, and the fixed points of their latent maps."""
    model_key, fit_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), rank))
    trained = train_networks(
        "flip_flop",
        {"num_bits": rank, "num_steps": config.trial_steps},
        lambda key: rd.LowRankCell(rank, config.trained_units, rank=rank, key=key),
        rank,
        (model_key, fit_key),
        num_networks=config.trained_networks,
        num_updates=config.num_updates,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        num_looks=1,
        progress=False,
    )
    cells = [trained.member(index).model.cell for index in range(config.trained_networks)]
    losses = [trained.member(index).history.validation_losses[-1] for index in range(config.trained_networks)]
    points, defects, changes, grids = [], [], [], []
    for cell in cells:
        latent = rd.latent_map(cell)
        region: Any = latent.region  # the latent variables of a cell with tanh are bounded
        upper = np.asarray(region[1])
        starts = np.random.default_rng(config.seed).uniform(-upper, upper, (64, rank))
        found = rd.find_fixed_points(latent, starts, until_complete=True, progress=False)
        points.append(found)
        defects.append(lifting_defect(cell, latent, found))
        if rank == 1:
            grids.append(np.linspace(-upper[0], upper[0], 201))
            changes.append(np.asarray(jax.vmap(latent)(jnp.asarray(grids[-1][:, None])))[:, 0] - grids[-1])
    weights = [np.asarray(weight) for weight in (cells[0].left, cells[0].right, cells[0].bias)]
    return Latent(rank, np.array(losses), tuple(points), max(defects), np.array(grids), np.array(changes), *weights)


def lifting_defect(cell: rd.LowRankCell, latent: Any, found: rd.FixedPoints) -> float:
    """How far lifted points move, and the leading multipliers of the network there are from those of the map."""
    f, rank, defects = rd.as_map(cell), cell.rank, [0.0]
    for point, multipliers in zip(found.points, found.multipliers):
        state = np.asarray(latent.lift(jnp.asarray(point, jnp.float32)))
        whole = np.linalg.eigvals(np.asarray(jacobian(f, state), float))
        leading = whole[np.argsort(-np.abs(whole))][:rank]
        # Of their characteristic polynomials, which do not depend on an order.
        apart = np.max(np.abs(np.poly(leading) - np.poly(multipliers)))
        defects += [np.max(np.abs(np.asarray(f(state)) - state)), apart]
    return float(max(defects))


@eqx.filter_jit
def jacobian(f: Any, state: Any) -> jax.Array:
    """That of the whole network."""
    return jax.jacfwd(f)(jnp.asarray(state))
