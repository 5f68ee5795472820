"""Characters and their numbers."""

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Int

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Stands in a text for every character that its vocabulary leaves out."""


class Vocabulary(eqx.Module):
    """The characters that a model of text knows; character number i is the i-th in the order of Unicode.

    The characters are kept as an array of code points, so they are saved and read with the weights of a model
    (`rnndyn.save_model`, `rnndyn.load_model`).
    """

    codes: Int[Array | np.ndarray, "*E V"]

    def __init__(self, characters: str | Iterable[str]):
        """**Arguments:**

        - `characters`: a text, or characters; each is taken once.

        **Raises:** `ValueError` for no characters, or an entry that is not one character.
        """
        characters = set(characters)
        if not characters:
            raise ValueError("characters: expected at least one character, got none.")
        if not all(isinstance(character, str) and len(character) == 1 for character in characters):
            raise ValueError("characters: expected a text or single characters.")
        self.codes = np.array(sorted(map(ord, characters)), np.int32)

    @property
    def size(self) -> int:
        """How many characters there are, V."""
        return self.codes.shape[-1]

    @property
    def characters(self) -> str:
        """The characters, in the order of their numbers."""
        return "".join(map(chr, np.asarray(self.codes)))

    def encode(self, text: str) -> Int[np.ndarray, " T"]:
        """The numbers of the characters of `text`.

        **Raises:** `ValueError` that names the characters which are not in the vocabulary.
        """
        return self.number(code_points(text), replace=False)

    def decode(self, ids: Any) -> str:
        """The text of numbers `(T,)`.

        **Raises:** `ValueError` for a number that no character has.
        """
        ids = np.asarray(ids)
        if ids.size and not (ids.min() >= 0 and ids.max() < self.size):
            raise ValueError(f"ids: expected numbers from 0 to {self.size - 1}, got {ids.min()} to {ids.max()}.")
        return "".join(map(chr, np.asarray(self.codes)[ids]))

    def number(self, codes: Any, *, replace: bool) -> Int[np.ndarray, " T"]:
        """The numbers of code points `(T,)`; with `replace`, unknown ones get that of U+FFFD where it is known.

        **Raises:** `ValueError` that names the code points which have no number.
        """
        known, codes = np.asarray(self.codes), np.asarray(codes)
        ids = np.minimum(np.searchsorted(known, codes), self.size - 1)
        unknown = known[ids] != codes
        if not unknown.any():
            return ids.astype(np.int32)
        if replace and ord(REPLACEMENT) in known:
            return np.where(unknown, np.searchsorted(known, ord(REPLACEMENT)), ids).astype(np.int32)
        missing = "".join(map(chr, np.unique(codes[unknown])[:20]))
        raise ValueError(
            f"text: {int(unknown.sum())} characters are not in the vocabulary of {self.size}: {missing!r}. Leave them "
            "out, or train with a vocabulary that has them."
        )


def code_points(text: str) -> Int[np.ndarray, " T"]:
    """The Unicode code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int32)
