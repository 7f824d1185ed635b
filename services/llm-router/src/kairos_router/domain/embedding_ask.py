"""An embeddings request: texts, or texts that are tokens already, each with a context window to itself."""

from collections.abc import Sequence

from kairos_router.domain import fields
from kairos_router.domain.ask import BYTES_PER_TOKEN_AT_MOST, Ask, InvalidAsk
from kairos_router.domain.catalogue import Capability

# OpenAI's own limit on one request.
MAX_INPUTS = 2_048
_ENCODINGS = ("float", "base64")


def _sizes(given: object) -> list[int]:
    """The size of each input: bytes of a text, ids of a token array. Neither makes more tokens than that."""
    if isinstance(given, str):
        return [len(given.encode())]
    if not isinstance(given, list) or not given:
        raise InvalidAsk("'input' must be a string or a non-empty array", "input")
    if _tokens(given):
        return [len(given)]
    if len(given) > MAX_INPUTS:
        raise InvalidAsk(f"'input' may have at most {MAX_INPUTS} items", "input")
    return [_size(item) for item in given]


def _size(item: object) -> int:
    if isinstance(item, str):
        return len(item.encode())
    if isinstance(item, list) and item and _tokens(item):
        return len(item)
    raise InvalidAsk("'input' must hold strings, or arrays of token ids", "input")


def _tokens(given: Sequence[object]) -> bool:
    return all(type(each) is int and each >= 0 for each in given)


def parse_embedding_ask(payload: object) -> Ask:
    """Read a request for embeddings. It has no output tokens. Raises InvalidAsk."""
    body = fields.document(payload)
    model = fields.model(body)
    sizes = _sizes(body.get("input"))
    if not all(sizes):
        raise InvalidAsk("'input' may not hold an empty text", "input")
    if body.get("encoding_format") not in {None, *_ENCODINGS}:
        raise InvalidAsk("'encoding_format' must be float or base64", "encoding_format")
    fields.positive(body, "dimensions")
    return Ask(
        model=model,
        payload=body,
        size=sum(sizes),
        needs=frozenset({Capability.EMBEDDINGS}),
        operation="embeddings",
        inputs=len(sizes),
        longest=_longest(body.get("input"), sizes),
    )


def _longest(given: object, sizes: list[int]) -> int:
    """The longest input as bytes of text; the choice by context window counts in those."""
    tokens = isinstance(given, list) and not isinstance(given[0], str)
    return max(sizes) * (BYTES_PER_TOKEN_AT_MOST if tokens else 1)
