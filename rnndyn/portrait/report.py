"""What a portrait holds, place by place, and how it is printed, drawn and saved."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rnndyn.dynamics.attractors.attractors import Attractors
from rnndyn.dynamics.cycles.cycle_list import CycleSet
from rnndyn.dynamics.fixed_points.point_list import FixedPoints
from rnndyn.dynamics.fixed_points.slow_points import SlowPoints
from rnndyn.dynamics.growth.jacobian_products import MemoryHorizon
from rnndyn.dynamics.growth.lyapunov import LyapunovSpectrum
from rnndyn.dynamics.proofs.certificates import FixedPointCertificates
from rnndyn.portrait._budget import Stage
from rnndyn.portrait.sentences import Sentence
from rnndyn.results import Result


class PlacePortrait(Result):
    """What is known under one held input; `None` where it was not looked at (`Portrait.stages` says why).

    - `name`: the input in words.
    - `input`: the held input, `(I,)`, or `None` for a map.
    - `states`: the states started from, `(K, N)`.
    - `trajectories`: some orbits for pictures, `(B, T, N)`.
    - `fixed_points`, `certificates`: the points, and proofs of the first of them.
    - `attractors`: where the first of the states end.
    - `cycles`: cycles of period 2 to 4.
    - `slow_points`: slow points and their manifold.
    - `spectrum`: exponents on the largest attractor that is neither point nor cycle.
    """

    name: str
    input: Float[np.ndarray, " I"] | None
    states: Float[np.ndarray, "K N"]
    trajectories: Float[np.ndarray, "B T N"]
    fixed_points: FixedPoints | None
    certificates: FixedPointCertificates | None
    attractors: Attractors | None
    cycles: CycleSet | None
    slow_points: SlowPoints | None
    spectrum: LyapunovSpectrum | None

    def table(self) -> str:
        parts = [self.fixed_points, self.certificates, self.attractors, self.cycles, self.slow_points, self.spectrum]
        return "\n".join([self.name, *(str(part) for part in parts if part is not None)])


class Portrait(Result):
    """What a network does, in words and numbers.

    - `title`, `description`: what was looked at.
    - `places`: one `PlacePortrait` for every held input.
    - `conditional`: exponents under the `drive`, or `None`.
    - `memory`: how far back gradients reach under it, or `None`.
    - `drive`: the driving input in words.
    - `sentences`: the verdict.
    - `stages`: what was done, what it took, and what was left out and why.
    - `budget`, `seconds`: the seconds allowed and used.
    - `is_interrupted`: whether Ctrl-C ended the work.
    """

    title: str
    description: str
    places: tuple[PlacePortrait, ...]
    conditional: LyapunovSpectrum | None
    memory: MemoryHorizon | None
    drive: str
    sentences: tuple[Sentence, ...]
    stages: tuple[Stage, ...]
    budget: float
    seconds: float
    is_interrupted: bool

    @property
    def missing(self) -> tuple[Stage, ...]:
        """The stages that were left out: no time, or refused."""
        return tuple(stage for stage in self.stages if not stage.is_done)

    def table(self) -> str:
        lines = [self.title, self.description, ""]
        names = [place.name for place in self.places]
        for name in [*names, *dict.fromkeys(s.place for s in self.sentences if s.place not in names)]:
            lines.append(name)
            for sentence in self.sentences:
                if sentence.place == name:
                    lines.append(f"  - {sentence.claim} [{sentence.strength_name}]")
                    lines += _wrapped("; ".join(p for p in (sentence.evidence, sentence.scope) if p))
        for stage in self.missing:
            lines.append(f"not done: {stage.name} ({stage.place}): {stage.outcome}")
        if self.is_interrupted:
            lines.append("interrupted: later stages were not begun")
        lines.append(f"{self.seconds:.0f} s of {self.budget:g} s")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from rnndyn.portrait._page import verdict_html

        return verdict_html(self)

    def figure(self) -> Any:
        """One page of panels: states, multipliers, attractors, exponents, memory. Returns a Matplotlib figure."""
        from rnndyn.portrait._figure import draw  # Matplotlib only when a figure is asked for

        return draw(self)

    def save(self, path: str | Path) -> Path:
        """Write the folder `path`: `portrait.npz` (`rnndyn.load` reads it back), `portrait.json`, `portrait.png` and
        `index.html`, a page of its own that opens offline.

        The state space can be turned on the page where Plotly is installed (extra `report`).

        **Returns:** the folder. **Raises:** `OSError` when it cannot be written.
        """
        from rnndyn.portrait._saving import write_folder

        return write_folder(self, Path(path), super().save)


def _wrapped(text: str, width: int = 108) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ")
