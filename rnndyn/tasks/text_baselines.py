"""What simple statistics and compressors make of a text: bits per character to compare a network with."""

import gzip
import lzma
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rnndyn.results import Result
from rnndyn.tasks.text import Text, TextPart


def text_baselines(text: Text) -> "TextBaselines":
    r"""What models without a network need for the held-out part, in bits per character.

    $$H_1 = -\langle \log_2 p(c_t) \rangle, \qquad H_2 = -\langle \log_2 p(c_t \mid c_{t-1}) \rangle, \qquad
    p(c) = \frac{n(c) + 1}{n + V}, \quad p(c \mid c') = \frac{n(c' c) + p(c)}{n(c') + 1},$$

    with counts n of the training part and the mean over the held-out part: cross-entropies of a fitted model, which are
    at least the entropies of the text. The compressors see the held-out part, in UTF-8, alone, and xz also after the
    training part, of which then only the increase is counted.

    **Arguments:**

    - `text`: from `read_text`.

    **Returns:** a `TextBaselines`.

    ??? cite "Reference"
        D. J. C. MacKay & L. C. B. Peto (1995), "A hierarchical Dirichlet language model", Natural Language
        Engineering 1, 289-307, for the bigrams that fall back on single characters.
    """
    size = text.vocabulary.size
    pairs = _pair_counts(text.train, size)
    single = (pairs.sum(axis=0) + 1) / (pairs.sum() + size)
    following = (pairs + single) / (pairs.sum(axis=1, keepdims=True) + 1)
    held_out = _pair_counts(text.validation, size)
    num_pairs = held_out.sum()
    characters = len(text.validation)
    train_alone, both = _xz_bytes([text.train]), _xz_bytes([text.train, text.validation])
    return TextBaselines(
        num_train=len(text.train),
        num_validation=characters,
        num_characters=size,
        uniform=float(np.log2(size)),
        unigram=float(-np.sum(held_out.sum(axis=0) * np.log2(single)) / num_pairs),
        bigram=float(-np.sum(held_out * np.log2(following)) / num_pairs),
        gzip=8 * _gzip_bytes(text.validation) / characters,
        xz=8 * _xz_bytes([text.validation]) / characters,
        xz_after_training=8 * (both - train_alone) / characters,
    )


class TextBaselines(Result):
    """Bits per character of the held-out part of a text."""

    num_train: int
    """Characters of the training part."""
    num_validation: int
    """Characters of the held-out part."""
    num_characters: int
    """Different characters V."""
    uniform: float
    """log2 V, all characters alike."""
    unigram: float
    """Characters by their frequency."""
    bigram: float
    """Characters by the one before."""
    gzip: float
    """gzip at its strongest."""
    xz: float
    """xz at its strongest."""
    xz_after_training: float
    """xz that has read the training part before."""

    def table(self) -> str:
        rows = [
            (name, getattr(self, name)) for name in ("uniform", "unigram", "bigram", "gzip", "xz", "xz_after_training")
        ]
        head = (
            f"TextBaselines: {self.num_validation} characters held out of "
            f"{self.num_train + self.num_validation}, {self.num_characters} different; bits per character"
        )
        return "\n".join([head, *(f"  {name:<18}{value:7.3f}" for name, value in rows)])


def _pair_counts(part: TextPart, size: int) -> np.ndarray:
    """How often character j follows character i."""
    counts = np.zeros(size * size, np.int64)
    before: Any = np.zeros(0, np.int64)
    for ids in part.chunks():
        ids = np.concatenate([before, ids]).astype(np.int64)
        counts += np.bincount(ids[:-1] * size + ids[1:], minlength=size * size)
        before = ids[-1:]
    return counts.reshape(size, size).astype(float)


def _encoded(parts: Iterable[TextPart]) -> Iterator[bytes]:
    for part in parts:
        for ids in part.chunks():
            yield part.vocabulary.decode(ids).encode("utf-8", "surrogatepass")


def _xz_bytes(parts: Iterable[TextPart]) -> int:
    compressor = lzma.LZMACompressor(preset=9)
    return sum(len(compressor.compress(piece)) for piece in _encoded(parts)) + len(compressor.flush())


def _gzip_bytes(part: TextPart) -> int:
    with tempfile.TemporaryFile() as sink:
        with gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=9, mtime=0) as file:
            for piece in _encoded([part]):
                file.write(piece)
        return sink.tell()
