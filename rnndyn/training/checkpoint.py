"""Models and training runs on disk: a line of JSON, the arrays, and a checksum. Nothing is pickled."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any, BinaryIO

import equinox as eqx
import jax

from rnndyn.training._data import is_typed_key
from rnndyn.training._files import PathLock, replace_file
from rnndyn.training._structure import check_structure, describe

_FORMAT = 2
_MODEL = "model"
_TRAILER = b"\nsha256:"
_TRAILER_LENGTH = len(_TRAILER) + 64


def save_model(path: str | Path, model: Any) -> Path:
    """Write the arrays of a model to `path`, behind a description of its structure.

    **Arguments:**

    - `path`: the file; missing folders are made, an existing file is replaced.
    - `model`: any Equinox module or tree of arrays.

    **Returns:** the path written.

    **Raises:** `OSError` where it cannot be written, on a full disk for one; what stood there before is then as it was.
    `ValueError` while a training run, or another call, is writing to the same path.
    """
    path = Path(path)
    with PathLock(path):
        return write(path, _MODEL, {"structure": describe(model)}, model)


def load_model(path: str | Path, like: Any) -> Any:
    """Read a model that `save_model` wrote.

    **Arguments:**

    - `path`: the file.
    - `like`: a model of the same structure, such as a fresh one made by the same call; its numbers do not matter.

    **Returns:** `like` with the arrays of the file.

    **Raises:** `ValueError` when the file holds no model or one of another structure, and says where they differ; or
    when a byte of it is not as it was written.
    """
    path = Path(path)
    header = read_header(path, _MODEL)
    check_structure(path, header["structure"], like, "like")
    return read_arrays(path, like)


def write(path: Path, kind: str, header: dict[str, Any], tree: Any) -> Path:
    """Write `header` and the array leaves of `tree`; the file appears only when it is complete and on the disk."""

    def content(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        hashing.write(json.dumps({"rnndyn": kind, "format": _FORMAT, **header}).encode() + b"\n")
        _serialise(hashing, tree)
        file.write(_TRAILER + hashing.hexdigest().encode())

    replace_file(path, content)
    return path


def check_serialisable(name: str, tree: Any) -> None:
    """Raise unless `tree` can be written: what would fail at the first checkpoint fails before the first step."""
    try:
        _serialise(_Hashing(None), tree)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"checkpoint: {name} cannot be written to a file: {error}") from error


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """The header of a file that `write` made, or a `ValueError` when it is something else, or damaged."""
    with path.open("rb") as file:
        header = _parse_header(file)
        if header is None or header.get("rnndyn") != kind:
            found = "something else" if header is None else f"a {header['rnndyn']}"
            raise ValueError(f"{path}: expected a {kind} written by rnndyn, found {found}.")
        if not isinstance(header.get("format"), int):
            raise ValueError(f"{path}: its header could not be read; the file is damaged.")
        if header["format"] > _FORMAT:
            raise ValueError(
                f"{path}: has format {header['format']}; this version of rnndyn reads up to {_FORMAT}. Upgrade rnndyn."
            )
        # Format 1 had no checksum.
        if header["format"] >= 2 and not _is_whole(file):
            raise ValueError(
                f"{path}: its arrays could not be read; the file is damaged (its checksum is not that of its content)."
            )
    return header


def read_arrays(path: Path, like: Any) -> Any:
    """The tree of a file that `write` made, in the structure of `like`."""
    with path.open("rb") as file:
        file.readline()
        try:
            data = eqx.tree_deserialise_leaves(file, jax.tree.map(_without_type, like))
        except (EOFError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: its arrays could not be read; the file is damaged ({error}).") from error
    return jax.tree.map(
        lambda leaf, array: (
            jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if is_typed_key(leaf) else array
        ),
        like,
        data,
    )


class _Hashing(io.RawIOBase):
    """A file that is written on the way to its checksum; `None` writes the checksum only."""

    def __init__(self, file: BinaryIO | None):
        super().__init__()
        self._file = file
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._hash.update(data)
        if self._file is not None:
            self._file.write(data)
        return memoryview(data).nbytes

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _serialise(file: Any, tree: Any) -> None:
    try:
        eqx.tree_serialise_leaves(file, jax.tree.map(_without_type, tree))
    except RuntimeError as error:
        # Equinox wraps whatever happens at a leaf; of a full disk the cause is what matters.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from error


def _without_type(leaf: Any) -> Any:
    """Typed random keys as their data, which is all that a file can hold of them."""
    return jax.random.key_data(leaf) if is_typed_key(leaf) else leaf


def _is_whole(file: BinaryIO) -> bool:
    file.seek(0, io.SEEK_END)
    left = file.tell() - _TRAILER_LENGTH
    if left < 0:
        return False
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0:
        piece = file.read(min(left, 2**20))
        if not piece:
            return False
        digest.update(piece)
        left -= len(piece)
    return file.read() == _TRAILER + digest.hexdigest().encode()


def _parse_header(file: BinaryIO) -> dict[str, Any] | None:
    # A foreign file may have no line ends at all; a header of ours is far shorter than this.
    line = file.readline(2**26)
    try:
        header = json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError):
        return None
    return header if isinstance(header, dict) and "rnndyn" in header else None
