"""Several maps of one program, evaluated at states of any of them in one call."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from rnndyn._programs import Program, compiled, member, stacked, value_and_jacobian
from rnndyn.dynamics.fixed_points._newton_lanes import one_step
from rnndyn.dynamics.numerics.devices import deal, num_devices

MOST_MEMBERS = 64
"""Maps side by side. Constants are filled up to so many, so that every sweep of one structure shares its programs."""

ROWS = 4
"""States of one map that a block holds: they share its constants, a matrix with several vectors."""

SHORT = 16
"""Up to this length of the states orbits are taken one to a block: XLA's CPU backend multiplies a batch of small
matrices with two to eight vectors each four times slower than with one (8 units)."""

FEW_BLOCKS, MANY_BLOCKS = 4, 32
"""Blocks of one call: two sizes are compiled, one for the last that are on their way."""

Owners = Int[np.ndarray, " M"]


class Family:
    """Maps F_0, F_1, ... of one program; `owners` are the numbers of the maps that states belong to."""

    def __init__(self, stacked: Program):
        self.stacked = stacked

    @staticmethod
    def of(programs: Sequence[Program]) -> "Family | None":
        """The family of some programs; `None` where they are not alike."""
        family = stacked(programs, MOST_MEMBERS)
        return None if family is None else Family(family)

    def images(self, owners: Owners, points: Float[np.ndarray, "M N"]) -> Float[np.ndarray, "M N"]:
        """F at every point."""
        return self._in_blocks(_images, owners, points)

    def evaluate(
        self, owners: Owners, points: Float[np.ndarray, "M N"]
    ) -> tuple[Float[np.ndarray, "M N"], Float[np.ndarray, "M N N"]]:
        """F and DF at every point."""
        return self._in_blocks(_images_and_jacobians, owners, points)

    def states_after(
        self, owners: Owners, points: Float[np.ndarray, "M N"], num_steps: int
    ) -> Float[np.ndarray, "M N"]:
        """The state `num_steps` steps after every point."""
        after = lambda family, members, x: _states_after(family, members, x, np.int64(num_steps))
        return self._in_blocks(after, owners, points, 1 if points.shape[1] <= SHORT else ROWS)

    def newton_step(self, owners: Owners, state: Any, linear_solver: str) -> tuple[Any, ...]:
        """The fields of the next iterates of Newton's method, but for the problem."""
        step = lambda family, members, lanes: _newton_step(family, members, lanes, linear_solver)
        return self._in_blocks(step, owners, state)

    def _in_blocks(self, function: Callable, owners: Owners, batch: Any, num_rows: int = ROWS) -> Any:
        """A batched function of the rows of `batch`, which are packed into blocks of one owner each."""
        order = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=MOST_MEMBERS)
        blocks = -(-counts // num_rows)
        members = np.repeat(np.arange(MOST_MEMBERS), blocks)
        first_row, first_block = np.cumsum(counts) - counts, np.cumsum(blocks) - blocks
        slots = (num_rows * first_block - first_row)[owners[order]] + np.arange(len(order))
        # What is missing in a block repeats a row of its owner.
        rows = np.repeat(order[first_row[members]], num_rows)
        rows[slots] = order
        packed = (members, jax.tree.map(lambda a: a[rows].reshape(-1, num_rows, *a.shape[1:]), batch))
        results: Any = None
        for turn in _turns(len(members), num_rows):
            parts = [jax.tree.map(lambda a, cut=cut: cut.filled(a), packed) for cut in turn]
            for cut, part in zip(turn, deal(lambda chunk: function(self.stacked, *chunk), parts)):
                low, high = np.searchsorted(slots, (num_rows * cut.first, num_rows * cut.end))
                if results is None:
                    results = jax.tree.map(lambda a: np.empty((len(order), *a.shape[2:]), a.dtype), part)
                own = slots[low:high] - num_rows * cut.first
                for column, found in zip(jax.tree.leaves(results), jax.tree.leaves(part)):
                    column[order[low:high]] = found.reshape(-1, *found.shape[2:])[own]
        return results


class _Cut(NamedTuple):
    """Blocks that make a chunk of a fixed size, the last one repeated where they are fewer."""

    first: int
    end: int
    size: int

    def filled(self, blocks: np.ndarray) -> np.ndarray:
        part = blocks[self.first : self.end]
        missing = self.size - len(part)
        return np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part


def _turns(num_blocks: int, num_rows: int) -> Iterator[list[_Cut]]:
    """Chunks for all blocks, in turns of one for each device."""
    many, few = (size * ROWS // num_rows for size in (MANY_BLOCKS, FEW_BLOCKS))
    rest = num_blocks % many
    cut = num_blocks if rest > 2 * few else num_blocks - rest
    for first, end, size in ((0, cut, many), (cut, num_blocks, few)):
        cuts = [_Cut(begin, min(begin + size, end), size) for begin in range(first, end, size)]
        for i in range(0, len(cuts), num_devices()):
            yield cuts[i : i + num_devices()]


@compiled
def _images(family: Program, members: Any, points: Any) -> Array:
    return jax.vmap(lambda i, x: jax.vmap(member(family, i))(x))(members, points)


@compiled
def _images_and_jacobians(family: Program, members: Any, points: Any) -> tuple[Array, Array]:
    def block(i: Array, x: Array) -> tuple[Array, Array]:
        f = member(family, i)
        return jax.vmap(lambda row: value_and_jacobian(f, row))(x)

    return jax.vmap(block)(members, points)


@compiled
def _states_after(family: Program, members: Any, points: Any, num_steps: Any) -> Array:
    def block(i: Array, x: Array) -> Array:
        f = member(family, i)
        return jax.lax.fori_loop(0, num_steps, lambda _, x: jax.vmap(f)(x), x)

    return jax.vmap(block)(members, points)


@compiled
def _newton_step(family: Program, members: Any, lanes: Any, linear_solver: str) -> tuple[Array, ...]:
    def block(i: Array, part: Any) -> tuple[Array, ...]:
        return one_step(member(family, i), part, linear_solver, None)

    return jax.vmap(block)(members, lanes)
