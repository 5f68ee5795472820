"""The directions in which a series bends: eigenvectors of the second derivatives of the map that made it."""

import numpy as np

_ALIKE = 0.99
"""Directions whose cosine is above this are one: a second set of kinks along it would make the regression singular."""

_LEAST = 1e-10
"""Of the mean diagonal of the Gram matrix: what keeps the fit defined where samples lie on a surface."""


def curved_directions(before: np.ndarray, after: np.ndarray, number: int) -> np.ndarray:
    """At most so many unit vectors `(D, N)`, the most curved first, from pairs of successive samples `(S, N)`.

    Of the quadratic form that fits each variable of `after` best, the eigenvectors are the directions along which
    it is curved; those of all variables are ranked by the size of their eigenvalue.
    """
    size = before.shape[1]
    first, second = np.triu_indices(size)

    def columns(piece: slice) -> np.ndarray:
        x = before[piece]
        return np.concatenate([np.ones((len(x), 1)), x, x[:, first] * x[:, second]], axis=1)

    count = 1 + size + len(first)
    gram, cross = np.zeros((count, count)), np.zeros((count, after.shape[1]))
    for piece in (slice(i, i + 4096) for i in range(0, len(before), 4096)):
        rows = columns(piece)
        gram += rows.T @ rows
        cross += rows.T @ after[piece]
    gram += _LEAST * np.trace(gram) / count * np.eye(count)
    forms = np.zeros((after.shape[1], size, size))
    forms[:, first, second] = np.linalg.solve(gram, cross)[1 + size :].T
    forms = (forms + forms.transpose(0, 2, 1)) / 2
    values, vectors = np.linalg.eigh(forms)
    candidates = vectors.transpose(0, 2, 1).reshape(-1, size)[np.argsort(-np.abs(values).ravel(), kind="stable")]
    chosen = candidates[:1]
    for row in candidates[1:]:
        if len(chosen) == number:
            break
        if np.abs(chosen @ row).max() < _ALIKE:
            chosen = np.append(chosen, row[None], axis=0)
    return chosen
