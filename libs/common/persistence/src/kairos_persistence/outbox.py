"""Outbox rows: what a relay needs to publish a message exactly as it was emitted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_contracts.message import Envelope, Message

CHANNEL_PREFIX = "kairos_outbox_"
"""NOTIFY channel of a schema: `kairos_outbox_bots`. A hint only; relays poll as well."""


@dataclass(frozen=True)
class OutboxRow:
    id: UUID
    aggregate: str
    type: str
    organisation_id: UUID | None
    headers: str
    body: bytes

    @classmethod
    def of(cls, envelope: Envelope, message: Message) -> Self:
        return cls(
            id=envelope.id,
            aggregate=envelope.subject,
            type=envelope.type,
            organisation_id=envelope.organisation_id,
            headers=orjson.dumps(envelope.headers()).decode(),
            body=message.model_dump_json().encode(),
        )


# Arrays keep it one statement of constant text however many rows there are; the default of
# `sequence` is drawn in the order of the arrays.
_INSERT = """
INSERT INTO outbox (id, aggregate, type, organisation_id, headers, body)
SELECT id, aggregate, type, organisation_id, headers::jsonb, body
FROM unnest(
    CAST(:ids AS uuid[]), CAST(:aggregates AS text[]), CAST(:types AS text[]),
    CAST(:organisations AS uuid[]), CAST(:headers AS text[]), CAST(:bodies AS bytea[])
) WITH ORDINALITY AS given (id, aggregate, type, organisation_id, headers, body, position)
ORDER BY position
"""
_QUIET = text(_INSERT)
_NOTIFYING = text(
    f"WITH written AS ({_INSERT} RETURNING 1) SELECT pg_notify('{CHANNEL_PREFIX}' || current_schema(), '')"
)


async def write(session: AsyncSession, rows: Sequence[OutboxRow], *, notify: bool) -> None:
    """Insert the rows with one statement; `notify` also tells listeners when the commit is done."""
    await session.execute(
        _NOTIFYING if notify else _QUIET,
        {
            "ids": [row.id for row in rows],
            "aggregates": [row.aggregate for row in rows],
            "types": [row.type for row in rows],
            "organisations": [row.organisation_id for row in rows],
            "headers": [row.headers for row in rows],
            "bodies": [row.body for row in rows],
        },
    )
