"""The search for sets that are closed under all symbols: which are followed, and what is done where one is not."""

import time
from collections import Counter
from typing import Any

import numpy as np

from rnndyn.dynamics.automata._covering import START, Covering, Failure, Items, Moved, take
from rnndyn.dynamics.automata._partition import NOWHERE

_MOST_GROWTH = 30
# Images of the initial state are taken in after this many symbols.
_FORGOTTEN = 12


class Closing:
    """Follows the sets of a covering, and splits and enlarges them, until none waits."""

    def __init__(self, covering: Covering, *, max_depth: int, max_items: int) -> None:
        self.covering, self.max_depth, self.max_items = covering, max_depth, max_items
        self._refused: dict[int, str] = {}
        self._num_refused: Counter[int] = Counter()
        self._latest = ""

    def close(self, deadline: float, progress: Any) -> Failure | None:
        """Follow, enlarge and split until no set waits; what stands in the way, if anything does."""
        covering = self.covering
        stack: list[Items] = []
        counts: dict[int, int] = {}
        while True:
            if time.monotonic() > deadline:
                on_their_way = {int(source) for part in stack for source in part.source}
                waiting = len((covering.waiting & covering.needed()) | on_their_way)
                words = f"{waiting} of {len(covering.sets)} sets were still to be followed"
                return Failure("time", f"{words}; {self.hardest()}")
            if not stack:
                # A set that no image lies in need not be closed: it was made where no state comes.
                order = sorted(covering.waiting & covering.needed(), key=lambda w: (covering.growth.get(w, 0), w))
                if not order:
                    return None
                chosen = order[: max(1, covering.num_rows // 8)]
                covering.waiting.difference_update(chosen)
                counts = dict.fromkeys(chosen, 0)
                stack = [covering.first_items(which) for which in chosen]
            items = covering.next_items(stack)
            if items is None:
                continue
            failure = self._follow(items, stack, counts)
            progress.set_postfix_str(f"{len(covering.sets)} sets, {len(covering.waiting)} waiting", refresh=False)
            progress.update(len(items))
            if failure is not None:
                return failure

    def _follow(self, items: Items, stack: list[Items], counts: dict[int, int]) -> Failure | None:
        covering = self.covering
        moved = covering.move(items)
        for source, count in zip(*np.unique(items.source, return_counts=True)):
            counts[int(source)] += int(count)
        if not (np.isfinite(moved.margin).all() and np.isfinite(moved.size).all()):
            row = int(np.argmin(np.isfinite(moved.margin) & np.isfinite(moved.size)))
            return Failure("values", covering.describe(moved, row))
        inside = moved.ratio <= 1
        self._latest = covering.describe(moved, int(np.argmax(moved.items.depth)))
        to_split: dict[int, int] = {}
        for row in np.flatnonzero(moved.margin <= 0).tolist():
            to_split.setdefault(int(moved.items.source[row]), row)
        for row in np.flatnonzero(inside).tolist():
            covering.targets_of[int(moved.items.source[row])].add(int(moved.target[row]))
        going = ~inside
        for row in np.flatnonzero(going).tolist():
            source, target = int(moved.items.source[row]), int(moved.target[row])
            if source in to_split:
                continue
            if target == NOWHERE:
                covering.targets_of[source].add(covering.store_image(moved, row, int(moved.leaf[row])))
                going[row] = False
                continue
            decision = self._decide(moved, row, counts[source])
            if decision in ("split", "divide"):
                state = int(moved.items.state[row])
                self._num_refused[state] += 1
                self._refused[state] = covering.describe(moved, row)
            if decision == "split":
                to_split[source] = row
            elif decision == "enlarge":
                covering.enlarge(target, moved.coordinates[row])
                covering.targets_of[source].add(target)
                going[row] = False
            elif decision == "divide":
                covering.divide(moved, row)
                going[row] = False
        for source, row in to_split.items():
            if source == START:
                if moved.margin[row] <= 0:
                    return Failure("threshold", covering.describe(moved, row))
                return Failure("closing", covering.describe(moved, row))
            if source in covering.sets and not covering.split(source):
                kind = "threshold" if moved.margin[row] <= 0 else "closing"
                return Failure(kind, covering.describe(moved, row))
        going &= ~np.isin(moved.items.source, list(to_split))
        if going.any():
            stack.append(take(moved.items, going))
        return None

    def _decide(self, moved: Moved, row: int, count: int) -> str:
        """What to do about an image that lies in no set: follow it further, or change its source or its target.

        A set that has not shrunk by the end is too large. An image that has is small, and taken in: by its target if
        that need not grow much, else by a new set beside it.
        """
        covering = self.covering
        target, source = int(moved.target[row]), int(moved.items.source[row])
        depth, radii = moved.items.depth[row], covering.sets[target].radii
        excess = (moved.coordinates[row] - radii).max()
        if source == START:
            at_end, shrunk = depth >= _FORGOTTEN, 0.0
        else:
            at_end = depth >= self.max_depth or count > self.max_items
            shrunk = moved.size[row] / covering.size_of(source)
        may_grow = covering.growth[target] < _MOST_GROWTH
        if shrunk <= 0.1 and depth >= 3 and may_grow and excess <= max(0.1 * radii.max(), 0.02 * covering.scale):
            return "enlarge"
        if not at_end:
            return "follow"
        if shrunk > 0.5:
            return "split"
        return "enlarge" if may_grow and excess <= radii.max() else "divide"

    def hardest(self) -> str:
        """The state of the automaton for which most images were refused, and the last of them; else the last image."""
        if not self._num_refused:
            return f"the last image: {self._latest}"
        state, num = self._num_refused.most_common(1)[0]
        total = sum(self._num_refused.values())
        return f"of {total} refused images {num} ended in state {state}, the last {self._refused[state]}"
