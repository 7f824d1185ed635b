"""argon2id off the event loop, a few at a time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from kairos_auth.domain.errors import Busy

# OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
_MEMORY_KIB = 19_456
_PASSES = 2

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class Argon2Hasher:
    """At most `at_once` hashes run and `waiting` wait; more raise Busy, because memory is finite."""

    def __init__(
        self, *, at_once: int = 4, waiting: int = 64, memory_kib: int = _MEMORY_KIB, passes: int = _PASSES
    ) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1, type=Type.ID)
        # An unknown e-mail is checked against this, so that it takes as long as a known one.
        self._decoy = self._hasher.hash("the password of nobody")
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="argon2")
        self._room = at_once + waiting

    async def hash(self, password: str) -> str:
        return await self._run(self._hasher.hash, password)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        right = await self._run(self._verify, password, password_hash or self._decoy)
        return right and password_hash is not None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password: str, password_hash: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        if self._room <= 0:
            raise Busy
        self._room -= 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        finally:
            self._room += 1
