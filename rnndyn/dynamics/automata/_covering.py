"""Sets that are to be closed under all symbols, how they may be changed, and their images."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from rnndyn.dynamics.automata._partition import Partition, best_cut
from rnndyn.dynamics.automata._propagation import advance, coordinates
from rnndyn.dynamics.automata._rotated_boxes import box_around, generators_of
from rnndyn.dynamics.automata._strings import Network, Tried
from rnndyn.dynamics.automata.automata import Automaton

START = -1
"""The source of what begins in the initial state itself."""
_MOST_ROWS, _NUMBERS = 64, 65536
"""Images that are computed together: fewer of large states, for which batches that are not full would cost much."""
LONGEST = 64
"""Symbols that a set is followed for, at the most."""

_POINTS_PER_STATE = 8192
_INFLATION = 0.5
# Sets that hold next to no samples are made this large, relative to the spread of all states.
_LEAST = 1e-3


class StoredSet(NamedTuple):
    """A rotated box of network states, all of which stand for one state of the automaton."""

    state: int
    center: Float[np.ndarray, " N"]
    frame: Float[np.ndarray, "N N"]
    radii: Float[np.ndarray, " N"]


class Items(NamedTuple):
    """Images of stored sets on their way: B of them, with where each began and what it has read since."""

    source: Int[np.ndarray, " B"]
    version: Int[np.ndarray, " B"]
    depth: Int[np.ndarray, " B"]
    state: Int[np.ndarray, " B"]
    path: Int[np.ndarray, "B H"]
    center: Float[np.ndarray, "B N"]
    generators: Float[np.ndarray, "B K N"]
    spread: Float[np.ndarray, "B N"]

    def __len__(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return len(self.source)


def take(items: Items, rows: np.ndarray | slice) -> Items:
    return Items(*(field[rows] for field in items))


def join(parts: list[Items]) -> Items:
    return Items(*(np.concatenate(fields) for fields in zip(*parts))) if len(parts) > 1 else parts[0]


class Moved(NamedTuple):
    """Items after one symbol, the set that each should lie in, and what was computed of it."""

    items: Items
    target: Int[np.ndarray, " B"]
    leaf: Int[np.ndarray, " B"]
    ratio: Float[np.ndarray, " B"]
    """The largest |frame (x - center)| / radius in the target; at most 1 where it lies inside."""
    coordinates: Float[np.ndarray, "B N"]
    margin: Float[np.ndarray, " B"]
    """A lower bound of the distance of the answers from the threshold, on the right side of it."""
    size: Float[np.ndarray, " B"]


class Failure(NamedTuple):
    """Why the sets were not closed: the kind, and the numbers of the case."""

    kind: str
    words: str


class Covering:
    """Sets, and their images followed until they lie in a set again."""

    def __init__(
        self,
        network: Network,
        automaton: Automaton,
        tried: Tried,
        *,
        max_sets: int,
        num_generators: int,
    ) -> None:
        self.network, self.automaton = network, automaton
        self.max_sets, self.num_generators = max_sets, num_generators
        self.num_rows = max(8, min(_MOST_ROWS, _NUMBERS // network.start.size**2))
        self.sets: dict[int, StoredSet] = {}
        self.generators: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.num_steps = 0
        self._partition = Partition(automaton.num_states, network.start.size)
        self._points, self._nodes = {}, {}
        # A network that stands still has no spread of its own.
        self.scale = max(float(np.std(tried.states, axis=0).max()), 1e-6 * (1 + float(np.abs(tried.states).max())))
        self.version: dict[int, int] = {START: 0}
        self.targets_of: dict[int, set[int]] = {START: set()}
        self.growth: dict[int, int] = {}
        self.waiting: set[int] = {START}
        self._next = 0
        rng = np.random.default_rng(0)
        for state in np.unique(tried.places).tolist():
            rows = rng.permutation(np.flatnonzero(tried.places == state))[:_POINTS_PER_STATE]
            self._add(state, state, tried.states[rows])

    # --- sets

    def _add(self, state: int, node: int, points: np.ndarray) -> None:
        """A set around samples."""
        center, frame, radii = box_around(points, _INFLATION, _LEAST * self.scale)
        self._store(StoredSet(state, center, frame, radii), node, points)

    def _store(self, stored: StoredSet, node: int, points: np.ndarray) -> int:
        which, self._next = self._next, self._next + 1
        self._partition.place(node, which)
        self._points[which], self._nodes[which] = points, node
        self.version[which], self.growth[which] = 0, 0
        self._replace(which, stored)
        return which

    def _replace(self, which: int, stored: StoredSet) -> None:
        self.sets[which] = stored
        self.generators[which] = generators_of(stored.frame, stored.radii)
        self.restart(which)

    def restart(self, which: int) -> None:
        self.version[which] += 1
        self.targets_of[which] = set()
        self.waiting.add(which)

    def needed(self) -> set[int]:
        """The sets that images of the initial state lie in, or images of such a set, as far as they were followed."""
        found, stack = {START}, [START]
        while stack:
            for target in self.targets_of[stack.pop()] - found:
                found.add(target)
                stack.append(target)
        return found

    def split(self, which: int) -> bool:
        """Put two sets in the place of one; whether that was possible."""
        if len(self.sets) >= self.max_sets:
            return False
        old, points, node = self.sets.pop(which), self._points.pop(which), self._nodes.pop(which)
        del self.generators[which]
        self.waiting.discard(which)
        del self.targets_of[which]
        for source in [s for s, targets in self.targets_of.items() if which in targets]:
            self.restart(source)
        cut = best_cut(points)
        if cut is None:
            self._halve(old, node, points)
            return True
        normal, threshold = cut
        above = points @ normal > threshold
        for child, members in zip(self._partition.cut(node, normal, threshold), (~above, above)):
            self._add(old.state, child, points[members])
        return True

    def _halve(self, old: StoredSet, node: int, points: np.ndarray) -> None:
        """Without samples to go by, cut a box across its longest axis."""
        axis = int(np.argmax(old.radii))
        normal, radii = old.frame[axis], old.radii.copy()
        radii[axis] /= 2
        below, above = self._partition.cut(node, normal, float(normal @ old.center))
        for child, side in ((below, -1.0), (above, 1.0)):
            center = old.center + side * radii[axis] * normal
            self._store(StoredSet(old.state, center, old.frame, radii), child, points[:0])

    def enlarge(self, which: int, coordinates: np.ndarray) -> None:
        """Let a set hold what was found just outside of it, and a little more."""
        old = self.sets[which]
        self.growth[which] += 1
        self._replace(which, old._replace(radii=np.maximum(old.radii, 1.05 * coordinates)))

    # --- images

    def first_items(self, which: int) -> Items:
        num_units = self.network.start.size
        generators = np.zeros((1, self.num_generators, num_units))
        if which == START:
            center, spread, state = self.network.start, np.zeros(num_units), 0
        else:
            center, state = self.sets[which].center, self.sets[which].state
            generators[0, :num_units], spread = self.generators[which]
        row = lambda value: np.array([value])
        path = np.zeros((1, LONGEST), np.int16)
        return Items(
            row(which), row(self.version[which]), row(0), row(state), path, center[None], generators, spread[None]
        )

    def move(self, items: Items) -> Moved:
        """All items under all symbols."""
        num_symbols = self.automaton.num_symbols
        before = take(items, np.repeat(np.arange(len(items)), num_symbols))
        symbols = np.tile(np.arange(num_symbols), len(items))
        state = self.automaton.transitions[before.state, symbols]
        path = before.path.copy()
        path[np.arange(len(before)), before.depth] = symbols
        g, readout = self.network.g, self.network.readout
        out = _in_rows(
            self.num_rows,
            lambda *chunk: advance(g, readout, *chunk),
            (before.center, before.generators, before.spread, self.network.symbols[symbols]),
        )
        self.num_steps += len(before)
        after = Items(
            before.source, before.version, before.depth + 1, state, path, out.center, out.generators, out.spread
        )
        target, leaf = self._partition.find(state, out.center)
        some = next(iter(self.sets.values()))
        stored = [self.sets[t] if t >= 0 else some for t in target.tolist()]
        place = _in_rows(
            self.num_rows,
            coordinates,
            (
                out.center,
                out.generators,
                out.spread,
                np.stack([s.center for s in stored]),
                np.stack([s.frame for s in stored]),
            ),
        )
        radii = np.stack([s.radii for s in stored])
        inside = (target >= 0) & (place <= radii).all(axis=1)
        # The quotient is rounded; what decides is the comparison.
        ratio = np.where(target >= 0, (place / radii).max(axis=1), np.inf)
        ratio = np.where(inside, np.minimum(ratio, 1.0), np.maximum(ratio, np.nextafter(1.0, 2.0)))
        margin = np.where(self.automaton.accepting[state], out.answer_lower, -out.answer_upper)
        return Moved(after, target, leaf, ratio, place, margin, out.sizes)

    # --- the proof

    def follow_all(self) -> Iterator[tuple[Moved, np.ndarray] | Failure]:
        """Once closed: all images of all sets, batch by batch, with those that lie in a set; or what fails after all.

        An image is computed in another company than before, so that its last bits may differ.
        """
        for which in sorted(self.needed()):
            stack = [self.first_items(which)]
            while (items := self.next_items(stack)) is not None:
                moved = self.move(items)
                inside = moved.ratio <= 1
                if not (moved.margin > 0).all():
                    yield Failure("threshold", self.describe(moved, int(np.argmin(moved.margin))))
                    return
                if (moved.items.depth[~inside] >= LONGEST).any():
                    yield Failure("closing", self.describe(moved, int(np.argmin(inside))))
                    return
                yield moved, inside
                if not inside.all():
                    stack.append(take(moved.items, ~inside))

    def next_items(self, stack: list[Items]) -> Items | None:
        """Up to a chunk of the deepest items whose source is as it was when they left."""
        parts, total, most = [], 0, max(1, self.num_rows // self.automaton.num_symbols)
        while stack and total < most:
            part = stack.pop()
            current = np.array([self.version.get(s, -1) for s in part.source.tolist()])
            alive = np.array([s == START or s in self.sets for s in part.source.tolist()])
            part = take(part, (part.version == current) & alive)
            if len(part):
                parts.append(part)
                total += len(part)
        if not parts:
            return None
        items = join(parts)
        if len(items) > most:
            stack.append(take(items, slice(most, None)))
            items = take(items, slice(most))
        return items

    def divide(self, moved: Moved, row: int) -> None:
        """A new set around an image that lies far from the set it belongs to."""
        which = int(moved.target[row])
        stored, points, node = self.sets[which], self._points[which], self._nodes[which]
        for source in [s for s, targets in self.targets_of.items() if which in targets]:
            self.restart(source)  # what was found in the set would be looked for in the new one
        apart = moved.items.center[row] - stored.center
        normal = apart / np.linalg.norm(apart)
        threshold = float(normal @ (stored.center + 0.5 * apart))
        below, above = self._partition.cut(node, normal, threshold)
        self._partition.place(below, which)
        is_above = points @ normal > threshold
        self._nodes[which], self._points[which] = below, points[~is_above]
        new = self.store_image(moved, row, above)
        self._points[new] = points[is_above]
        self.targets_of[int(moved.items.source[row])].add(new)

    def size_of(self, which: int) -> float:
        return float(np.linalg.norm(np.abs(self.generators[which][0]).sum(axis=0)))

    def store_image(self, moved: Moved, row: int, node: int) -> int:
        """A set where no sample was: made of the image that ends there."""
        items = moved.items
        points = items.center[row] + np.concatenate([items.generators[row], -items.generators[row]])
        center, frame, radii = box_around(points, _INFLATION, _LEAST * self.scale)
        reach = np.abs((items.center[row] - center) @ frame.T)
        reach += np.abs(items.generators[row] @ frame.T).sum(axis=0) + np.abs(frame) @ items.spread[row]
        radii = np.maximum(radii, (1 + _INFLATION) * reach)
        return self._store(StoredSet(int(items.state[row]), center, frame, radii), node, points[:0])

    def describe(self, moved: Moved, row: int) -> str:
        """Where an image is, and how far from what it should be."""
        items = moved.items
        source, depth = int(items.source[row]), int(items.depth[row])
        read = " ".join(map(str, items.path[row, :depth].tolist()))
        where = "the initial state" if source == START else f"a set of state {self.sets[source].state}"
        words = f"from {where}, after the symbols {read}: answer margin {moved.margin[row]:.3g}"
        if moved.target[row] >= 0:
            words += f", image at {moved.ratio[row]:.3g} times the radii of the set it should lie in"
        if source != START:
            words += f", size {moved.size[row]:.3g} of {self.size_of(source):.3g} at the start"
        return words


def _in_rows(num_rows, function, arguments):
    """A compiled function of batches, on so many rows at a time."""
    parts = []
    for first in range(0, len(arguments[0]), num_rows):
        chunk = [a[first : first + num_rows] for a in arguments]
        size = len(chunk[0])
        padded = [np.concatenate([a, np.repeat(a[-1:], num_rows - size, axis=0)]) for a in chunk]
        parts.append(jax.tree.map(lambda a, n=size: np.asarray(a)[:n], function(*padded)))
    return jax.tree.map(lambda *fields: np.concatenate(fields), *parts)
