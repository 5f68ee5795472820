"""A portrait as one HTML page that needs no network: verdict, picture, numbers."""

import base64
import html
import importlib
from typing import Any

import numpy as np

from rnndyn.plotting.fixed_points import STABILITY_COLORS
from rnndyn.portrait._figure import state_projection
from rnndyn.portrait.sentences import Strength

_MARKS = """
.mark { font-size: 0.75rem; padding: 0.1rem 0.45rem; border-radius: 0.6rem; color: #fff; white-space: nowrap; }
.proved { background: #006B4F; } .measured { background: #005A91; }
.sampled { background: #8A5A00; } .undecided { background: #666; }
.claim { font-weight: 600; } .rest { color: #555; font-size: 0.88rem; }
"""

_STYLE = (
    """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.description { color: #666; margin-top: 0; }
li { margin: 0.6rem 0; }
table { border-collapse: collapse; font-size: 0.88rem; display: block; overflow-x: auto; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } summary { cursor: pointer; }
"""
    + _MARKS
)


def page(portrait: Any, picture: bytes) -> str:
    """The page of a `Portrait` with its figure (PNG) inside."""
    image = base64.b64encode(picture).decode()
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{_text(portrait.title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{_text(portrait.title)}</h1><p class='description'>{_text(portrait.description)}</p>",
        *_verdict(portrait),
        "<h2>Figure</h2>",
        f"<img src='data:image/png;base64,{image}' alt='States, multipliers, attractors, exponents and memory'>",
    ]
    scripted = False
    for place in portrait.places:
        parts.append(f"<h2>{_text(place.name)}</h2>")
        space, scripted = _state_space(place, scripted)
        parts += [*space, *_fixed_points(place), *_attractors(place)]
    parts += [*_stages(portrait), "</body></html>"]
    return "\n".join(parts)


def verdict_html(portrait: Any) -> str:
    """The verdict alone, with its style, for a notebook."""
    heading = f"<b>{_text(portrait.title)}</b>: {_text(portrait.description)}"
    return "\n".join([f"<style>{_MARKS}</style>", heading, *_verdict(portrait)])


def _text(value: Any) -> str:
    return html.escape(str(value))


def _verdict(portrait: Any) -> list[str]:
    lines = ["<h2>Verdict</h2>"]
    for name in dict.fromkeys(s.place for s in portrait.sentences):
        lines.append(f"<h3>{_text(name)}</h3><ul>")
        for s in portrait.sentences:
            if s.place != name:
                continue
            rest = "; ".join(part for part in (s.evidence, s.scope) if part)
            lines.append(
                f"<li><span class='claim'>{_text(s.claim)}.</span> "
                f"<span class='mark {s.strength_name}'>{s.strength_name}</span>"
                f"<br><span class='rest'>{_text(rest)}.</span></li>"
            )
        lines.append("</ul>")
    if portrait.is_interrupted:
        lines.append("<p>The work was interrupted: later stages were not begun.</p>")
    words = [str(Strength[item]) for item in (Strength.proved, Strength.measured, Strength.sampled, Strength.undecided)]
    lines.append(f"<p class='rest'>{_text('. '.join(words))}.</p>")
    return lines


def _fixed_points(place: Any, most: int = 40) -> list[str]:
    points = place.fixed_points
    if points is None or len(points) == 0:
        return []
    lines = [
        "<h3>Fixed points</h3><table><tr><th>point</th><th>unstable directions</th><th>largest |multiplier|</th>"
        "<th>residual</th><th>proved within</th></tr>"
    ]
    proofs = place.certificates
    for k in range(min(len(points), most)):
        within = "not tried"
        if proofs is not None and k < len(proofs):
            within = f"{proofs.existence_radius[k]:.1e}" if proofs.certified[k] else "no"
        lines.append(
            f"<tr><td>{k + 1}</td><td>{points.num_unstable[k]}</td><td>{points.spectral_radii[k]:.6g}</td>"
            f"<td>{points.residuals[k]:.1e}</td><td>{within}</td></tr>"
        )
    lines.append("</table>")
    if len(points) > most:
        lines.append(f"<p class='rest'>and {len(points) - most} more, in portrait.npz</p>")
    return lines


def _attractors(place: Any, most: int = 40) -> list[str]:
    found = place.attractors
    if found is None or len(found) == 0:
        return []
    lines = ["<h3>Attractors</h3><table><tr><th>attractor</th><th>share of states</th><th>what tells</th></tr>"]
    for a, share, error in zip(found.attractors[:most], found.basin_fractions, found.basin_fraction_stderr):
        lines.append(f"<tr><td>{_text(a.label)}</td><td>{share:.3f} ± {error:.3f}</td><td>{_text(a.reason)}</td></tr>")
    lines.append("</table>")
    return lines


def _stages(portrait: Any) -> list[str]:
    lines = [
        f"<details><summary>Work: {portrait.seconds:.0f} s of {portrait.budget:g} s, "
        f"{len(portrait.missing)} stages left out</summary>",
        "<table><tr><th>stage</th><th>input</th><th>seconds</th><th>outcome</th></tr>",
    ]
    for s in portrait.stages:
        cells = (_text(s.name), _text(s.place), f"{s.seconds:.1f}", _text(s.outcome))
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return [*lines, "</table></details>"]


def _state_space(place: Any, scripted: bool) -> tuple[list[str], bool]:
    """A state space that can be turned, where Plotly is installed and there are three dimensions to turn."""
    projection = state_projection(place)
    if projection is None or len(projection.axes) < 3:
        return [], scripted
    try:
        go = importlib.import_module("plotly.graph_objects")
    except ImportError:
        return ["<p class='rest'>A state space that turns needs Plotly: pip install 'rnndyn[report]'.</p>"], scripted
    figure = go.Figure()
    for path in projection(place.trajectories):
        x, y, z = path.T
        figure.add_trace(
            go.Scatter3d(
                x=x, y=y, z=z, mode="lines", line={"color": "#999", "width": 1}, opacity=0.5, showlegend=False,
                hoverinfo="skip",
            )
        )  # fmt: skip
    points = place.fixed_points
    if points is not None:
        for count in np.unique(points.num_unstable):
            rows = np.flatnonzero(points.num_unstable == count)
            x, y, z = projection(points.points[rows]).T
            name = "stable" if count == 0 and points.is_stable[rows].all() else f"{count} unstable"
            figure.add_trace(
                go.Scatter3d(
                    x=x, y=y, z=z, mode="markers", name=f"{name} ({len(rows)})",
                    marker={"size": 5, "color": STABILITY_COLORS[min(int(count), len(STABILITY_COLORS) - 1)]},
                    text=[f"point {row + 1}, |μ| {points.spectral_radii[row]:.5g}" for row in rows],
                )
            )  # fmt: skip
    for attractor in place.attractors.attractors if place.attractors is not None else ():
        if attractor.kind in ("fixed point", "unbounded", "undecided"):
            continue
        x, y, z = projection(attractor.points).T
        figure.add_trace(go.Scatter3d(x=x, y=y, z=z, mode="markers", marker={"size": 2}, name=attractor.label))
    titles = [projection.label(k) for k in range(3)]
    figure.update_layout(
        scene={f"{axis}axis": {"title": {"text": title}} for axis, title in zip("xyz", titles)},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        height=520,
        legend={"x": 0, "y": 1},  # the tools are on the right
    )
    return [figure.to_html(full_html=False, include_plotlyjs=not scripted)], True
