"""Files of weights as named tensors: checked before anything is allocated, nothing of them executed."""

import dataclasses
import importlib
import os
import pickle
import re
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from rnndyn.interop._safetensors import read_safetensors
from rnndyn.interop._tensors import StoredTensor, as_numpy, flattened, stored

# MATLAB has no vectors: what these names mean is one, whichever way it lies.
_VECTORS = re.compile(r"^(b|alpha|tau|dt|ei|sign|dale|h0|x0)", re.I)
_DAMAGED = (
    ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, IndexError, SyntaxError, OverflowError,
    MemoryError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error,
    scipy.io.matlab.MatReadError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FileContents:
    """What a file holds: tensors by name, or a whole Keras model."""

    format: str
    tensors: dict[str, StoredTensor]
    keras_model: Any = None


def read_file(path: str | Path) -> FileContents:
    """The tensors of a file, by its suffix.

    **Raises:** `ValueError` in one line for a suffix that is not known, a file that is damaged or cut short, one that
    would run code, and a reader that is not installed; `FileNotFoundError` when there is none.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"path: {path} has the suffix {path.suffix!r}; known are {', '.join(_READERS)}. Save the weights as "
            ".safetensors or .npz."
        )
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path}.")
    return reader(path)


def _npz(path: Path) -> FileContents:
    tensors = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    name = info.filename.removesuffix(".npy")
                    with archive.open(info) as file:
                        tensors[name] = _member(path, name, file, info.file_size)
    except _DAMAGED as error:
        raise _damaged(path, "npz", error) from error
    return FileContents("npz file", tensors)


def _member(path: Path, name: str, file: Any, size: int) -> StoredTensor:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{name} has the npy version {version}")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        refuse = f"{name}: an array of Python objects, which only a pickle can hold: not read, its code could run."
        return StoredTensor(name, shape, "object", lambda: _raise(refuse + " Save numbers."))
    count = 1
    for n in shape:
        count *= n
    if file.tell() + count * dtype.itemsize != size:
        raise ValueError(f"{name} claims shape {shape} and has {size} bytes")

    def load() -> np.ndarray:
        try:
            with np.load(path, allow_pickle=False) as archive:
                return archive[name]
        except _DAMAGED as error:
            raise _damaged(path, "npz", error) from error

    return StoredTensor(name, shape, str(dtype), load)


def _raise(message: str) -> np.ndarray:
    raise ValueError(message)


def _torch(path: Path) -> FileContents:
    torch: Any = _import(
        "torch", path, "where PyTorch is, safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    )
    try:
        with warnings.catch_warnings():
            # TorchScript: that it is refused is said below.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"path: {path} holds more than tensors, and its code was not run ({_first(error)}). Save "
            "model.state_dict() alone, or as .safetensors."
        ) from error
    except _DAMAGED as error:
        if "TorchScript" in str(error):
            raise ValueError(
                f"path: {path} is a TorchScript archive, a program: it was not run. Where you trust it, pass "
                "torch.jit.load(path).state_dict() to rnndyn.from_torch."
            ) from error
        raise ValueError(
            f"path: {path} cannot be read as tensors ({_first(error)}). Save model.state_dict(), or as .safetensors."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"path: {path} holds a {type(content).__name__}, not the state dict of a model.")
    for key in ("state_dict", "model_state_dict", "model"):
        # Beside the weights a checkpoint keeps the optimiser, whose tensors have the same names.
        content = content[key] if isinstance(content.get(key), dict) else content
    arrays = flattened(content, ".")
    return FileContents("PyTorch file", stored(arrays))


def _keras(path: Path) -> FileContents:
    if path.suffix.lower() == ".h5" and not _is_whole_model(path):
        return _h5(path)
    if "keras" not in sys.modules and not os.environ.get("KERAS_BACKEND"):
        # Keras reads this when it is imported, and would otherwise want TensorFlow.
        os.environ["KERAS_BACKEND"] = "jax"
        try:
            keras = _import_keras(path)
        finally:
            del os.environ["KERAS_BACKEND"]
    else:
        keras = _import_keras(path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except _DAMAGED as error:
        raise _damaged(path, "Keras", error) from error
    return FileContents("Keras file", {}, model)


def _import_keras(path: Path) -> Any:
    return _import(
        "keras", path, "where Keras is, np.savez('weights.npz', **{v.path: np.asarray(v) for v in model.variables})"
    )


def _is_whole_model(path: Path) -> bool:
    h5py: Any = _import("h5py", path, "pip install h5py")
    try:
        with h5py.File(path, "r") as file:
            return "model_config" in file.attrs
    except _DAMAGED as error:
        raise _damaged(path, "HDF5", error) from error


def _h5(path: Path) -> FileContents:
    """The weights alone: Keras numbers those of a layer, which gives them their names back."""
    h5py: Any = _import("h5py", path, "pip install h5py")
    arrays: dict[str, np.ndarray] = {}
    try:
        with h5py.File(path, "r") as file:
            file.visititems(lambda name, item: arrays.update({name: item[()]}) if hasattr(item, "dtype") else None)
    except _DAMAGED as error:
        raise _damaged(path, "HDF5", error) from error
    recurrent = {name.rpartition("/")[0] for name in arrays if name.endswith("/cell/vars/1")}
    named = {}
    for name, array in arrays.items():
        parent, _, number = name.rpartition("/")
        kinds = ("kernel", "recurrent_kernel", "bias") if parent in recurrent else ("kernel", "bias")
        if "embedding" in parent:
            kinds = ("embeddings",)
        is_numbered = parent.endswith("/vars") and number.isdigit() and int(number) < len(kinds)
        named[f"{parent.removesuffix('/vars')}/{kinds[int(number)]}" if is_numbered else name] = array
    return FileContents("Keras weights (HDF5)", stored({k: v for k, v in named.items() if v.dtype != object}))


def _mat(path: Path) -> FileContents:
    try:
        content = scipy.io.loadmat(path, struct_as_record=False)
    except NotImplementedError as error:
        raise ValueError(f"path: {path} is a MATLAB v7.3 file. Save it with save(..., '-v7').") from error
    except _DAMAGED as error:
        raise _damaged(path, "MATLAB v5", error) from error
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, value: Any) -> None:
        fields = getattr(value, "_fieldnames", None)
        if fields is not None:
            for field in fields:
                visit(f"{name}/{field}", getattr(value, field))
        elif hasattr(value, "toarray"):
            arrays[name] = value.toarray()
        elif isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
            visit(name, value.reshape(-1)[0])
        elif isinstance(value, np.ndarray) and value.dtype != object:
            is_vector = 1 in value.shape and _VECTORS.match(name.rpartition("/")[2])
            arrays[name] = value.reshape(() if value.size == 1 else -1) if is_vector else value

    for name, value in content.items():
        if not name.startswith("__"):
            visit(name, value)
    return FileContents("MATLAB file", {name: _from_matlab(name, array) for name, array in arrays.items()})


def _from_matlab(name: str, array: np.ndarray) -> StoredTensor:
    # MATLAB stores doubles that are whole numbers as integers, to save space; SciPy turns them back. Big endian too.
    return StoredTensor(name, array.shape, str(array.dtype), lambda: as_numpy(name, array))


def _import(module: str, path: Path, instead: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"path: {path} needs {module}, which cannot be imported here ({_first(error)}). Install it, or: {instead}."
        ) from error


def _damaged(path: Path, kind: str, error: BaseException) -> ValueError:
    return ValueError(
        f"path: {path} cannot be read: it is damaged, cut short or no {kind} file ({type(error).__name__}: "
        f"{_first(error)})."
    )


def _first(error: BaseException) -> str:
    """The first sentence of an error of another library, on one line."""
    text = " ".join(str(error).split())
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return text if len(text) <= 160 else text[:157] + "..."


_READERS: dict[str, Callable[[Path], FileContents]] = {
    ".safetensors": lambda path: FileContents("safetensors file", read_safetensors(path)),
    ".npz": _npz,
    ".pt": _torch,
    ".pth": _torch,
    ".ckpt": _torch,
    ".keras": _keras,
    ".h5": _keras,
    ".hdf5": _keras,
    ".mat": _mat,
}
