"""Real token counts, by the vocabularies that LiteLLM's package carries; LiteLLM itself is not imported.

The files are tiktoken's own, named by the hash of where tiktoken would fetch them from. They are read
here by path, so that nothing is ever fetched.
"""

import asyncio
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import tiktoken
from tiktoken.load import load_tiktoken_bpe

_FILES = {
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
}
# The patterns are tiktoken's (tiktoken_ext/openai_public.py, MIT).
_CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"""
    r"""| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _ENDINGS + "|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _ENDINGS + "|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {"cl100k_base": _CL100K, "o200k_base": _O200K}
USUAL = "o200k_base"
"""What counts where nobody knows the tokenizer: a guess within some percent for other families."""

# What a chat template adds to a message, and to the whole, is at most this many tokens with any provider.
PER_MESSAGE = 8
PER_REQUEST = 16
# Text in one piece without a space makes the tokenizer quadratic, so it is counted in pieces.
PIECE = 32_768
# Counting less than this takes less than handing it to a thread.
AT_ONCE = 2_048
_PICTURE = "data:image/"
_PICTURED = ("image_url", "input_image")


def _is_picture(value: object) -> bool:
    address = value.get("url") if isinstance(value, Mapping) else value
    return isinstance(address, str) and address.startswith(_PICTURE)


def _texts(value: object) -> Iterator[str]:
    """Every string and number of a document, and the names of its fields with what sets them apart.

    A picture in an address is no text: it has a bound of its own. Text that begins like one is text.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        pictured = value.get("type") in _PICTURED
        for name, each in value.items():
            yield f'"{name}": '
            if not (pictured and name == "image_url" and _is_picture(each)):
                yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif value is not None:
        yield str(value)


class Tiktoken:
    """See TokenCounter. A vocabulary is read when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._encodings: dict[str, tiktoken.Encoding] = {}
        self._reading = asyncio.Lock()

    @classmethod
    def installed(cls) -> Self | None:
        """With the vocabularies of the installed package, None when they are not there."""
        found = importlib.util.find_spec("litellm")
        places = list(found.submodule_search_locations or ()) if found is not None else []
        for place in places:
            folder = Path(place) / "litellm_core_utils" / "tokenizers"
            if all((folder / name).is_file() for name in _FILES.values()):
                return cls(folder)
        return None

    async def count(self, payload: Mapping[str, Any], tokenizer: str | None) -> tuple[int, str]:
        name = tokenizer if tokenizer in _FILES else USUAL
        encoding = self._encodings.get(name)
        if encoding is None:
            # One thread reads it, whoever else needs it meanwhile waits.
            async with self._reading:
                encoding = self._encodings.get(name)
                if encoding is None:
                    encoding = self._encodings[name] = await asyncio.to_thread(self._read, name)
        texts = list(_texts(payload))
        if sum(map(len, texts)) <= AT_ONCE:
            tokens = _count(encoding, texts)
        else:
            tokens = await asyncio.to_thread(_count, encoding, texts)
        messages = payload.get("messages")
        turns = len(messages) if isinstance(messages, list) else 1
        return tokens + PER_MESSAGE * turns + PER_REQUEST, name

    def _read(self, name: str) -> tiktoken.Encoding:
        ranks = load_tiktoken_bpe(str(self._folder / _FILES[name]))
        return tiktoken.Encoding(name, pat_str=_PATTERNS[name], mergeable_ranks=ranks, special_tokens={})


def _count(encoding: tiktoken.Encoding, texts: list[str]) -> int:
    return sum(
        len(encoding.encode_ordinary(text[start : start + PIECE]))
        for text in texts
        for start in range(0, len(text), PIECE)
    )
