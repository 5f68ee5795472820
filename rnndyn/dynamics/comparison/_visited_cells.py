"""D_stsp between many series at once: each is counted in the cells of one grid, and shares are compared as a table."""

import numpy as np


def binned_divergences(
    runs: np.ndarray, lower: np.ndarray, upper: np.ndarray, num_bins: int, smoothing: float
) -> np.ndarray:
    """D_stsp from each run to each other one, (R, R), of runs (R, L, n): what `state_space_divergence` gives for pairs.

    A pair by itself costs a sort; here all runs are sorted into cells once, and what is left is one product of
    matrices, $D_{ij} = \\sum_k p_{ik} \\ln p_{ik} - \\sum_k p_{ik} \\ln q_{jk}$, over the cells that any run visits.
    """
    num_runs, _, size = runs.shape
    # A state that is not finite lies outside, like any other that is in no cell.
    with np.errstate(invalid="ignore", over="ignore"):
        places = np.floor(num_bins * (runs - lower) / (upper - lower))
        inside = np.all((places >= 0) & (places < num_bins), axis=2)
    whose = np.broadcast_to(np.arange(num_runs)[:, None], inside.shape)[inside]
    cells = np.zeros(len(whose), np.int64)
    number = 1
    for axis in places[inside].astype(np.int64).T:
        # Numbers of cells that would not fit are told apart by rank: there are no more than states.
        if number > 2**62 // num_bins:
            ranks, cells = np.unique(cells, return_inverse=True)
            number = len(ranks)
        cells, number = cells * num_bins + axis, number * num_bins
    visited, cells = np.unique(cells, return_inverse=True)
    held = np.bincount(whose * len(visited) + cells, minlength=num_runs * len(visited)).reshape(num_runs, -1)
    num_cells = float(num_bins) ** size
    total = held.sum(axis=1, keepdims=True) + smoothing * num_cells
    shares, share_of_empty = (held + smoothing) / total, smoothing / total
    logs, log_of_empty = np.log(shares), np.log(share_of_empty)
    own = np.sum(shares * logs, axis=1, keepdims=True)
    empty = (num_cells - len(visited)) * share_of_empty * (log_of_empty - log_of_empty.T)
    return own - shares @ logs.T + empty
