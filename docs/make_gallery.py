"""`python docs/make_gallery.py` writes docs/gallery.md: every figure of the studies under its caption.

The captions are those of the studies' modules, which each run prints too.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "gallery.md"
ORDER = (
    *(
        "flip_flop",
        "wiring",
        "universality",
        "text_integration",
        "negation",
        "context_integration",
        "mean_field_chaos",
        "low_rank_theory",
        "ring_attractor",
        "force",
        "multitask_motifs",
        "working_memory",
        "excitable_networks",
        "automata",
        "counting",
        "lyapunov_spectra",
        "gated_chaos",
        "proved_chaos",
    ),
    *("gradient_growth", "gradient_flossing", "why_gradients_add", "vanishing_gradients", "clipping_and_init"),
    *("long_memory", "char_lm", "exposure_bias", "sentiment", "hidden_memories", "piecewise_linear_cycles"),
    *("gru_portraits", "sine_wave", "cliffs", "two_neuron_bifurcations", "input_bifurcations"),
    *("training_bifurcations", "regimes", "parallel_time", "lorenz_reconstruction", "reservoir"),
)
"""Neighbours belong together: computation, chaos and gradients, learning, what changes with parameters, copies."""

HEAD = """# Gallery

Every figure is written by one command, with its provenance and its caption in the metadata of the file.
`python -m experiments STUDY --help` has the settings, and `--pdf` writes the figure as PDF too; what a study is about,
and its numbers beside those of the literature, it prints. Panels that depend on a setting (sizes, cells, lengths) are
those of its default.
Written by `python docs/make_gallery.py` from the captions in `experiments/`; the last section by hand.
"""
LAST = "## What the default runs show, and the larger ones\n"


def page() -> str:
    """The text of the page; its last section stays as it is.

    **Raises:** `ValueError` where `ORDER` and the studies differ.
    """
    names = {path.stem for path in (ROOT / "experiments").glob("*.py") if not path.name.startswith("_")}
    if names != set(ORDER):
        raise ValueError(f"ORDER and experiments/ differ in {sorted(names ^ set(ORDER))}.")
    _, last, kept = PAGE.read_text(encoding="utf-8").partition(LAST)
    return "\n".join([HEAD, *(section(name) for name in ORDER)]) + "\n" + last + kept


def section(name: str) -> str:
    """Title, figure and caption of one study."""
    title, _, text = caption(name).partition("\n\n")
    title = " ".join(title.split()).removesuffix(".")
    alternative = title.replace('"', "")
    return f"## {title}\n\n![{alternative}](../figures/{name}.png)\n\n`python -m experiments {name}`. {text.lstrip()}"


def caption(name: str) -> str:
    """What a study's `CAPTION` says, read without running the study."""
    tree = ast.parse((ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CAPTION":
            return ast.literal_eval(node.value)
    raise ValueError(f"{name} has no CAPTION.")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.name}")
