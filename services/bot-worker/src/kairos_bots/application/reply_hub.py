"""Replies on their way to the pages that wait for them in this process."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from kairos_contracts.conversation.v1 import ReplySentV1

MAILBOX = 64


class MailboxFullError(RuntimeError):
    """The page reads too slowly; it is disconnected and catches up by sequence."""


class Mailbox:
    """What one open page has not read yet."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[ReplySentV1 | None] = asyncio.Queue(MAILBOX)
        self._overflowed = False

    def put(self, reply: ReplySentV1) -> None:
        try:
            self._queue.put_nowait(reply)
        except asyncio.QueueFull:
            self._overflowed = True

    def close(self) -> None:
        """End the page's stream; a full mailbox ends it anyway."""
        try:
            self._queue.put_nowait(None)
        except asyncio.QueueFull:
            self._overflowed = True

    async def next(self) -> ReplySentV1 | None:
        """The next reply; None when the process stops. Raises MailboxFullError."""
        if self._overflowed:
            raise MailboxFullError(MailboxFullError.__doc__)
        return await self._queue.get()


class ReplyHub:
    def __init__(self) -> None:
        self._mailboxes: defaultdict[UUID, set[Mailbox]] = defaultdict(set)

    @contextmanager
    def subscribed(self, conversation_id: UUID) -> Iterator[Mailbox]:
        mailbox = Mailbox()
        self._mailboxes[conversation_id].add(mailbox)
        try:
            yield mailbox
        finally:
            self._mailboxes[conversation_id].discard(mailbox)
            if not self._mailboxes[conversation_id]:
                del self._mailboxes[conversation_id]

    def push(self, reply: ReplySentV1) -> int:
        """Hand the reply to every page of its conversation; how many there were."""
        mailboxes = tuple(self._mailboxes.get(reply.conversation_id, ()))
        for mailbox in mailboxes:
            mailbox.put(reply)
        return len(mailboxes)

    def close_all(self) -> None:
        for mailboxes in tuple(self._mailboxes.values()):
            for mailbox in tuple(mailboxes):
                mailbox.close()
