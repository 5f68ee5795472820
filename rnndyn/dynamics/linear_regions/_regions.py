"""All admissible itineraries of a piecewise-linear map with few linear regions, as closed walks in a graph.

The nodes of the graph at level k are words: sequences of k regions that some orbit may follow. A word leads to those
that continue it by one region. A cycle of period p is a closed walk over p words. Level by level, words that no orbit
follows and words on no closed walk of at most `max_period` steps are taken out, and the rest made longer, until the
closed walks are so few that each can be solved. Only certified exclusions remove a word, so no cycle is lost.
"""

import contextlib
import dataclasses
from collections import defaultdict

import numpy as np
from jaxtyping import Bool
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from rnndyn.dynamics.linear_regions._feasibility import Word, WordTests
from rnndyn.dynamics.linear_regions._limits import Itineraries, WorkLimit, WorkLimitReached
from rnndyn.dynamics.linear_regions._relu_map import ReluMap, solve_itineraries

MAX_WORDS = 4000
"""A graph of more words is not refined: the distances between all of them are kept."""

FEW_WALKS = 1000
"""So few closed walks are solved without a further refinement: it takes a fraction of a second."""


def search_region_graph(relu_map: ReluMap, max_period: int, limit: WorkLimit) -> Itineraries:
    """The itineraries of the periods up to `max_period`, as far as the work limit allows."""
    found = Itineraries()
    # Longer words start from all pairs of regions, which may take up half of the work.
    most = limit.left if max_period == 1 else np.sqrt(limit.left / 2)
    try:
        patterns, radius = nonempty_regions(relu_map, int(most), limit)
    except WorkLimitReached:
        return found
    if max_period == 1:
        found.add(1, patterns[:, None], radius)
        return found
    graph = RegionGraph(relu_map, patterns, max_period, limit)
    # When the work limit cuts the refinement short, the graph still holds every cycle, and the walks of the lower
    # periods may be few enough.
    with contextlib.suppress(WorkLimitReached):
        graph.refine()
    walks, longest = graph.all_closed_walks(limit.max_tests)
    for period in range(1, longest + 1):
        words = [walk for walk in walks if len(walk) == period]
        itineraries = patterns[np.array(words, int).reshape(-1, period)]
        found.add(period, itineraries, min(radius, graph.radius))
    return found


def nonempty_regions(relu_map: ReluMap, most: int, limit: WorkLimit) -> tuple[Bool[np.ndarray, "R L"], float]:
    """The patterns of all linear regions that are not empty, and the radius within which no other is met.

    One border after the other divides the regions so far. Raises `WorkLimitReached` when they are more than `most`.
    """
    patterns = np.zeros((1, 0), bool)
    radius = np.inf
    for count in range(1, relu_map.num_relus + 1):
        part = dataclasses.replace(
            relu_map,
            outer=relu_map.outer[:, :count],
            inner=relu_map.inner[:count],
            inner_bias=relu_map.inner_bias[:count],
        )
        last = np.repeat([False, True], len(patterns))
        candidates = np.column_stack([np.tile(patterns, (2, 1)), last])
        limit.charge(len(candidates))
        tests = WordTests(part, candidates)
        excluded = [tests.excluded_radius((i,)) for i in range(len(candidates))]
        radius = min([radius, *(r for r in excluded if r is not None)])
        patterns = candidates[[r is None for r in excluded]]
        if len(patterns) > most:
            raise WorkLimitReached
    return patterns, radius


class RegionGraph:
    """The graph at its current level, and the radius within which its exclusions hold."""

    def __init__(self, relu_map: ReluMap, patterns: Bool[np.ndarray, "R L"], max_period: int, limit: WorkLimit):
        self.tests = WordTests(relu_map, patterns)
        self.max_period = max_period
        self.limit = limit
        self.radius = np.inf
        self._connect([(region,) for region in range(len(patterns))])

    def refine(self) -> None:
        """Lengthen the words for as long as listing the closed walks is more work than testing longer words."""
        for _ in range(self.max_period):
            longer = [word + self.words[j][-1:] for word, after in zip(self.words, self.successors) for j in after]
            if self.closed_walks(self.max_period, max(FEW_WALKS, len(longer))) is not None:
                return
            if len(longer) > self.limit.left or len(self.words) > MAX_WORDS:
                raise WorkLimitReached
            self._connect([word for word in longer if self._is_possible(word)])

    def all_closed_walks(self, most: int) -> tuple[list[Word], int]:
        """The closed walks of up to as many steps as make no more than `most` walks, and this number of steps."""
        walks: list[Word] = []
        few, many = 0, self.max_period + 1  # so many steps make few enough walks, and too many
        steps = self.max_period
        while many - few > 1:
            listed = self.closed_walks(steps, most)
            if listed is None:
                many = steps
            else:
                walks, few = listed, steps
            steps = (few + many) // 2
        return walks, few

    def closed_walks(self, longest: int, most: int) -> list[Word] | None:
        """The regions along every closed walk of at most `longest` steps: one of its cyclic shifts, no repetitions.

        `None` when there are more than `most`.

        Lyndon words (least under cyclic shifts, in the order of the graph's words) are grown letter by letter: a
        letter below the one `repeat` places back would make a shift smaller (J.-P. Duval, 1983).
        """
        walks: list[Word] = []
        for start in range(len(self.words)):
            # Steps back to the start, over words that are not below it: the others would make a smaller shift.
            back = np.zeros(len(self.words))
            back[start:] = dijkstra(self.graph[start:, start:].T, unweighted=True, limit=longest, indices=0)
            stack: list[tuple[tuple[int, ...], int]] = [((start,), 1)]
            while stack:
                walk, repeat = stack.pop()
                for following in self.successors[walk[-1]]:
                    if following == start and repeat == len(walk):
                        walks.append(tuple(self.words[i][0] for i in walk))
                        if len(walks) > most:
                            return None
                    least = walk[-repeat]
                    if following < least or len(walk) + max(1, back[following]) > longest:
                        continue
                    stack.append(((*walk, following), repeat if following == least else len(walk) + 1))
        return walks

    def _connect(self, words: list[Word]) -> None:
        """Make `words` the nodes, without those on no closed walk of at most `max_period` steps."""
        self._set_words(sorted(words))
        if not words:
            return
        distances = dijkstra(self.graph, unweighted=True, limit=self.max_period)
        before, after = self.graph.nonzero()
        closes = distances[after, before] + 1 <= self.max_period
        kept = np.unique(before[closes])
        if len(kept) < len(words):
            self._set_words([self.words[i] for i in kept])

    def _set_words(self, words: list[Word]) -> None:
        starting_with: dict[Word, list[int]] = defaultdict(list)
        for i, word in enumerate(words):
            starting_with[word[:-1]].append(i)
        self.words = words
        self.successors: list[list[int]] = [starting_with[word[1:]] for word in words]
        rows = np.repeat(np.arange(len(words)), [len(after) for after in self.successors])
        columns = np.array([j for after in self.successors for j in after], int)
        self.graph = csr_matrix((np.ones(rows.size), (rows, columns)), shape=(len(words), len(words)))

    def _is_possible(self, word: Word) -> bool:
        """Whether some orbit may start with `word`."""
        self.limit.charge(1)
        excluded = self.tests.excluded_radius(word)
        if excluded is not None:
            self.radius = min(self.radius, excluded)
        return excluded is None


def hop_regions(
    relu_map: ReluMap, period: int, *, num_starts: int, max_hops: int, rng: np.random.Generator
) -> Bool[np.ndarray, "K p L"]:
    """Itineraries of cycles found by hopping: guess one, solve for its cycle, take the itinerary in which that lies.

    An itinerary that is its own successor is one of a true cycle. Guesses are itineraries of orbits of random states
    and random patterns, half each. Paths that meet an itinerary already seen end there.

    Reference: L. Eisenmann, Z. Monfared, N. Göring & D. Durstewitz (2023), *Bifurcations and loss jumps in RNN
    training* (the SCYFI algorithm; here the points of a cycle choose their regions all at once, which is Newton's
    method on the equations of the cycle).
    """
    guesses = _first_guesses(relu_map, period, num_starts, rng)
    seen: set[bytes] = set()
    found = []
    for _ in range(max_hops):
        fresh = []
        for k, key in enumerate(np.packbits(guesses.reshape(len(guesses), -1), axis=1)):
            if key.tobytes() not in seen:
                seen.add(key.tobytes())
                fresh.append(k)
        if not fresh:
            break
        guesses = guesses[fresh]
        solutions = solve_itineraries(relu_map, guesses)
        # A singular system has no one solution to hop to; whether it has a family of them is decided by the caller.
        arrived = solutions.inside | solutions.on_border | solutions.singular
        found.append(guesses[arrived])
        guesses = relu_map.borders(solutions.points[~arrived]) > 0
    return np.concatenate(found)


def _first_guesses(relu_map: ReluMap, period: int, num: int, rng: np.random.Generator) -> np.ndarray:
    # Biases are of order one (`ReluMap.simplified`), cycles often larger.
    states = rng.standard_normal((num - num // 2, relu_map.state_size))
    states *= 10 ** rng.uniform(-1, 2, (len(states), 1))
    from_orbits = np.zeros((len(states), period, relu_map.num_relus), bool)
    for t in range(period):
        from_orbits[:, t] = relu_map.borders(states) > 0
        # Expanding maps leave the range of floating point; only signs matter.
        states = np.clip(relu_map(states), -1e100, 1e100)
    random = rng.random((num // 2, period, relu_map.num_relus)) < 0.5
    return np.concatenate([from_orbits, random])
