"""Text, character by character: read from files as it is needed, with what simple statistics make of it."""

import codecs
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from rnndyn._validation import check_at_least
from rnndyn.networks.vocabulary import REPLACEMENT, Vocabulary, code_points
from rnndyn.training.truncated import Window

_CHUNK = 2**20
"""Bytes or characters that are held in memory at a time."""


def read_text(
    path: str | Path | None = None,
    *,
    pattern: str = "**/*",
    validation: float = 0.05,
    min_count: int = 1,
    vocabulary: Vocabulary | None = None,
) -> "Text":
    """A text for a language model: a file or the files of a folder, split by position into training and validation.

    ```python
    text = rd.tasks.read_text("novel.txt")
    rd.fit(model, loss, text.train.stream(32, 64), ...)
    ```

    **Arguments:**

    - `path`: a UTF-8 file, or a folder whose files are read in the order of their names. By default the source and the
      licence of the Python standard library on this machine: its top-level modules, some five million characters. (They
      differ a little between versions of Python.)
    - `pattern`: which files of a folder, `"*.py"`; all of them, with those of its subfolders, by default.
    - `validation`: the share of the characters, at the end, that is held out.
    - `min_count`: characters rarer than this in the whole text are left out of the vocabulary, and U+FFFD stands in
      their place.
    - `vocabulary`: the characters to know, such as those of a trained model; by default those of the text.

    **Returns:** a `Text`. The characters lie in a temporary file, as code points of four bytes, and only what is asked
    for is read into memory.

    **Raises:** `ValueError` for an empty text, no files, a file that is not UTF-8 (it names the file and the byte), a
    share that leaves nothing to train on or to validate with, or characters that a given vocabulary does not have.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation: expected a share of the text above 0 and below 1, got {validation}.")
    check_at_least("min_count", min_count, 1)
    files = _standard_library() if path is None else _files(Path(path), pattern)
    store = tempfile.TemporaryFile()  # lives as long as the array mapped onto it  # noqa: SIM115
    counts: dict[int, int] = {}
    for chunk in (code_points(piece) for file in files for piece in _decoded(file)):
        store.write(chunk.tobytes())
        for code, count in zip(*np.unique(chunk, return_counts=True)):
            counts[int(code)] = counts.get(int(code), 0) + int(count)
    store.flush()
    length = sum(counts.values())
    if length == 0:
        raise ValueError(f"path: {path} holds an empty text; expected at least two characters.")
    codes = np.memmap(store, np.int32, "r", shape=(length,))
    if vocabulary is None:
        kept = [chr(code) for code, count in counts.items() if count >= min_count]
        vocabulary = Vocabulary(kept if len(kept) == len(counts) else [*kept, REPLACEMENT])
    else:
        vocabulary.number(np.array(sorted(counts), np.int32), replace=True)
    split = length - round(validation * length)
    if not 2 <= split < length - 1:
        raise ValueError(
            f"validation: {validation} of {length} characters leaves {split} to train on and {length - split} to "
            "validate with; expected at least two of each."
        )
    return Text(TextPart(codes[:split], vocabulary), TextPart(codes[split:], vocabulary), vocabulary)


class Text(eqx.Module):
    """A text in two parts, and its vocabulary."""

    train: "TextPart"
    """What comes first, to train on."""
    validation: "TextPart"
    """What comes last, held out."""
    vocabulary: Vocabulary
    """The characters."""


class TextPart(eqx.Module):
    """A stretch of text on disk. `len(part)` is its number of characters."""

    codes: Int[np.ndarray, " L"]
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.codes)

    def ids(self, start: int = 0, stop: int | None = None) -> Int[np.ndarray, " T"]:
        """The numbers of the characters from `start` to before `stop`."""
        return self.vocabulary.number(self.codes[start:stop], replace=True)

    def text(self, start: int = 0, stop: int | None = None) -> str:
        """The characters themselves, as the model sees them."""
        return self.vocabulary.decode(self.ids(start, stop))

    def chunks(self) -> Iterator[Int[np.ndarray, " T"]]:
        """The numbers of all characters, a part at a time."""
        for start in range(0, len(self), _CHUNK):
            yield self.ids(start, start + _CHUNK)

    def stream(self, batch_size: int, num_steps: int, *, restart_every: int | None = None) -> "TextStream":
        """Consecutive windows from `batch_size` places, for `rnndyn.training.truncated_bptt`.

        **Arguments:**

        - `batch_size`: B, the places, evenly over the text.
        - `num_steps`: T, characters of a window.
        - `restart_every`: windows after which a place goes on from the state that the model starts from, each place at
          another time. Without it the states of a whole pass are never reset, and a network with memories that do
          not fade may come to predict well from the states it happens to be in, and badly from its start.

        **Raises:** `ValueError` when a window is longer than what each place has to read, or `restart_every` is below
        1.
        """
        return TextStream(self, batch_size, num_steps, restart_every)

    def windows(self, batch_size: int, num_steps: int, *, key: PRNGKeyArray) -> "TextWindows":
        """Windows from places drawn at random, as batches `(inputs, targets)`, for `rnndyn.training.over_trials`.

        **Raises:** `ValueError` when a window is longer than the text.
        """
        return TextWindows(self, batch_size, num_steps, key)

    def batch(self, batch_size: int, num_steps: int) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"]]:
        """One batch `(inputs, targets)` of windows spread evenly over the text: to validate with."""
        _check_window(len(self), batch_size, num_steps, shared=True)
        places = np.linspace(0, len(self) - num_steps - 1, batch_size).astype(int)
        return _inputs_and_targets(self, places, num_steps)


class TextStream(eqx.Module):
    """Consecutive windows of a text; see `TextPart.stream`. After the last window all places start anew."""

    part: TextPart
    batch_size: int
    num_steps: int
    restart_every: int | None

    def __init__(self, part: TextPart, batch_size: int, num_steps: int, restart_every: int | None = None):
        _check_window(len(part), batch_size, num_steps, shared=False)
        if restart_every is not None:
            check_at_least("restart_every", restart_every, 1)
        self.part, self.batch_size, self.num_steps, self.restart_every = part, batch_size, num_steps, restart_every

    @property
    def num_windows(self) -> int:
        """Windows per pass through the text."""
        return (len(self.part) // self.batch_size - 1) // self.num_steps

    def __iter__(self) -> Iterator[Window]:
        places = np.arange(self.batch_size) * (len(self.part) // self.batch_size)
        # One place after the other starts anew, so that every update sees about as many fresh states.
        period = self.restart_every or self.num_windows
        turns = np.arange(self.batch_size) * (period if self.restart_every else 0) // self.batch_size
        for index in range(self.num_windows):
            inputs, targets = _inputs_and_targets(self.part, places + index * self.num_steps, self.num_steps)
            yield Window(inputs, targets, None, np.equal(index % period, turns) | (index == 0))


class TextWindows(eqx.Module):
    """Windows of a text in random order, without end; see `TextPart.windows`."""

    part: TextPart
    batch_size: int
    num_steps: int
    seed: tuple[int, ...]

    def __init__(self, part: TextPart, batch_size: int, num_steps: int, key: PRNGKeyArray):
        _check_window(len(part), batch_size, num_steps, shared=True)
        self.part, self.batch_size, self.num_steps = part, batch_size, num_steps
        self.seed = tuple(int(word) for word in np.ravel(jax.random.key_data(key)))

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(self.seed)
        while True:
            places = rng.integers(0, len(self.part) - self.num_steps, self.batch_size)
            yield _inputs_and_targets(self.part, places, self.num_steps)


def _standard_library() -> list[Path]:
    folder = Path(sysconfig.get_path("stdlib"))
    # Distributions differ in whether and where they put the licence.
    return [*sorted(folder.glob("LICENSE*.txt")), *sorted(folder.glob("*.py"))]


def _files(path: Path, pattern: str) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.glob(pattern) if file.is_file())
    if not files:
        raise ValueError(f"path: the folder {path} has no files that match {pattern!r}.")
    return files


def _decoded(path: Path) -> Iterator[str]:
    """The text of a file, a part at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        position = 0
        while True:
            data = file.read(_CHUNK)
            pending = len(decoder.getstate()[0])
            try:
                yield decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"path: {path} is not UTF-8: byte {position - pending + error.start} cannot be decoded "
                    f"({error.reason}). Convert the file, or leave it out with pattern."
                ) from error
            if not data:
                return
            position += len(data)


def _check_window(length: int, batch_size: int, num_steps: int, *, shared: bool) -> None:
    check_at_least("batch_size", batch_size, 1)
    longest = (length if shared else length // batch_size) - 1  # the last character is a target only
    if not 1 <= num_steps <= longest:
        raise ValueError(
            f"num_steps: expected a window of 1 to {longest} characters, the text being {length} long"
            + ("" if shared else f" and read from {batch_size} places")
            + f", got {num_steps}."
        )


def _inputs_and_targets(part: TextPart, places: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    codes = np.stack([part.codes[place : place + num_steps + 1] for place in places.tolist()])
    # Numbered at once: one call takes as long for a batch as for a window.
    rows = part.vocabulary.number(codes.ravel(), replace=True).reshape(codes.shape)
    return rows[:, :-1], rows[:, 1:]
