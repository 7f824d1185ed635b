"""Web chat over REST and WebSocket. A page may be anyone's; its signed session is all it can reach."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, WebSocket, WebSocketDisconnect
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from kairos_bots.application.ports import Publisher, Registry, Works
from kairos_bots.application.reply_hub import Mailbox, MailboxFullError, ReplyHub
from kairos_bots.application.web_chat import SessionSigner, WebSession, accept_web_message, open_session
from kairos_bots.domain.conversation import StoredMessage
from kairos_bots.domain.errors import BotUnknownError, ChannelClosedError, NotReadyError
from kairos_contracts.conversation.v1 import ReplySentV1
from kairos_faults import apoint
from kairos_messaging import PublishFailed
from kairos_telemetry import get_logger, span
from kairos_web import Limit, Problem, RateLimiter, limited, public, unavailable

TOO_SLOW = 4408
BAD_FRAME = 1007
GOING_AWAY = 1001
UNAUTHORISED = 4401
LONGEST_TEXT = 4_096
_SESSION = "the signed session token carries the caller"
_log = get_logger(__name__)


def _storable(text: str) -> str:
    if "\x00" in text or not text.strip():
        raise ValueError("the text is blank or holds a NUL character")
    return text


class WebMessageIn(BaseModel):
    """`sequence` is the page's own count; sending the same one again is harmless."""

    sequence: int = Field(ge=1, lt=2**53)
    text: Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT), AfterValidator(_storable)]


class SocketMessageIn(WebMessageIn):
    type: Literal["message"]


class SessionOut(BaseModel):
    token: str
    conversation: UUID
    expires_at: datetime


class AcceptedOut(BaseModel):
    message_id: UUID
    sequence: int


class WebMessageOut(BaseModel):
    """`sequence` numbers both sides of the conversation; ask for what is `after` the last one seen."""

    message_id: UUID
    turn_id: UUID
    sequence: int
    author: Literal["contact", "bot"]
    text: str
    created_at: datetime


class WebMessagesOut(BaseModel):
    items: list[WebMessageOut]


@dataclass(frozen=True)
class WebChat:
    """What the routes need."""

    works: Works
    registry: Registry
    publisher: Publisher
    signer: SessionSigner
    hub: ReplyHub
    limiter: RateLimiter
    now: Callable[[], datetime]
    sessions_per_min: int
    messages_per_min: int

    def session(self, token: str) -> WebSession | None:
        return self.signer.read(token, self.now())

    async def accept(self, session: WebSession, message: WebMessageIn) -> UUID:
        """Raises Problem; the message is safe when this returns."""
        limit = Limit("web-messages", self.messages_per_min, 60)
        decision = await self.limiter.hit(limit, str(session.conversation_id))
        if not decision.allowed:
            headers = {"Retry-After": str(decision.reset_after)}
            raise Problem(429, "rate_limited", "Too many messages", headers=headers)
        try:
            accepted = await accept_web_message(
                session,
                sequence=message.sequence,
                text=message.text,
                now=self.now(),
                registry=self.registry,
                publisher=self.publisher,
            )
        except (BotUnknownError, ChannelClosedError) as error:
            raise _closed() from error
        except (NotReadyError, PublishFailed) as error:
            raise unavailable(type(error).__name__) from error
        await apoint("bots.ingress.stored")
        return accepted


def _closed() -> Problem:
    return Problem(404, "web_chat_unknown", "There is no web chat at this address")


def web_chat_router(chat: WebChat) -> APIRouter:
    router = APIRouter(prefix="/web", tags=["web chat"])
    _add_sessions(router, chat)
    _add_messages(router, chat)
    _add_socket(router, chat)
    return router


def _add_sessions(router: APIRouter, chat: WebChat) -> None:
    guard = [
        public("anyone may talk to a bot whose owner opened its web chat"),
        limited("web-sessions", chat.sessions_per_min, seconds=60),
    ]

    @router.post("/{bot_id}/sessions", status_code=201, dependencies=guard)
    async def create_session(bot_id: UUID) -> SessionOut:
        try:
            chat_id = secrets.token_urlsafe(18)
            session = open_session(chat.registry, bot_id, chat_id=chat_id, now=chat.now())
        except (BotUnknownError, ChannelClosedError) as error:
            raise _closed() from error
        except NotReadyError as error:
            raise unavailable(str(error)) from error
        return SessionOut(
            token=chat.signer.sign(session),
            conversation=session.conversation_id,
            expires_at=session.expires_at,
        )


def _add_messages(router: APIRouter, chat: WebChat) -> None:
    def current_session(authorization: Annotated[str, Header()] = "") -> WebSession:
        scheme, _, token = authorization.partition(" ")
        session = chat.session(token.strip()) if scheme.lower() == "bearer" else None
        if session is None:
            raise Problem(401, "session_invalid", "Open a web chat session first")
        return session

    Session = Annotated[WebSession, Depends(current_session)]  # noqa: N806 - a type, used as one

    @router.post("/messages", status_code=202, dependencies=[public(_SESSION)])
    async def send(session: Session, message: WebMessageIn) -> AcceptedOut:
        """202 once the broker has the message."""
        return AcceptedOut(message_id=await chat.accept(session, message), sequence=message.sequence)

    @router.get("/messages", dependencies=[public(_SESSION)])
    async def read(
        session: Session,
        after: Annotated[int, Query(ge=0, lt=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 100,
    ) -> WebMessagesOut:
        async with chat.works.tenant(_organisation(chat, session)) as work:
            found = await work.messages.after(session.conversation_id, after, limit)
        return WebMessagesOut(items=[_shown(message) for message in found])


def _add_socket(router: APIRouter, chat: WebChat) -> None:
    @router.websocket("/ws", dependencies=[public(_SESSION)])
    async def live(socket: WebSocket, token: str = "") -> None:
        await socket.accept()
        session = chat.session(token)
        if session is None:
            await socket.close(UNAUTHORISED, "session_invalid")
            return
        with chat.hub.subscribed(session.conversation_id) as mailbox:
            await socket.send_json({"type": "ready", "conversation": str(session.conversation_id)})
            await _Page(socket, chat, session).run(mailbox)


class _Page:
    """One open WebSocket: messages in, acknowledgements and replies out."""

    def __init__(self, socket: WebSocket, chat: WebChat, session: WebSession) -> None:
        self._socket = socket
        self._chat = chat
        self._session = session

    async def run(self, mailbox: Mailbox) -> None:
        halves = [asyncio.create_task(self._read()), asyncio.create_task(self._write(mailbox))]
        try:
            done, _ = await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
            code = next(iter(done)).result()
        except WebSocketDisconnect:
            return
        finally:
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)
        await self._close(code)

    async def _close(self, code: int) -> None:
        try:
            await self._socket.close(code)
        except RuntimeError:
            _log.debug("page_left_first")

    async def _read(self) -> int:
        async for text in self._socket.iter_text():
            try:
                message = SocketMessageIn.model_validate_json(text)
            except ValidationError:
                return BAD_FRAME
            await self._socket.send_json(await self._answer(message))
        raise WebSocketDisconnect

    async def _answer(self, message: SocketMessageIn) -> dict[str, Any]:
        try:
            with span("web message"):
                accepted = await self._chat.accept(self._session, message)
        except Problem as problem:
            retry_after = problem.headers.get("Retry-After")
            return {
                "type": "error",
                "sequence": message.sequence,
                "code": problem.code,
                "retry_after": int(retry_after) if retry_after else None,
            }
        return {"type": "ack", "sequence": message.sequence, "message_id": str(accepted)}

    async def _write(self, mailbox: Mailbox) -> int:
        while True:
            try:
                reply = await mailbox.next()
            except MailboxFullError:
                return TOO_SLOW
            if reply is None:
                return GOING_AWAY
            await self._socket.send_json(_pushed(reply))


def _organisation(chat: WebChat, session: WebSession) -> UUID:
    try:
        return chat.registry.find(session.bot_id).organisation_id
    except BotUnknownError as error:
        raise _closed() from error
    except NotReadyError as error:
        raise unavailable(str(error)) from error


def _shown(message: StoredMessage) -> WebMessageOut:
    return WebMessageOut(
        message_id=message.id,
        turn_id=message.turn_id,
        sequence=message.sequence,
        author="contact" if message.direction == "in" else "bot",
        text=message.text,
        created_at=message.created_at,
    )


def _pushed(reply: ReplySentV1) -> dict[str, Any]:
    return {
        "type": "reply",
        "message_id": str(reply.message_id),
        "turn_id": str(reply.turn_id),
        "sequence": reply.sequence,
        "text": reply.text,
        "sent_at": reply.sent_at.isoformat(),
    }
