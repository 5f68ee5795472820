"""A recurrent layer that was recognised among named tensors, and how one of them becomes a network."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from rnndyn.interop._cells import OWN_STEP
from rnndyn.interop._linear import Linear, find_embedding, find_readout
from rnndyn.interop._tensors import Tensors
from rnndyn.interop.network import ImportedNetwork, ImportSource, embedding, linear
from rnndyn.networks.cells.stacked import StackedCell

WORDS = {
    "vanilla": "vanilla RNN",
    "lstm": "LSTM",
    "projected lstm": "LSTM with projection",
    "gru": "GRU",
    "leaky": "leaky rate network",
}
_CELLS = {"rnn": "vanilla", "simplernn": "vanilla", "simple": "vanilla", "elman": "vanilla", "vanillarnn": "vanilla"}


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a caller says of weights that they do not say themselves; `None` where nothing is said."""

    cell: str | None = None
    activation: Any = None
    reset: str | None = None
    alpha: float | None = None
    dt: float | None = None
    tau: Any = None
    state_variable: str | None = None
    dale: str | None = None


@dataclasses.dataclass(frozen=True)
class FoundCell:
    """The weights of one layer in one direction."""

    input_size: int
    output_size: int
    build: Callable[[], Any]
    used: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FoundLayer:
    """A recurrent layer: the cells that it would become, or why it cannot become any."""

    name: str
    framework: str
    kind: str
    cells: dict[str, tuple[FoundCell, ...]] = dataclasses.field(default_factory=dict)
    """By direction, from the input to the output."""
    gate_order: str = ""
    variant: str = ""
    biases: str = ""
    assumed: tuple[str, ...] = ()
    refusal: str | None = None
    used: tuple[str, ...] = ()
    """The tensors of a layer that is refused."""
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)
    """A readout that its names tell, for layers whose framework does not say."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """All tensors that belong to it."""
        return (*self.used, *(name for cells in self.cells.values() for cell in cells for name in cell.used))

    @property
    def input_size(self) -> int:
        """Entries of its input."""
        return next(iter(self.cells.values()))[0].input_size

    @property
    def output_size(self) -> int:
        """Entries of what a readout sees, of both directions where it has two."""
        if len(self.cells) == 1:
            return next(iter(self.cells.values()))[-1].output_size
        return sum(cells[-1].output_size for cells in list(self.cells.values())[-2:])

    def describe(self) -> str:
        """Its kind and size in a few words."""
        if self.refusal is not None:
            return f"{WORDS.get(self.kind, self.kind)}, refused: {self.refusal}"
        layers = len(next(iter(self.cells.values())))
        text = f"{WORDS.get(self.kind, self.kind)}, {self.input_size} -> {self.output_size}"
        return text + (f", {layers} layers" if layers > 1 else "") + (", bidirectional" if len(self.cells) > 1 else "")


def cell_word(cell: str | None) -> str | None:
    """The kind that a caller's `cell=` names."""
    if cell is None:
        return None
    word = str(cell).lower().replace("_", " ").removesuffix("cell").strip()
    word = _CELLS.get(word, word)
    word = {"projectedlstm": "projected lstm", "lstm with projection": "projected lstm"}.get(word, word)
    if word not in WORDS:
        raise ValueError(f"cell: expected one of {', '.join(map(repr, WORDS))}, got {cell!r}.")
    return word


def layer_and_direction(parts: Iterable[str], cell: re.Pattern, direction: re.Pattern) -> tuple[str, str]:
    """The name of a layer and which way it runs, from the path to its tensors.

    Parts at the end that match `cell` only name the cell within the layer. The last one of the others may say which of
    the two layers of a bidirectional one it is: the first group of `direction`.
    """
    left = [part for part in parts if part]
    while left and cell.match(left[-1]):
        left.pop()
    which = direction.match(left[-1]) if left else None
    return "/".join(left[:-1] if which else left), which[1] if which else "forward"


def pick(layers: Sequence[FoundLayer], name: str | None, cell: str | None, where: str) -> FoundLayer:
    """The layer that a caller means.

    **Raises:** `ValueError` that lists the layers when `name` does not tell one of several, and for a layer that is
    refused, or of another kind than `cell`.
    """
    listed = "; ".join(f"{layer.name} ({layer.describe()})" for layer in layers)
    if name is None:
        if len(layers) > 1:
            raise ValueError(
                f"name: {where} holds {len(layers)} recurrent layers: {listed}. Pass the name of one, or a list of "
                "names from the input to the output to stack them."
            )
        layer = layers[0]
    else:
        matching = [layer for layer in layers if layer.name == name]
        if not matching:
            ends = ("." + name, "/" + name, "_" + name)
            matching = [layer for layer in layers if layer.name.endswith(ends)]
        if len(matching) != 1:
            raise ValueError(f"name: expected one of the recurrent layers of {where}: {listed}; got {name!r}.")
        layer = matching[0]
    if layer.refusal is not None:
        raise ValueError(f"{layer.name}: {layer.refusal}")
    asked = cell_word(cell)
    if asked is not None and asked != layer.kind and not (asked == "lstm" and layer.kind == "projected lstm"):
        raise ValueError(
            f"cell: {cell!r} was asked for, but {layer.name} is another: {layer.describe()}. Leave cell= away, or pass "
            f"cell={layer.kind!r}."
        )
    return layer


def assemble(
    tensors: Tensors,
    layers: Sequence[FoundLayer],
    name: str | Sequence[str] | None,
    *,
    choices: Choices,
    where: str,
    format: str,
    readout: str | None = None,
    dtype: Any = None,
    linears: Iterable[Linear] | None = None,
    embeddings: Iterable[Linear] | None = None,
) -> ImportedNetwork:
    """The network of the layer, or of the stacked layers, that `name` means.

    `linears` and `embeddings` are what a module itself says of these; without them names and shapes decide.
    """
    names = [name] if name is None or isinstance(name, str) else list(name)
    if not names:
        raise ValueError("name: expected at least one name, got an empty list.")
    chosen = [pick(layers, one, choices.cell, where) for one in names]
    _check_choices(choices, chosen)
    first, last = chosen[0], chosen[-1]
    if len(chosen) > 1 and any(len(layer.cells) > 1 for layer in chosen):
        raise ValueError("name: bidirectional layers cannot be stacked into one cell; take them one by one.")
    cells = {key: _stack([found.build() for layer in chosen for found in layer.cells[key]]) for key in first.cells}
    used = {tensor for layer in chosen for tensor in layer.tensors}
    taken = {tensor for layer in layers for tensor in layer.tensors}
    assumed = list(dict.fromkeys(text for layer in chosen for text in layer.assumed))
    found_readout, note = find_readout(tensors, taken, last, readout, linears)
    assumed += [note] if note else []
    found_embedding, note = find_embedding(tensors, taken, first, embeddings)
    assumed += [note] if note else []
    for found in (found_readout, found_embedding):
        used |= set() if found is None else set(found.used)
    network = ImportedNetwork(
        cells=cells,
        readout=None if found_readout is None else linear(*found_readout.arrays()),
        embedding=None if found_embedding is None else embedding(found_embedding.arrays()[0]),
        name=" + ".join(layer.name for layer in chosen),
        source=ImportSource(
            format=format,
            framework=first.framework,
            layer=" + ".join(layer.name for layer in chosen),
            kind=" + ".join(dict.fromkeys(layer.describe() for layer in chosen)),
            gate_order=first.gate_order,
            variant=" + ".join(dict.fromkeys(layer.variant for layer in chosen)),
            biases=" + ".join(dict.fromkeys(layer.biases for layer in chosen)),
            assumed=tuple(assumed),
            not_used=tuple(tensor for tensor in tensors if tensor not in used),
        ),
    )
    return network if dtype is None else _cast(network, dtype)


def _check_choices(choices: Choices, chosen: Sequence[FoundLayer]) -> None:
    """Raise for a choice that no chosen layer has: an option that is passed over would be a silent mistake."""
    kinds = {layer.kind for layer in chosen}
    has = {
        "activation": {"vanilla", "leaky"},
        "reset": {"gru"},
        **{option: {"leaky"} for option in ("alpha", "dt", "tau", "state_variable")},
        "dale": {"leaky", "vanilla"},
    }
    for name, of in has.items():
        value = getattr(choices, name)
        if value is not None and not kinds & of:
            owners = " or ".join(sorted(WORDS[kind] for kind in of))
            raise ValueError(
                f"{name}: belongs to {owners}, got {value!r} for {chosen[0].name}: {chosen[0].describe()}."
            )


def none_found(where: str, tensors: Tensors) -> ValueError:
    """What is said of tensors without a recurrent layer."""
    names = list(tensors)
    shown = ", ".join(f"{name} {list(tensors[name].shape)}" for name in names[:4])
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ValueError(
        f"{where}: no recurrent layer is recognised among its {len(names)} tensors ({shown}{more}). Known are the "
        "names of PyTorch, Keras, Flax, Haiku and Equinox, and plain matrices W_rec, W_in, b_rec. Another "
        f"architecture? {OWN_STEP}"
    )


def _stack(cells: list[Any]) -> Any:
    return cells[0] if len(cells) == 1 else StackedCell(cells)


def _cast(network: ImportedNetwork, dtype: Any) -> ImportedNetwork:
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype: expected a floating-point dtype, got {dtype}.")
    # Plain numbers, dt and tau, stay what they are.
    return jax.tree.map(
        lambda leaf: np.asarray(leaf, dtype) if eqx.is_array_like(leaf) and hasattr(leaf, "dtype") else leaf, network
    )
