"""Writing a file so that a crash, a full disk or a second writer leaves the old one or the new one, and whole."""

import contextlib
import errno
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


def replace_file(path: Path, content: Callable[[BinaryIO], None]) -> None:
    """Write a file beside `path` and put it in its place once all of it is on the disk.

    **Raises:** `OSError` where that fails; `path` is then as it was, and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(path)
    try:
        with unfinished.open("wb") as file:
            content(file)
            file.flush()
            # Without this a crash of the machine could leave the new name with none of the content.
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    _sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Raise unless a file can be written beside `path`; what a killed writer left there is removed.

    **Raises:** `ValueError` that says why not.
    """
    if path.is_dir():
        raise ValueError(f"checkpoint: {path} is a folder; pass the path of a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_path(path).open("wb") as file:
            file.write(b"rnndyn")
        unfinished_path(path).unlink()
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    except OSError as error:
        raise ValueError(f"checkpoint: {path} cannot be written ({error}). Choose another path.") from error


def unfinished_path(path: Path) -> Path:
    """Where a file is written before it is complete."""
    return path.with_name(path.name + ".tmp")


class PathLock:
    """That nobody else writes to a path, in this process or another, until it is released or the process ends.

    The lock lies on a file beside the path, `.lock`, which is removed with it; one that a killed process left behind
    is free. Where the system or the file system knows no locks there are none, with a warning.
    """

    def __init__(self, path: Path):
        self._path = path.with_name(path.name + ".lock")
        self._target = path
        self._file: int | None = None

    def __enter__(self) -> "PathLock":
        """**Raises:** `ValueError` while somebody else holds it, or where it cannot be made."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._acquire()
        except OSError as error:
            raise ValueError(f"checkpoint: {self._target} cannot be written ({error}). Choose another path.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            # Removed before it is released: whoever waits then finds that the file it holds is gone, and tries again.
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._file)
            self._file = None

    def _acquire(self) -> None:
        if fcntl is None:
            return
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = os.read(file, 32).decode(errors="replace")
                os.close(file)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise ValueError(
                        f"checkpoint: {self._target} is being written by another run"
                        f"{f' (process {owner})' if owner else ''}. Wait for it, or choose another path."
                    ) from None
                if error.errno in _UNSUPPORTED:
                    warnings.warn(
                        f"{self._target}: its file system has no locks, so nothing keeps two runs from writing to it.",
                        stacklevel=4,
                    )
                    return
                raise
            if self._is_current(file):
                self._file = file
                os.ftruncate(file, 0)
                os.write(file, str(os.getpid()).encode())
                return
            os.close(file)  # its last owner removed it just before

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except FileNotFoundError:
            return False


def _sync_folder(folder: Path) -> None:
    """Put the new name itself on the disk, where the system lets folders be synced."""
    if os.name != "posix":
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (*_UNSUPPORTED, errno.EINVAL):
            raise
    finally:
        os.close(file)
