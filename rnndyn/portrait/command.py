"""The command `rnndyn`: a portrait of a network in a file, what a file holds, and its weights in PyTorch's names."""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

EXIT_WRONG, EXIT_INTERRUPTED = 2, 130

_EXAMPLES = """What a trained recurrent network does, and how sure that is.

examples:
  rnndyn inspect weights.safetensors
  rnndyn portrait weights.safetensors -o report/
  rnndyn portrait checkpoint.pt --name encoder.rnn --input 0,0,1 --input 0,0,-1 --budget 180
  rnndyn portrait rate_network.npz --cell leaky --alpha 0.1 --activation relu --states states.npy
  rnndyn convert model.keras -o weights.safetensors

`rnndyn COMMAND --help` has every option. Exit code 0: done; 2: a wrong argument or file, said in one line; 130:
interrupted (the portrait of what was done by then is written)."""


@dataclasses.dataclass(frozen=True)
class Portrait:
    """Write a report on a network: print its verdict, and make a folder with a page, a figure and the numbers.

    Inputs are rows of I numbers, states of N, a drive of shape (T, I).
    A file or an option that does not fit ends with exit code 2 and one line that says which.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """Weights: .safetensors, .npz, .mat, .pt, .keras, .h5."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report")
    """Folder for index.html, portrait.png, portrait.json, portrait.npz."""
    name: str | None = None
    """The recurrent layer, where the file holds several (see `rnndyn inspect`)."""
    direction: str | None = None
    """Of a bidirectional layer: forward or backward."""
    cell: str | None = None
    """vanilla, lstm, gru or leaky, where names and shapes do not tell."""
    activation: str | None = None
    """Nonlinearity of a vanilla or leaky network, where the file does not tell: tanh, relu, ..."""
    reset: str | None = None
    """Of a GRU: after or before."""
    alpha: float | None = None
    """The leak dt/tau of a leaky network."""
    input: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Input to hold, numbers with commas: 0,0,1. May be given several times; write --input=-1,0 for a negative first
    number. Zero by default."""
    inputs: Path | None = None
    """Inputs to hold, an .npy file with one row each."""
    states: Path | None = None
    """States to start from, an .npy file of shape (K, N), best those of the network at its task."""
    drive: Path | None = None
    """A sequence of inputs, an .npy file of shape (T, I), for the driven exponents and the memory."""
    budget: float = 60.0
    """Seconds, compilation included. The last stage may run over."""
    seed: int = 0
    """Of what is drawn."""
    title: str | None = None
    """Title of the report; the name of the file by default."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Show the tensors of a file, its recurrent layers, and the cell each would become."""

    file: Annotated[Path, tyro.conf.Positional]
    """Weights, as for `rnndyn portrait`."""
    cell: str | None = None
    """The cell to take plain matrices for."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclasses.dataclass(frozen=True)
class Convert:
    """Write a network in PyTorch's names and conventions as .safetensors, where PyTorch has it exactly."""

    file: Annotated[Path, tyro.conf.Positional]
    """Weights, as for `rnndyn portrait`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The .safetensors file to write."""
    name: str | None = None
    """The recurrent layer, where the file holds several."""
    cell: str | None = None
    """vanilla, lstm or gru, where names and shapes do not tell."""
    activation: str | None = None
    """Nonlinearity of a vanilla network."""
    reset: str | None = None
    """Of a GRU: after or before."""
    debug: bool = False
    """Show the traceback of an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = _parse(given or ["--help"])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_WRONG
    run = {Portrait: _portrait, Inspect: _inspect, Convert: _convert}[type(command)]
    try:
        return run(command)
    except KeyboardInterrupt:
        print("rnndyn: interrupted, nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    # What a wrong file or argument gives, each with a message that says what to do; anything else is a fault.
    except (ValueError, OSError, ImportError) as error:
        if command.debug:
            raise
        message = " ".join(str(error).split())
        print(f"rnndyn: {message} (--debug shows where)", file=sys.stderr)
        return EXIT_WRONG


def _portrait(command: Portrait) -> int:
    os.environ.setdefault("MPLBACKEND", "agg")
    from rnndyn.interop.checkpoint import load_network
    from rnndyn.portrait.portrait import portrait

    for name in ("states", "drive", "inputs"):  # before anything that takes time
        _array(name, getattr(command, name))
    network = load_network(
        command.file,
        command.name,
        command.cell,
        activation=command.activation,
        reset=command.reset,
        alpha=command.alpha,
    )
    print(network, file=sys.stderr)
    cell = _one_direction(network, command.direction)
    result = portrait(
        cell,
        _inputs(command),
        _array("states", command.states),
        drive=_array("drive", command.drive),
        budget=command.budget,
        seed=command.seed,
        title=command.title or command.file.name,
    )
    folder = result.save(command.output)
    print(result)
    print(f"written: {folder / 'index.html'}", file=sys.stderr)
    if result.is_interrupted:
        print("rnndyn: interrupted; the report holds what was done by then", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _inspect(command: Inspect) -> int:
    from rnndyn.interop.checkpoint import inspect_checkpoint

    print(inspect_checkpoint(command.file, cell=command.cell))
    return 0


def _convert(command: Convert) -> int:
    from safetensors.numpy import save_file

    from rnndyn.interop.checkpoint import load_network
    from rnndyn.interop.to_pytorch import to_torch

    if command.output.suffix != ".safetensors":
        raise ValueError(f"--output: expected a name that ends in .safetensors, got {command.output}.")
    network = load_network(command.file, command.name, command.cell, activation=command.activation, reset=command.reset)
    state = to_torch(network)
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, command.output)
    print(f"written: {command.output}, {len(state)} tensors: {', '.join(state)}")
    return 0


def _one_direction(network: Any, direction: str | None) -> Any:
    if direction is None:
        return network.cell
    if direction not in network.cells:
        raise ValueError(f"--direction: expected one of {', '.join(network.cells)}, got {direction}.")
    return network.cells[direction]


def _inputs(command: Portrait) -> np.ndarray | None:
    rows = _array("inputs", command.inputs)
    if not command.input:
        return rows
    if rows is not None:
        raise ValueError("--input and --inputs: give one of them.")
    try:
        numbers = [[float(entry) for entry in text.split(",")] for text in command.input]
    except ValueError:
        raise ValueError(f"--input: expected numbers with commas, such as 0,0,1, got {command.input}.") from None
    if len({len(row) for row in numbers}) > 1:
        raise ValueError("--input: the inputs given have different lengths.")
    return np.array(numbers)


def _array(name: str, path: Path | None) -> np.ndarray | None:
    if path is None:
        return None
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"--{name}: {path} is no .npy file of numbers ({error}).") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"--{name}: {path} holds several arrays; save one as .npy.")
    return array


def _parse(arguments: list[str]) -> Portrait | Inspect | Convert:
    """The command that the arguments ask for; one line and exit code 2 where they are wrong."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.extras.subcommand_cli_from_dict(
                {"portrait": Portrait, "inspect": Inspect, "convert": Convert},
                args=arguments,
                prog="rnndyn",
                description=_EXAMPLES,
            )
    except SystemExit as end:
        if end.code == EXIT_WRONG:
            print(f"rnndyn: {_message(errors.getvalue())} (rnndyn --help)", file=sys.stderr)
        raise


def _message(boxed: str) -> str:
    """The words of the first paragraph in the box that tyro draws around an error."""
    inside: list[str] = []
    for line in boxed.splitlines():
        if re.search("[─-]{4,}", line):
            if inside:
                break
            continue
        inside.append(line.strip(" │|"))
    return " ".join(inside).strip() or boxed.strip()


if __name__ == "__main__":
    sys.exit(main())
