"""Questions that mean the same, by the vectors of a local model.

Vectors are kept in Redis for all processes; this one searches its own bounded copy of the spaces it uses.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kairos_router.application.cache_ports import AnswerStore
from kairos_router.application.embed_text import Embedder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_SPACES = 100
MOST_QUESTIONS = 500
FRESH_S = 5.0
"""How long what other processes have added may stay unseen."""


@dataclass(slots=True)
class _Space:
    keys: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    vectors: "list[NDArray[np.float32]]" = field(default_factory=list)
    read_at: float = 0.0
    matrix: "NDArray[np.float32] | None" = None

    def add(self, key: str, numbers: str, vector: "NDArray[np.float32]") -> None:
        self.keys.append(key)
        self.numbers.append(numbers)
        self.vectors.append(vector)
        self.matrix = None
        if len(self.keys) > MOST_QUESTIONS:
            del self.keys[0], self.numbers[0], self.vectors[0]


class SimilarQuestions:
    """See Similar. A question is looked for among those of its own space only."""

    def __init__(
        self, embedder: Embedder, store: AnswerStore, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._embedder = embedder
        self._store = store
        self._clock = clock
        self._spaces: OrderedDict[str, _Space] = OrderedDict()
        # The vector made to look for an answer is the one kept with it, if there was none.
        self._made: OrderedDict[tuple[str, str], NDArray[np.float32]] = OrderedDict()

    async def find(self, space: str, text: str, numbers: str, floor: float) -> str | None:
        import numpy as np  # noqa: PLC0415 - paid for by routes with a semantic cache only

        known = await self._space(space)
        vector = await self._vector(space, text)
        if not known.keys:
            return None
        if known.matrix is None:
            known.matrix = np.stack(known.vectors)
        likeness = known.matrix @ vector
        for at in np.argsort(-likeness).tolist():
            if likeness[at] < floor:
                return None
            if known.numbers[at] == numbers:
                return str(known.keys[at])
        return None

    async def add(self, space: str, text: str, numbers: str, key: str, ttl_seconds: int) -> None:
        vector = await self._vector(space, text)
        known = await self._space(space)
        if key in known.keys:
            return
        known.add(key, numbers, vector)
        value = len(numbers.encode()).to_bytes(2, "big") + numbers.encode() + vector.tobytes()
        await self._store.add_vector(space, key, value, ttl_seconds)

    async def _vector(self, space: str, text: str) -> "NDArray[np.float32]":
        import numpy as np  # noqa: PLC0415 - as above

        found = self._made.get((space, text))
        if found is None:
            [embedded] = await self._embedder.embed([text])
            found = self._made[space, text] = np.asarray(embedded, np.float32)
            if len(self._made) > MOST_SPACES:
                self._made.popitem(last=False)
        return found

    async def _space(self, name: str) -> _Space:
        import numpy as np  # noqa: PLC0415 - as above

        space = self._spaces.get(name)
        if space is not None and self._clock() - space.read_at < FRESH_S:
            self._spaces.move_to_end(name)
            return space
        space = _Space(read_at=self._clock())
        for key, value in (await self._store.vectors(name)).items():
            start = 2 + int.from_bytes(value[:2], "big")
            space.add(key, value[2:start].decode(), np.frombuffer(value, np.float32, offset=start))
        self._spaces[name] = space
        if len(self._spaces) > MOST_SPACES:
            self._spaces.popitem(last=False)
        return space
