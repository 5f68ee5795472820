"""Weights in a file: what is in it, and the network that they become."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnndyn.interop._files import read_file
from rnndyn.interop._layers import Choices, assemble, none_found
from rnndyn.interop._recognition import recurrent_layers
from rnndyn.interop._tensors import Tensors
from rnndyn.interop.keras import from_keras, keras_contents
from rnndyn.interop.network import ImportedNetwork, renamed
from rnndyn.results import Result


def load_network(
    path: str | Path,
    name: str | Sequence[str] | None = None,
    cell: str | None = None,
    *,
    activation: Any = None,
    reset: str | None = None,
    alpha: float | None = None,
    dt: float | None = None,
    tau: Any = None,
    state_variable: str | None = None,
    dale: str | None = None,
    readout: str | None = None,
    dtype: Any = None,
) -> ImportedNetwork:
    """Read a recurrent network from a file of weights, exactly, or say in one line why not.

    Layer, direction and variant are recognised from the names and shapes of PyTorch, Keras, Flax, Haiku and Equinox,
    and of networks of plain matrices; `docs/conventions.md` has the table. No framework is needed, except to read its
    own format. Nothing in the file is executed.

    **Arguments:**

    - `path`: `.safetensors`, `.npz`, `.mat` (v5); `.pt`, `.pth`, `.ckpt` where PyTorch is installed (a state dict, read
        with `weights_only=True`); `.keras`, `.h5` where Keras (for weights alone: h5py) is.
    - `name`: the recurrent layer, where there are several; its last part is enough. A list of names, from the input to
        the output, is stacked into one cell.
    - `cell`: `"vanilla"`, `"lstm"`, `"gru"` or `"leaky"`. Needed for plain matrices, which do not tell their equation;
        elsewhere it is checked.
    - `activation`: of a vanilla or leaky network, a name or a function; tanh when neither this nor the file tells.
    - `reset`: `"after"` or `"before"`, of a GRU whose biases do not tell.
    - `alpha`, or `dt` and `tau`: the leak of a leaky network, a = dt / tau; taken from the file where it has them.
    - `state_variable`: `"current"` (the default here), x' = (1 - a) x + a (W f(x) + W_in u + b), or `"rate"`,
        r' = (1 - a) r + a f(W r + W_in u + b).
    - `dale`: how stored weights get the signs that the file names: `"abs"`, |W| D; `"rectify"`, [W]+ D; `"none"`.
    - `readout`: the name of the linear readout, where several linear layers fit.
    - `dtype`: of the weights. float64 when not given, which holds narrower floats, and their sums, exactly.

    **Returns:** an `ImportedNetwork`: `.cell` (or `.cells` by direction), `.readout`, `.embedding`, `.source`; hand it
    to `rnndyn.as_map` as it is. `print` shows what was recognised and what was assumed.

    **Raises:** `ValueError`, one line that says what to do: for several layers and no `name`, another architecture,
    what cannot be represented exactly (peepholes, weight norm, quantisation, custom activations), another `cell` than
    the file holds, NaN or infinity (which tensor, which entry), a damaged file, or one with code in it.
    `FileNotFoundError` where there is none.
    """
    choices = Choices(cell, activation, reset, alpha, dt, tau, state_variable, dale)
    contents = read_file(path)
    if contents.keras_model is not None:
        for option in ("alpha", "dt", "tau", "state_variable", "dale"):
            if getattr(choices, option) is not None:
                raise ValueError(f"{option}: is of a leaky rate network, which Keras does not have.")
        network = from_keras(
            contents.keras_model, name, cell=cell, activation=activation, reset=reset, readout=readout, dtype=dtype
        )
        return renamed(network, format=f"{contents.format} {path}")
    layers = recurrent_layers(contents.tensors, choices)
    if not layers and cell is not None:
        # With another cell= there may be some: then that is what is wrong.
        layers = recurrent_layers(contents.tensors, Choices())
    if not layers:
        raise none_found(f"path: {path}", contents.tensors)
    return assemble(
        contents.tensors,
        layers,
        name,
        choices=choices,
        where=str(path),
        format=f"{contents.format} {path}",
        readout=readout,
        dtype=dtype,
    )


def inspect_checkpoint(path: str | Path, *, cell: str | None = None) -> "CheckpointContents":
    """What a file of weights holds: its tensors, its recurrent layers, and the cell each would become.

    **Arguments:**

    - `path`: a file as for `load_network`. Of `.safetensors` and `.npz` only the headers are read.
    - `cell`: as in `load_network`, for weights whose names do not tell.

    **Returns:** a `CheckpointContents`; `print` shows it.

    **Raises:** `ValueError` for a file that cannot be read; a layer that would be refused is listed with the reason.
    """
    contents = read_file(path)
    if contents.keras_model is not None:
        tensors, layers = keras_contents(contents.keras_model, Choices(cell))
    else:
        tensors = contents.tensors
        layers = recurrent_layers(tensors, Choices(cell))
    return CheckpointContents(
        path=str(path),
        format=contents.format,
        tensors={name: (tensor.dtype, list(tensor.shape)) for name, tensor in tensors.items()},
        layers=tuple(
            RecurrentLayer(
                name=layer.name,
                framework=layer.framework,
                kind=layer.describe() if layer.refusal is None else layer.kind,
                gate_order=layer.gate_order,
                variant=layer.variant,
                biases=layer.biases,
                assumed=tuple(layer.assumed),
                tensors=tuple(layer.tensors),
                refusal=layer.refusal,
            )
            for layer in layers
        ),
        unused=_unused(tensors, layers),
    )


class RecurrentLayer(Result):
    """A recurrent layer of a file, and the cell that it would become.

    What `load_network` would do with the layer, said before it is done: whose conventions its tensors follow, in which
    order they hold the gates, and what the file does not tell and would be assumed. A layer that cannot be read is
    listed too, with the reason in `refusal`.
    """

    name: str
    """What `load_network(path, name=...)` calls it."""
    framework: str
    """Whose names and conventions its tensors follow."""
    kind: str
    """Its kind and sizes."""
    gate_order: str
    """The order of the gates in its tensors; empty for a layer without gates."""
    variant: str
    """What else decides its dynamics: where the reset gate acts, the nonlinearity, the leak; else empty."""
    biases: str
    """Which biases would be added up, and which kept apart."""
    assumed: tuple[str, ...]
    """What its weights do not tell."""
    tensors: tuple[str, ...]
    """The names of its tensors in the file."""
    refusal: str | None
    """Why it cannot become a cell; `None` where it can."""


class CheckpointContents(Result):
    """The tensors of a file and the recurrent layers among them.

    No network is built to make it: layers are recognised by the names and shapes of their tensors. `print` shows every
    tensor with the layer it belongs to, then the layers with their conventions.
    """

    path: str
    format: str
    """The kind of file: what wrote it, or what it follows."""
    tensors: dict[str, tuple[str, list[int]]]
    """dtype and shape by name, in the order of the file."""
    layers: tuple[RecurrentLayer, ...]
    """The recurrent layers, in the order of the file; those that cannot be read say why in `refusal`."""
    unused: tuple[str, ...]
    """The tensors that belong to no recurrent layer: readouts, embeddings, other parts."""

    def table(self) -> str:
        """Tensors first, then the layers."""
        lines = [f"{self.path}: {self.format}, {len(self.tensors)} tensors, {len(self.layers)} recurrent"]
        lines[0] += " layers" if len(self.layers) != 1 else " layer"
        width = max((len(name) for name in self.tensors), default=0)
        owner = {tensor: layer.name for layer in self.layers for tensor in layer.tensors}
        for name, (dtype, shape) in self.tensors.items():
            lines.append(f"  {name:<{width}}  {dtype} {shape}".ljust(width + 30) + f"  {owner.get(name, '')}".rstrip())
        for layer in self.layers:
            lines.append(f"{layer.name}: {layer.kind} ({layer.framework})")
            if layer.refusal is not None:
                lines.append(f"  refused     {layer.refusal}")
                continue
            for key, text in (("gate order", layer.gate_order), ("variant", layer.variant), ("biases", layer.biases)):
                if text:
                    lines.append(f"  {key:<10}  {text}")
            lines.extend(f"  assumed     {text}" for text in layer.assumed)
        if not self.layers:
            lines.append("no recurrent layer recognised; plain matrices need cell='leaky' or cell='vanilla'")
        return "\n".join(lines)


def _unused(tensors: Tensors, layers: Sequence[Any]) -> tuple[str, ...]:
    taken = {name for layer in layers for name in layer.tensors}
    return tuple(name for name in tensors if name not in taken)
