"""A Telegram Bot API server for tests and local use: records what bots send, delivers what people say.

Control it in process (`say`, `fail`, `sent`) or over HTTP (`POST /_say`, `POST /_script`, `GET /_sent`).
`python -m kairos_testkit.fake_telegram --port 8200 --state telegram.json --log sent.jsonl`.
"""

import argparse
import asyncio
import itertools
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from aiohttp import web

from kairos_testkit.fake_server import FakeServer
from kairos_testkit.faults_script import Fault, FaultScript
from kairos_testkit.ports import wait_until
from kairos_testkit.telegram_delivery import Deliveries, Webhook

_ACCEPTED_AND_IGNORED: Final = {
    "sendChatAction",
    "setMyCommands",
    "deleteMyCommands",
    "answerCallbackQuery",
    "editMessageText",
    "logOut",
    "close",
}
_UNAUTHORISED: Final = 401
_POLL_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class SentMessage:
    """One message Telegram accepted from a bot. It counts even when the bot never saw the answer."""

    number: int
    at: float
    bot_id: int
    chat_id: int
    message_id: int
    text: str
    answered: bool


@dataclass(frozen=True, slots=True)
class ApiCall:
    """Every call of the Bot API, refused ones included."""

    at: float
    bot_id: int
    method: str
    values: dict[str, Any]
    status: int


class FakeTelegram(FakeServer):
    """`base_url` is what TELEGRAM_API_BASE should be. A token is `<number>:<anything>`."""

    def __init__(
        self, *, port: int = 0, host: str = "127.0.0.1", log: Path | None = None, state: Path | None = None
    ) -> None:
        super().__init__(port=port, host=host)
        self.sent: list[SentMessage] = []
        self.calls: list[ApiCall] = []
        self.script = FaultScript()
        self.deliveries = Deliveries()
        self.revoked: set[int] = set()
        # Milliseconds since the epoch, so that numbers keep growing over a restart: receivers drop repeats.
        self._updates = itertools.count(time.time_ns() // 1_000_000)
        self._messages = itertools.count(time.time_ns() // 1_000_000_000)
        self._log_path, self._state_path = log, state
        self._log: TextIO | None = None

    def fail(self, fault: Fault) -> None:
        self.script.add(fault)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.route("*", "/bot{token:[^/]+}/{method}", self._api),
            web.post("/_say", self._say),
            web.post("/_webhook", self._webhook),
            web.get("/_sent", self._sent),
            web.get("/_deliveries", self._deliveries),
            web.post("/_script", self._add_fault),
            web.delete("/_script", self._clear_faults),
        ]

    async def opened(self) -> None:
        if self._log_path is not None:
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
            self._log = self._log_path.open("a", buffering=1)
        if self._state_path is not None and self._state_path.exists():
            for number, hook in json.loads(self._state_path.read_text()).items():
                self.deliveries.webhooks[int(number)] = Webhook(**hook)
        await self.deliveries.open()

    async def closing(self) -> None:
        await self.deliveries.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def use_webhook(self, bot_id: int, url: str, secret: str | None = None) -> None:
        """What a bot's own setWebhook call does."""
        self.deliveries.webhooks[bot_id] = Webhook(url, secret)
        self._save()

    def say(
        self,
        bot_id: int,
        chat_id: int,
        text: str,
        *,
        copies: int = 1,
        delay_ms: int = 0,
        user_id: int | None = None,
    ) -> int:
        """A person writes to a bot. Gives the update's id; `copies` > 1 delivers the same update again."""
        update = self._update(chat_id, text, user_id or chat_id)
        self.here(lambda: self.deliveries.put(bot_id, chat_id, update, copies, delay_ms))
        return int(update["update_id"])

    def wait_delivered(self, timeout: float = 30.0) -> None:
        """Block until every update was accepted by its webhook."""
        wait_until(lambda: self.deliveries.pending == 0, timeout=timeout, what="the delivery of all updates")

    def wait_sent(
        self, count: int, *, chat_id: int | None = None, timeout: float = 30.0
    ) -> list[SentMessage]:
        """Block until bots sent at least `count` messages (to a chat)."""
        wait_until(
            lambda: len(self.sent_to(chat_id)) >= count, timeout=timeout, what=f"{count} sent messages"
        )
        return self.sent_to(chat_id)

    def sent_to(self, chat_id: int | None = None) -> list[SentMessage]:
        return [message for message in list(self.sent) if chat_id in (None, message.chat_id)]

    def _update(self, chat_id: int, text: str, user_id: int) -> dict[str, Any]:
        person = {"id": user_id, "is_bot": False, "first_name": f"Person {user_id}", "language_code": "en"}
        chat = {"id": chat_id, "type": "private", "first_name": f"Person {user_id}"}
        message: dict[str, Any] = {
            "message_id": next(self._messages),
            "from": person,
            "chat": chat,
            "date": int(time.time()),
            "text": text,
        }
        if text.startswith("/"):
            command = text.split(maxsplit=1)[0]
            message["entities"] = [{"type": "bot_command", "offset": 0, "length": len(command)}]
        return {"update_id": next(self._updates), "message": message}

    async def _api(self, request: web.Request) -> web.StreamResponse:
        token, method = request.match_info["token"], request.match_info["method"]
        number = token.partition(":")[0]
        if not number.isdecimal() or ":" not in token:
            return _refuse(404, "Not Found")
        bot_id, values = int(number), await _values(request)
        fault = self.script.take(method, f"{values.get('chat_id')} {values.get('text', '')}")
        if fault and fault.delay_ms:
            await asyncio.sleep(fault.delay_ms / 1000)
        status = fault.status if fault and fault.status else _UNAUTHORISED if bot_id in self.revoked else 200
        self.calls.append(ApiCall(time.time(), bot_id, method, values, status))
        if status != web.HTTPOk.status_code:
            retry_after = fault.retry_after if fault else None
            return _refuse(status, "scripted failure", retry_after)
        result = await self._call(method, bot_id, values, answered=not (fault and fault.drop))
        if fault and fault.drop:
            if request.transport is not None:
                request.transport.close()
            return web.Response()
        if isinstance(result, web.Response):
            return result
        return web.json_response({"ok": True, "result": result})

    async def _call(self, method: str, bot_id: int, values: dict[str, Any], *, answered: bool) -> Any:
        if method == "getMe":
            return _me(bot_id) | {"can_join_groups": True, "supports_inline_queries": False}
        if method == "sendMessage":
            return self._accept(bot_id, values, answered=answered)
        if method == "getUpdates":
            return await self._poll(bot_id, values)
        if method == "getWebhookInfo":
            return self.deliveries.info(bot_id)
        if method == "setWebhook":
            self.use_webhook(bot_id, str(values.get("url", "")), values.get("secret_token"))
            self.deliveries.hand_over(bot_id)
        elif method == "deleteWebhook":
            self.deliveries.webhooks.pop(bot_id, None)
            self._save()
        elif method not in _ACCEPTED_AND_IGNORED:
            return _refuse(404, "Not Found: method not found")
        return True

    async def _poll(self, bot_id: int, values: dict[str, Any]) -> Any:
        if bot_id in self.deliveries.webhooks:
            return _refuse(409, "Conflict: can't use getUpdates method while webhook is active")
        timeout = min(float(values.get("timeout") or 0), 50)
        return await self.deliveries.poll(bot_id, int(values.get("offset") or 0), _POLL_LIMIT, timeout)

    def _accept(self, bot_id: int, values: dict[str, Any], *, answered: bool) -> Any:
        text = str(values.get("text", ""))
        if not text:
            return _refuse(400, "Bad Request: message text is empty")
        chat_id = int(values["chat_id"])
        message = SentMessage(
            number=len(self.sent) + 1,
            at=time.time(),
            bot_id=bot_id,
            chat_id=chat_id,
            message_id=next(self._messages),
            text=text,
            answered=answered,
        )
        self.sent.append(message)
        if self._log is not None:
            self._log.write(json.dumps(asdict(message)) + "\n")
        chat = {"id": chat_id, "type": "private"}
        return {
            "message_id": message.message_id,
            "from": _me(bot_id),
            "chat": chat,
            "date": int(message.at),
            "text": text,
        }

    async def _say(self, request: web.Request) -> web.Response:
        body = await request.json()
        try:
            update_id = self.say(
                int(body["bot_id"]),
                int(body["chat_id"]),
                str(body["text"]),
                copies=int(body.get("copies", 1)),
                delay_ms=int(body.get("delay_ms", 0)),
            )
        except (KeyError, ValueError) as error:
            return _refuse(400, f"Bad Request: {error!r}")
        return web.json_response({"update_id": update_id}, status=202)

    async def _webhook(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.use_webhook(int(body["bot_id"]), str(body["url"]), body.get("secret"))
        return web.Response(status=204)

    async def _sent(self, request: web.Request) -> web.Response:
        chat_id, after = request.query.get("chat_id"), int(request.query.get("after", 0))
        found = self.sent_to(None if chat_id is None else int(chat_id))
        return web.json_response({"sent": [asdict(message) for message in found if message.number > after]})

    async def _deliveries(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "pending": self.deliveries.pending,
                "attempts": [asdict(attempt) for attempt in list(self.deliveries.attempts)[-1000:]],
            }
        )

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            self.script.add(Fault.parse(await request.json()))
        except (ValueError, TypeError) as error:
            return _refuse(400, f"Bad Request: {error}")
        return web.Response(status=204)

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self.script.clear()
        return web.Response(status=204)

    def _save(self) -> None:
        if self._state_path is None:
            return
        hooks = {str(bot_id): asdict(hook) for bot_id, hook in self.deliveries.webhooks.items()}
        self._state_path.parent.mkdir(parents=True, exist_ok=True)
        self._state_path.write_text(json.dumps(hooks))
        self._state_path.chmod(0o600)


def _me(bot_id: int) -> dict[str, Any]:
    return {"id": bot_id, "is_bot": True, "first_name": f"Bot {bot_id}", "username": f"bot_{bot_id}_bot"}


async def _values(request: web.Request) -> dict[str, Any]:
    values: dict[str, Any] = dict(request.query)
    if request.content_type == "application/json":
        values |= await request.json()
    elif request.can_read_body:
        values |= dict(await request.post())
    return values


def _refuse(status: int, description: str, retry_after: int | None = None) -> web.Response:
    body: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
    if retry_after is not None:
        body["description"] = f"Too Many Requests: retry after {retry_after}"
        body["parameters"] = {"retry_after": retry_after}
    return web.json_response(body, status=status)


def main() -> None:
    parser = argparse.ArgumentParser(description="A Telegram Bot API server for local use.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    FakeTelegram(host=options.host, port=options.port, log=options.log, state=options.state).serve_forever()


if __name__ == "__main__":
    main()
