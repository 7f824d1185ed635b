"""Deployments of kind `local`: the embedding model whose weights are installed with the router."""

from kairos_router.adapters.embedding_documents import embeddings_reply, require_dimensions, texts_of
from kairos_router.application.embed_text import Embedder, EmbedderAbsent
from kairos_router.application.ports import (
    Fault,
    ProviderCall,
    ProviderFailed,
    ProviderReply,
    ProviderStream,
)


class LocalEmbeddings:
    """See Provider. It makes embeddings and nothing else; its owner closes the embedder."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def complete(self, call: ProviderCall) -> ProviderReply:
        if call.operation != "embeddings":
            raise _embeddings_only()
        texts = texts_of(call)
        require_dimensions(call, self._embedder.dimensions)
        try:
            vectors = await self._embedder.embed(texts)
            tokens = sum(await self._embedder.count(texts))
        except EmbedderAbsent as error:
            raise ProviderFailed(Fault.MISCONFIGURED, detail=str(error)) from None
        return embeddings_reply(call, vectors, tokens)

    async def open_stream(self, call: ProviderCall) -> ProviderStream:  # noqa: ARG002 - part of the port
        raise _embeddings_only()

    async def close(self) -> None:
        """There is no connection."""


def _embeddings_only() -> ProviderFailed:
    return ProviderFailed(Fault.MISCONFIGURED, detail="a local deployment makes embeddings only")
