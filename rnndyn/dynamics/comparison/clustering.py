"""Whether distances between systems follow labels of theirs: the task, the cell, the seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from rnndyn._validation import check_at_least
from rnndyn.results import Result


def label_clustering(
    distances: ArrayLike,
    labels: Sequence[Any] | ArrayLike,
    *,
    within: Sequence[Any] | ArrayLike | None = None,
    num_permutations: int = 999,
    seed: int = 0,
) -> "LabelClustering":
    r"""How much closer systems of one label are than systems of different labels, with a permutation p-value.

    $$R = \frac{\bar r_{between} - \bar r_{within}}{n / 2} \in [-1, 1]$$

    where r are the ranks of the n distances of pairs (ANOSIM): 1 where every pair of one label is closer than every
    other pair, 0 where labels say nothing.

    **Arguments:**

    - `distances`: (M, M), symmetric; of a similarity pass its negative.
    - `labels`: one for each system.
    - `within`: further labels, such as the task: only pairs that share one are compared, and labels are permuted among
        systems that do. Without it, all pairs are.
    - `num_permutations`: of the labels.
    - `seed`: of the permutations.

    **Returns:** a `LabelClustering`.

    **Raises:** `ValueError` for a matrix that is not square, finite and symmetric, other numbers of labels, or labels
    that leave no pair of one label or none of different ones.

    ??? cite "Reference"
        K. R. Clarke (1993), "Non-parametric multivariate analyses of changes in community structure", Australian
        Journal of Ecology 18.
    """
    matrix = np.asarray(distances, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"distances: expected a finite square matrix, got shape {matrix.shape}.")
    if not np.allclose(matrix, matrix.T):
        raise ValueError("distances: expected a symmetric matrix.")
    check_at_least("num_permutations", num_permutations, 1)
    label = np.unique(np.asarray(labels), return_inverse=True)[1]
    group = np.zeros(len(matrix), int) if within is None else np.unique(np.asarray(within), return_inverse=True)[1]
    for name, found in (("labels", label), ("within", group)):
        if found.shape != (len(matrix),):
            raise ValueError(f"{name}: expected one for each of {len(matrix)} systems, got {found.size}.")
    i, j = np.triu_indices(len(matrix), 1)
    compared = group[i] == group[j]
    i, j = i[compared], j[compared]
    alike = label[i] == label[j]
    if not alike.any() or alike.all():
        raise ValueError("labels: expected pairs of one label and pairs of different ones among those compared.")
    # Here: `scipy.stats` is a quarter of the time in which the whole library is imported, and only this asks for it.
    from scipy.stats import rankdata

    # Ranks within each group, on one scale: groups differ in how far apart their members are.
    ranks = np.zeros(len(i))
    for number in np.unique(group[i]):
        members = group[i] == number
        ranks[members] = rankdata(matrix[i[members], j[members]]) / (members.sum() / 2)

    def statistic(label: np.ndarray) -> float:
        alike = label[i] == label[j]
        return float(ranks[~alike].mean() - ranks[alike].mean())

    rng = np.random.default_rng(seed)
    found = statistic(label)
    permuted = np.empty(num_permutations)
    for k in range(num_permutations):
        shuffled = label.copy()
        for number in np.unique(group):
            members = np.flatnonzero(group == number)
            shuffled[members] = label[rng.permutation(members)]
        permuted[k] = statistic(shuffled)
    # Equal up to rounding counts as equal.
    p = (1 + np.sum(permuted >= found - 1e-12)) / (1 + num_permutations)
    return LabelClustering(found, float(p), num_permutations, int(alike.sum()), int((~alike).sum()))


class LabelClustering(Result):
    """How much distances follow labels.

    - `statistic`: R, from -1 to 1.
    - `p_value`: the share of permutations of the labels with at least this R, the labels themselves included.
    - `num_permutations`: how many there were.
    - `num_alike`, `num_different`: pairs of one label, and of different ones, that were compared.
    """

    statistic: float
    p_value: float
    num_permutations: int
    num_alike: int
    num_different: int

    def table(self) -> str:
        return (
            f"Clustering R = {self.statistic:.3f}, p = {self.p_value:.3g} ({self.num_permutations} permutations; "
            f"{self.num_alike} pairs of one label, {self.num_different} of different ones)"
        )
