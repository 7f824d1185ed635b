"""BERT's uncased tokenizer: text -> ids of word pieces.

The rules are those of Devlin et al. 2018 as the model was trained with them: clean, lower-case, strip
accents, part at punctuation and around CJK characters, then take the longest known piece each time.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

LONGEST_WORD = 100
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
# Symbols of ASCII count as punctuation too, although Unicode files some of them elsewhere.
_ASCII_MARKS = frozenset("$+<=>^`|~")


@lru_cache(maxsize=4096)
def _spaced(character: str) -> str:
    """The character as it enters the text: with space around what is a word of its own, or nothing."""
    if character.isspace():
        return " "
    category = unicodedata.category(character)
    if character in "\x00\ufffd" or category.startswith("C"):
        return ""
    code = ord(character)
    alone = category.startswith("P") or character in _ASCII_MARKS or any(a <= code <= b for a, b in _CJK)
    return f" {character} " if alone else character


def words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFD", text.lower())
    return "".join(_spaced(each) for each in plain if unicodedata.category(each) != "Mn").split()


class WordPiece:
    """`vocabulary` maps pieces to ids; a piece that continues a word begins with `##`."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._vocabulary = vocabulary
        self._unknown = vocabulary["[UNK]"]
        self._first, self._last = vocabulary["[CLS]"], vocabulary["[SEP]"]

    @classmethod
    def load(cls, file: Path) -> "WordPiece":
        lines = file.read_text("utf-8").splitlines()
        return cls({piece: number for number, piece in enumerate(lines)})

    def encode(self, text: str, longest: int) -> list[int]:
        """At most `longest` ids, the two that frame the text among them."""
        ids = [self._first]
        for word in words(text):
            ids.extend(self._pieces(word))
            if len(ids) >= longest:
                break
        return [*ids[: longest - 1], self._last]

    def _pieces(self, word: str) -> list[int]:
        if len(word) > LONGEST_WORD:
            return [self._unknown]
        found = list(self._matched(word))
        return [self._unknown] if None in found else [each for each in found if each is not None]

    def _matched(self, word: str) -> Iterator[int | None]:
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = self._vocabulary.get(("##" if start else "") + word[start:end])
                if piece is not None:
                    yield piece
                    start = end
                    break
            else:
                yield None
                return
