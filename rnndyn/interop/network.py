"""What an importer returns: the cells of a recurrent layer, what reads them, and what was understood on the way."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from rnndyn.networks.adapters import as_cell


class ImportSource(eqx.Module):
    """Where a network came from, and every convention that was applied or assumed to read it.

    The same numbers mean another network where gates are in another order, the reset gate acts before the product, or
    two biases are one: frameworks differ in all of these. What the weights themselves do not tell is in `assumed`;
    check it against the code that trained them, by one step of both.
    """

    format: str = eqx.field(static=True)
    """The file format, or what was passed."""
    framework: str = eqx.field(static=True)
    """Whose names and conventions the weights follow."""
    layer: str = eqx.field(static=True)
    """The recurrent layer that was recognised."""
    kind: str = eqx.field(static=True)
    """Its kind, as "GRU" or "LSTM with projection"."""
    gate_order: str = eqx.field(static=True)
    """The order of the gates where the weights come from."""
    variant: str = eqx.field(static=True)
    """What else decides its dynamics: where the reset gate acts, the nonlinearity, the leak."""
    biases: str = eqx.field(static=True)
    """Which biases were added up, and which kept apart."""
    assumed: tuple[str, ...] = eqx.field(static=True)
    """What the weights do not tell and was assumed."""
    not_used: tuple[str, ...] = eqx.field(static=True)
    """The tensors that are no part of what was returned."""


class ImportedNetwork(eqx.Module):
    """A network from another library: hand it, or its `cell`, to `rnndyn.as_map`, `unroll` and all analyses.

    The weights are those of the source, exactly, in float64 unless another dtype was asked for. `print` shows what was
    recognised and what had to be assumed.
    """

    cells: dict[str, Any]
    """The cells by direction: `{"forward": cell}`, or `{"forward": ..., "backward": ...}`; where several layers read
    both directions of the layer below, one for each layer and direction, `"forward 0"`, `"backward 0"`, ..."""
    readout: eqx.nn.Linear | None
    """The linear readout of the layer's output, where one was recognised."""
    embedding: eqx.nn.Embedding | None
    """The embedding of tokens that the layer reads, where one was recognised."""
    name: str = eqx.field(static=True)
    """The name of the recurrent layer."""
    source: ImportSource = eqx.field(static=True)
    """What was understood."""

    @property
    def cell(self) -> Any:
        """The cell, a `StackedCell` for several layers.

        **Raises:** `ValueError` for a bidirectional layer, which is several systems.
        """
        if len(self.cells) > 1:
            raise ValueError(
                f"cell: the layer {self.name} is bidirectional, {len(self.cells)} systems, not one. Take one of them: "
                + ", ".join(f"network.cells[{key!r}]" for key in self.cells)
                + "."
            )
        return next(iter(self.cells.values()))

    @property
    def input_size(self) -> int:
        """Entries of the input."""
        return self.cell.input_size

    def effective_cell(self) -> Any:
        """The cell, which is how `rnndyn.as_map`, `unroll` and analyses take the network as one."""
        return self.cell

    def __call__(self, state: Any, input: Any) -> Any:
        """The next state."""
        return self.cell(state, input)

    def initial_state(self) -> Any:
        """The initial state of the cell."""
        return self.cell.initial_state()

    def output(self, state: Any) -> Any:
        """What the readout sees: the output of the cell."""
        return self.cell.output(state)

    def state_bounds(self, input: Any) -> Any:
        """The bounds of the cell."""
        return as_cell(self.cell).state_bounds(input)

    def table(self) -> str:
        """What `print` shows."""
        source = self.source
        rows = [
            ("from", f"{source.format}, {source.framework} conventions"),
            ("layer", f"{source.layer}: {source.kind}"),
            *((key, _describe(cell)) for key, cell in self.cells.items()),
            ("gate order", source.gate_order),
            ("variant", source.variant),
            ("biases", source.biases),
            ("readout", "none" if self.readout is None else _linear(self.readout)),
            ("embedding", "none" if self.embedding is None else "{} tokens -> {}".format(*self.embedding.weight.shape)),
            *(("assumed", text) for text in source.assumed),
            ("not used", _shortened(source.not_used)),
        ]
        width = max(len(key) for key, _ in rows)
        lines = [f"  {key:<{width}}  {text}" for key, text in rows if text]
        return "\n".join([f"ImportedNetwork {self.name}", *lines])

    def __str__(self) -> str:
        return self.table()


def linear(weight: np.ndarray, bias: np.ndarray | None) -> eqx.nn.Linear:
    """The `equinox.nn.Linear` with these weights, `(O, H)` and `(O,)`."""
    outputs, inputs = weight.shape
    shape = eqx.filter_eval_shape(
        lambda key: eqx.nn.Linear(inputs, outputs, use_bias=bias is not None, key=key), jax.random.key(0)
    )
    if bias is None:
        return eqx.tree_at(lambda module: module.weight, shape, weight)
    return eqx.tree_at(lambda module: (module.weight, module.bias), shape, (weight, bias))


def embedding(weight: np.ndarray) -> eqx.nn.Embedding:
    """The `equinox.nn.Embedding` with this weight, `(V, I)`."""
    return eqx.nn.Embedding(weight=weight)  # pyright: ignore[reportArgumentType]


def renamed(network: ImportedNetwork, **changes: Any) -> ImportedNetwork:
    """The network with other words in its `source`."""
    source: Any = dataclasses.replace(network.source, **changes)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(network, source=source)  # pyright: ignore[reportArgumentType]


def _describe(cell: Any) -> str:
    layers = getattr(cell, "cells", None)
    if layers is not None and not isinstance(layers, Mapping):
        return f"{type(cell).__name__} of {', '.join(_describe(layer) for layer in layers)}"
    text = f"{type(cell).__name__}, {cell.input_size} inputs"
    size = getattr(cell, "hidden_size", None)
    projection = getattr(cell, "proj_size", None)
    return text + (f", {size} units" if size else "") + (f" projected to {projection}" if projection else "")


def _linear(readout: eqx.nn.Linear) -> str:
    outputs, inputs = readout.weight.shape
    return f"linear, {inputs} -> {outputs}" + ("" if readout.bias is not None else ", no bias")


def _shortened(names: tuple[str, ...], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
