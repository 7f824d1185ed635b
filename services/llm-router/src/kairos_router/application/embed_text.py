"""Turns text into vectors on this machine: for the semantic cache and the `local` kind of embeddings."""

from collections.abc import Sequence
from typing import Protocol


class EmbedderAbsent(Exception):  # noqa: N818 - reads as the fact it states
    """The model's weights are not installed here; what needs them is refused, all else goes on."""


class Embedder(Protocol):
    """A local model. Its vectors have length 1, so that a dot product is the cosine."""

    @property
    def name(self) -> str:
        """Names the model and its version: vectors of different names can't be compared."""
        ...

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, off the event loop. Raises EmbedderAbsent."""
        ...

    async def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text the model reads; what is longer is cut. Raises EmbedderAbsent."""
        ...
