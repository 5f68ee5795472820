"""The lines that the tables of fixed points and of cycles have in common."""

from typing import Any

import numpy as np


def rows_by_instability(name: str, found: Any) -> list[str]:
    """A head, and for each number of unstable directions how many there are, how unstable and how exact."""
    lines = [f"  unstable  {name}  spectral radius     largest residual  largest error"]
    for count in np.unique(found.num_unstable):
        of = found.num_unstable == count
        low, high = found.spectral_radii[of].min(), found.spectral_radii[of].max()
        lines.append(
            f"  {count:8d}  {of.sum():6d}  {low:.4g} to {high:.4g}".ljust(40)
            + f"{found.residuals[of].max():16.2g}  {found.errors[of].max():13.2g}"
        )
    return lines


def one_sided_notes(found: Any) -> list[str]:
    """What is said of those next to a jump or on a kink of the map, where one derivative is not all."""
    lines = []
    if found.near_jump.any():
        lines.append(f"  {found.near_jump.sum()} next to a jump of the map (near_jump): one side of it only")
    if found.kinks is not None:
        lines.append(
            f"  {int(found.kinks.is_on_kink.sum())} on a kink of the map, where growth in the long run decides "
            f"({int(found.is_undecided.sum())} undecided): their multipliers are those of one side"
        )
    return lines
