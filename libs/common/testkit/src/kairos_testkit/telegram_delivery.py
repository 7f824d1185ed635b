"""Delivers updates the way Telegram does: in order per chat, again and again until the webhook says 200."""

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

SECRET_HEADER: Final = "X-Telegram-Bot-Api-Secret-Token"
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0
_OK: Final = 200
_KEPT_ATTEMPTS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Webhook:
    url: str
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One try to hand an update over. Status 0: no answer."""

    at: float
    bot_id: int
    chat_id: int
    update_id: int
    status: int
    seconds: float


@dataclass(slots=True)
class _Waiting:
    update: dict[str, Any]
    copies: int
    delay_ms: int


@dataclass(slots=True)
class Deliveries:
    """Queues per (bot, chat). Everything here runs in the fake's own event loop."""

    webhooks: dict[int, Webhook] = field(default_factory=dict)
    attempts: deque[DeliveryAttempt] = field(default_factory=lambda: deque(maxlen=_KEPT_ATTEMPTS))
    pending: int = 0
    _chats: dict[tuple[int, int], deque[_Waiting]] = field(default_factory=dict)
    _polled: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _workers: dict[tuple[int, int], asyncio.Task[None]] = field(default_factory=dict)
    _session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        connector = aiohttp.TCPConnector(limit=200)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=15))

    async def close(self) -> None:
        for worker in self._workers.values():
            worker.cancel()
        await asyncio.gather(*self._workers.values(), return_exceptions=True)
        self._workers.clear()
        if self._session is not None:
            await self._session.close()

    def put(
        self, bot_id: int, chat_id: int, update: dict[str, Any], copies: int = 1, delay_ms: int = 0
    ) -> None:
        if bot_id not in self.webhooks:
            self._polled.setdefault(bot_id, []).extend([update] * copies)
            self._arrived.set()
            return
        self.pending += 1
        key = (bot_id, chat_id)
        self._chats.setdefault(key, deque()).append(_Waiting(update, copies, delay_ms))
        if key not in self._workers:
            self._workers[key] = asyncio.get_running_loop().create_task(self._drain(key))

    def hand_over(self, bot_id: int) -> None:
        """What nobody has polled goes to the webhook that was set, as Telegram does it."""
        for update in self._polled.pop(bot_id, []):
            self.put(bot_id, int(update["message"]["chat"]["id"]), update)

    async def poll(self, bot_id: int, offset: int, limit: int, timeout: float) -> list[dict[str, Any]]:
        """getUpdates: an offset confirms everything before it."""
        deadline = time.monotonic() + timeout
        while True:
            waiting = self._polled.setdefault(bot_id, [])
            waiting[:] = [update for update in waiting if update["update_id"] >= offset]
            remaining = deadline - time.monotonic()
            if waiting or remaining <= 0:
                return waiting[:limit]
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), remaining)

    def info(self, bot_id: int) -> dict[str, Any]:
        hook = self.webhooks.get(bot_id)
        waiting = sum(len(queue) for (owner, _), queue in self._chats.items() if owner == bot_id)
        return {
            "url": hook.url if hook else "",
            "has_custom_certificate": False,
            "pending_update_count": waiting + len(self._polled.get(bot_id, [])),
        }

    async def _drain(self, key: tuple[int, int]) -> None:
        queue = self._chats[key]
        while queue:
            waiting = queue[0]
            if waiting.delay_ms:
                await asyncio.sleep(waiting.delay_ms / 1000)
            for _ in range(waiting.copies):
                await self._deliver(*key, waiting.update)
            queue.popleft()
            self.pending -= 1
        del self._workers[key]

    async def _deliver(self, bot_id: int, chat_id: int, update: dict[str, Any]) -> None:
        pause = _FIRST_PAUSE
        while True:
            started = time.time()
            status = await self._post(bot_id, update)
            attempt = DeliveryAttempt(
                started, bot_id, chat_id, update["update_id"], status, time.time() - started
            )
            self.attempts.append(attempt)
            if status == _OK:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _post(self, bot_id: int, update: dict[str, Any]) -> int:
        hook = self.webhooks.get(bot_id)
        if hook is None or self._session is None:
            return 0
        headers = {SECRET_HEADER: hook.secret} if hook.secret else {}
        try:
            async with self._session.post(hook.url, json=update, headers=headers) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 0
