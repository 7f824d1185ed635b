"""One transaction of bot-worker on PostgreSQL."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from kairos_bots.adapters.postgres.bots import PostgresBots
from kairos_bots.adapters.postgres.clock import DatabaseClock
from kairos_bots.adapters.postgres.conversations import PostgresConversations, PostgresMessages
from kairos_bots.adapters.postgres.pollers import PostgresPollers
from kairos_bots.adapters.postgres.replies import PostgresReplies
from kairos_bots.adapters.postgres.turns import PostgresTurns
from kairos_bots.application.ports import (
    BotStore,
    ConversationStore,
    MessageStore,
    PollerStore,
    ReplyStore,
    TurnStore,
)
from kairos_contracts.message import Message
from kairos_persistence import Database, UnitOfWork


class PostgresWork:
    def __init__(self, unit: UnitOfWork) -> None:
        session = unit.session
        self._unit = unit
        self._clock = DatabaseClock(session)
        self.bots: BotStore = PostgresBots(session)
        self.conversations: ConversationStore = PostgresConversations(session, self._clock)
        self.messages: MessageStore = PostgresMessages(session)
        self.turns: TurnStore = PostgresTurns(session, self._clock)
        self.replies: ReplyStore = PostgresReplies(session, self._clock)
        self.pollers: PollerStore = PostgresPollers(session)

    async def now(self) -> datetime:
        return await self._clock.now()

    async def first_time(self, consumer: str, message_id: UUID) -> bool:
        return await self._unit.first_time(consumer, message_id)

    def emit(
        self,
        message: Message,
        *,
        organisation_id: UUID | None,
        causation_id: UUID | None = None,
        message_id: UUID | None = None,
    ) -> UUID:
        return self._unit.emit(
            message, organisation_id=organisation_id, causation_id=causation_id, message_id=message_id
        )

    def after_commit(self, callback: Callable[[], None]) -> None:
        self._unit.after_commit(callback)


class PostgresWorks:
    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def tenant(self, organisation_id: UUID) -> AsyncIterator[PostgresWork]:
        async with self._database.unit_of_work(organisation_id) as unit:
            yield PostgresWork(unit)

    @asynccontextmanager
    async def system(self) -> AsyncIterator[PostgresWork]:
        async with self._database.system_unit_of_work() as unit:
            yield PostgresWork(unit)
