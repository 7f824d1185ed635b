"""Conversations and their messages by API."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel

from kairos_bots.application.ports import Works
from kairos_bots.domain.conversation import Conversation, StoredMessage
from kairos_bots.entrypoints.bots import bot_unknown
from kairos_bots.entrypoints.paging import cursor_after, position_of
from kairos_contracts.permissions import Permission
from kairos_web import CurrentOrganisation, Page, Paged, Problem, requires


class ConversationOut(BaseModel):
    id: UUID
    bot_id: UUID
    contact_id: UUID
    channel: str
    external_chat_id: str
    last_sequence: int
    epoch: int
    created_at: datetime

    @classmethod
    def of(cls, conversation: Conversation) -> "ConversationOut":
        return cls(**{name: getattr(conversation, name) for name in cls.model_fields})


class MessageOut(BaseModel):
    """`delivery` is received for a contact's message, and pending, sent or failed for a reply.

    `ambiguous` counts tries of which nobody knows whether the channel took them: the contact may have
    read the reply that many times more. `trace_id` leads to the trace.
    """

    id: UUID
    turn_id: UUID
    direction: str
    sequence: int
    text: str
    source: str | None
    delivery: str
    attempts: int
    ambiguous: int
    error: str | None
    created_at: datetime
    sent_at: datetime | None
    trace_id: str | None

    @classmethod
    def of(cls, message: StoredMessage) -> "MessageOut":
        values = {name: getattr(message, name) for name in cls.model_fields if name != "trace_id"}
        trace_id = message.traceparent.split("-")[1] if message.traceparent else None
        return cls(**values, trace_id=trace_id)


def conversations_router(works: Works) -> APIRouter:
    router = APIRouter(tags=["conversations"])
    reading = [requires(Permission.CONVERSATIONS_READ)]

    @router.get("/bots/{bot_id}/conversations", dependencies=reading)
    async def page_of_conversations(
        bot_id: UUID, page: Paged, organisation: CurrentOrganisation
    ) -> Page[ConversationOut]:
        async with works.tenant(organisation) as work:
            if await work.bots.get(bot_id) is None:
                raise bot_unknown()
            found = await work.conversations.of_bot(bot_id, position_of(page), page.limit)
        items = [ConversationOut.of(conversation) for conversation in found]
        return Page(items=items, next_cursor=cursor_after(found, page.limit))

    @router.get("/conversations/{conversation_id}/messages", dependencies=reading)
    async def messages(
        conversation_id: UUID,
        organisation: CurrentOrganisation,
        after: Annotated[int, Query(ge=0, lt=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 100,
    ) -> Page[MessageOut]:
        """In order; `after` is the sequence of the last message already seen."""
        async with works.tenant(organisation) as work:
            if await work.conversations.get(conversation_id) is None:
                raise Problem(404, "conversation_unknown", "There is no such conversation")
            found = await work.messages.after(conversation_id, after, limit)
        return Page(items=[MessageOut.of(message) for message in found])

    return router
