"""A portrait on disk: numbers, text, picture and page in one folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from rnndyn.portrait._page import page


def write_folder(portrait: Any, folder: Path, save_archive: Callable[[Path], Path]) -> Path:
    """Write `portrait.npz`, `portrait.json`, `portrait.png` and `index.html`; see `Portrait.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_archive(folder / "portrait.npz")
    (folder / "portrait.json").write_text(json.dumps(summary(portrait), indent=1, allow_nan=False) + "\n")
    figure = portrait.figure()
    picture = folder / "portrait.png"
    figure.savefig(picture, dpi=200)
    plt.close(figure)
    (folder / "index.html").write_text(page(portrait, picture.read_bytes()), encoding="utf-8")
    return folder


def summary(portrait: Any) -> dict[str, Any]:
    """What other programs read: sentences and the numbers behind them, without Jacobians and orbits.

    Numbers that are not finite are `null`: JSON has no word for them.
    """
    return _plain(
        {
            "title": portrait.title,
            "description": portrait.description,
            "sentences": [
                {
                    "topic": s.topic,
                    "place": s.place,
                    "claim": s.claim,
                    "strength": s.strength_name,
                    "evidence": s.evidence,
                    "scope": s.scope,
                }
                for s in portrait.sentences
            ],
            "places": [_place(place) for place in portrait.places],
            "conditional_exponents": _spectrum(portrait.conditional),
            "memory_horizon": None if portrait.memory is None else float(portrait.memory.horizon),
            "drive": portrait.drive,
            "stages": [
                {"name": s.name, "place": s.place, "seconds": round(s.seconds, 3), "outcome": s.outcome}
                for s in portrait.stages
            ],
            "budget": portrait.budget,
            "seconds": portrait.seconds,
            "is_interrupted": portrait.is_interrupted,
        }
    )


def _place(place: Any) -> dict[str, Any]:
    points, proofs, ends = place.fixed_points, place.certificates, place.attractors
    said: dict[str, Any] = {"name": place.name, "input": place.input}
    if points is not None:
        said["fixed_points"] = {
            "points": points.points,
            "residuals": points.residuals,
            "errors": points.errors,
            "num_unstable": points.num_unstable,
            "is_stable": points.is_stable,
            "multipliers_real": points.multipliers.real,
            "multipliers_imag": points.multipliers.imag,
            "index_sum": points.index_sum,
            "expected_index_sum": points.expected_index_sum,
            "num_certified": None if proofs is None else int(proofs.certified.sum()),
        }
    if ends is not None:
        said["attractors"] = [
            {"kind": a.kind, "label": a.label, "period": a.period, "share": share, "share_stderr": error}
            for a, share, error in zip(ends.attractors, ends.basin_fractions, ends.basin_fraction_stderr)
        ]
        said["num_states"] = len(ends.labels)
        said["undecided_share"] = ends.undecided_fraction
        said["unbounded_share"] = ends.unbounded_fraction
    if place.cycles is not None:
        said["num_cycles"] = {str(c.period): len(c) for c in place.cycles}
    said["exponents"] = _spectrum(place.spectrum)
    return said


def _spectrum(spectrum: Any) -> dict[str, Any] | None:
    if spectrum is None:
        return None
    return {"exponents": spectrum.exponents, "stderr": spectrum.stderr, "verdict": str(spectrum.message)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
