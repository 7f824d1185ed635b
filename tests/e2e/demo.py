"""One message through Telegram and one through web chat of a running installation, and the proof of both.

`make demo` runs it after `make up`; it needs nothing but `.kairos/connection.json`. `--json` is for programs.
Exit 0: everything was seen. Exit 1: something is missing, and the output says what.
"""

import argparse
import asyncio
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
from live_client import Api, Json, LiveEvent, LiveFeed, Missing, waiting_for

from kairos_contracts.audit_chain import link_hash

CONNECTION: Final = Path(__file__).parents[2] / ".kairos" / "connection.json"
LONGEST_S: Final = 14.0
NANO: Final = 1_000_000_000
NEEDED: Final = ("front_door", "api_key", "bot_id", "organisation_id", "telegram_bot_id", "fake_telegram_url")
# What a live client must hear about one answered message, whatever else happens.
EXPECTED: Final = (
    "conversation.message.received.v1",
    "conversation.turn.opened.v1",
    "llm.usage.recorded.v1",
    "llm.completion.completed.v1",
    "conversation.turn.answered.v1",
    "conversation.reply.sent.v1",
)
Channel = Literal["telegram", "web"]


@dataclass(frozen=True)
class Installation:
    """What connection.json says."""

    front_door: str
    api_key: str = field(repr=False)
    bot_id: str
    organisation_id: str
    telegram_bot_id: int
    fake_telegram_url: str

    @classmethod
    def read(cls, file: Path) -> "Installation":
        try:
            found = json.loads(file.read_text())
        except FileNotFoundError as error:
            raise Missing(f"{file} does not exist: run make up first") from error
        except ValueError as error:
            raise Missing(f"{file} is not JSON: run make up again") from error
        missing = [name for name in NEEDED if not found.get(name)]
        if missing == ["fake_telegram_url"]:
            raise Missing("this installation uses the real Telegram; the demo speaks through the fake one")
        if missing:
            raise Missing(f"{file} has no {', '.join(missing)}: run make up again")
        return cls(**{name: found[name] for name in NEEDED})


@dataclass(frozen=True)
class Exchange:
    """What one channel saw: the words of both sides."""

    channel: Channel
    conversation_id: str
    said: str
    said_at: float
    reply: str
    seconds: float


@dataclass(frozen=True)
class Proof:
    """One exchange with what it cost and how it can be followed. Money is integer nano-USD."""

    exchange: Exchange
    trace_id: str
    model: str
    deployments: list[str]
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    ledger_nano_usd: int
    ledger_sequences: list[int]
    events: list[LiveEvent]

    def faults(self) -> Iterator[str]:
        """What is not as it must be."""
        heard = {event.type for event in self.events}
        name = self.exchange.channel
        for expected in EXPECTED:
            if expected not in heard:
                yield f"{name}: the live feed never showed {expected}"
        if self.cost_nano_usd != self.ledger_nano_usd:
            both = f"{self.cost_nano_usd} nano-USD, the ledger has {self.ledger_nano_usd}"
            yield f"{name}: the answer cost {both}"


@dataclass(frozen=True)
class AuditProof:
    entry: Json
    recomputed: str
    report: Json

    def faults(self) -> Iterator[str]:
        if self.recomputed != self.entry["hash"]:
            yield f"audit entry {self.entry['seq']} does not match its hash"
        if not self.report["intact"]:
            yield f"the audit log is not intact: {self.report['findings']}"


async def through_telegram(api: Api, telegram: Api, home: Installation) -> Exchange:
    chat = 7_000_000_000 + secrets.randbelow(1_000_000_000)
    said, started = "Hello from Telegram", time.time()
    update = await telegram.post("/_say", {"bot_id": home.telegram_bot_id, "chat_id": chat, "text": said})
    await _delivered(telegram, update["update_id"])

    async def sent() -> Any:
        return (await telegram.get("/_sent", chat_id=chat))["sent"]

    reply = (await api.until("the reply at Telegram", sent))[0]["text"]
    seconds = time.time() - started

    async def conversation() -> Any:
        found = await api.get(f"/api/bot-worker/bots/{home.bot_id}/conversations")
        return [each["id"] for each in found["items"] if each["external_chat_id"] == str(chat)]

    (conversation_id,) = await api.until("the conversation of the Telegram chat", conversation)
    return Exchange("telegram", conversation_id, said, started, reply, seconds)


async def _delivered(telegram: Api, update_id: int) -> None:
    """The webhook's 200. Raises Missing with its other answers when it never comes."""
    statuses: list[int] = []

    async def taken() -> bool:
        attempts = (await telegram.get("/_deliveries"))["attempts"]
        statuses[:] = [each["status"] for each in attempts if each["update_id"] == update_id]
        return HTTPStatus.OK in statuses

    try:
        async with asyncio.timeout(LONGEST_S / 3):
            await telegram.until("the webhook's 200", taken)
    except TimeoutError as error:
        told = f"answered {statuses[-1]}" if statuses and statuses[-1] else "can't be reached"
        raise Missing(f"Telegram could not deliver the message: the bot's webhook {told}") from error


async def through_web_chat(api: Api, home: Installation) -> Exchange:
    front = "/api/bot-worker/web"
    page = Api(api.http, api.base)
    session = await page.post(f"{front}/{home.bot_id}/sessions")
    page = Api(api.http, api.base, {"Authorization": f"Bearer {session['token']}"})
    said, started = "Hello from web chat", time.time()
    await page.post(f"{front}/messages", {"sequence": 1, "text": said})

    async def answered() -> Any:
        found = await page.get(f"{front}/messages")
        return [each["text"] for each in found["items"] if each["author"] == "bot"]

    reply = (await api.until("the reply in web chat", answered))[0]
    return Exchange("web", session["conversation"], said, started, reply, time.time() - started)


async def prove(api: Api, feed: LiveFeed, exchange: Exchange) -> Proof:
    stored = await api.get(f"/api/bot-worker/conversations/{exchange.conversation_id}/messages")
    traces = {message["trace_id"] for message in stored["items"]}
    if len(traces) != 1 or None in traces:
        raise Missing(f"{exchange.channel}: message and reply are not in one trace: {traces}")
    trace_id = str(traces.pop())

    async def all_heard() -> bool:
        return set(EXPECTED) <= {event.type for event in feed.of_trace(trace_id)}

    # What stays away is told by Proof.faults, with the rest of the proof.
    with suppress(TimeoutError):
        async with asyncio.timeout(LONGEST_S / 3):
            await api.until(f"the live events of {exchange.channel}", all_heard)
    events = feed.of_trace(trace_id)
    answered = next((each.data for each in events if each.type == "conversation.turn.answered.v1"), {})
    usages = [each.data for each in events if each.type == "llm.usage.recorded.v1"]
    cost = int(answered.get("cost_nano_usd", 0))
    posts = await _postings(api, usages, cost)
    return Proof(
        exchange=exchange,
        trace_id=trace_id,
        model=str(answered.get("model")),
        deployments=[usage["deployment"] for usage in usages],
        input_tokens=sum(usage["input_tokens"] for usage in usages),
        output_tokens=sum(usage["output_tokens"] for usage in usages),
        cost_nano_usd=cost,
        ledger_nano_usd=sum(post["amount"]["nano_usd"] for post in posts),
        ledger_sequences=[post["sequence"] for post in posts],
        events=events,
    )


async def _postings(api: Api, usages: list[Json], cost: int) -> list[Json]:
    """The ledger's transfers that settled these attempts: of one budget, where several apply."""

    async def settled() -> Any:
        found: list[Json] = []
        for usage in usages:
            page = await api.get("/api/budget-analytics/ledger/transfers", attempt_id=usage["attempt_id"])
            posts = [each for each in page["items"] if each["kind"] == "post"]
            found += [each for each in posts if each["budget_id"] == posts[0]["budget_id"]]
        return found

    # A free model leaves no transfer.
    return await api.until("the ledger's posting", settled) if cost and usages else []


async def audit(api: Api, home: Installation) -> AuditProof:
    target = f"bot:{home.bot_id}"
    page = await api.get("/api/auth-audit/audit/entries", action="bot.created", target=target)
    if not page["items"]:
        raise Missing(f"the audit log has no entry about the creation of {target}")
    entry = page["items"][0]
    recomputed = link_hash(
        home.organisation_id, entry["seq"], entry["prev_hash"], entry["recorded_at"], entry["entry"]
    )
    return AuditProof(entry, recomputed, await api.post("/api/auth-audit/audit/verify"))


async def run(home: Installation) -> tuple[list[Proof], AuditProof]:
    timeout = aiohttp.ClientTimeout(total=LONGEST_S)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        api = Api(http, home.front_door, {"Authorization": f"Bearer {home.api_key}"})
        feed = await LiveFeed.open(api)
        listening = asyncio.create_task(feed.listen())
        try:
            proving = asyncio.gather(
                _proved(api, feed, through_telegram(api, Api(http, home.fake_telegram_url), home)),
                _proved(api, feed, through_web_chat(api, home)),
                audit(api, home),
            )
            either: set[asyncio.Future[Any]] = {proving, listening}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                await listening
            telegram, web, audited = await proving
        finally:
            listening.cancel()
            proving.cancel()
            await asyncio.gather(listening, proving, return_exceptions=True)
    return [telegram, web], audited


async def _proved(api: Api, feed: LiveFeed, exchange: Awaitable[Exchange]) -> Proof:
    return await prove(api, feed, await exchange)


def usd(nano: int) -> str:
    return f"{Decimal(nano) / NANO:f} USD"


def show(home: Installation, proofs: list[Proof], audited: AuditProof) -> None:
    print(f"Kairos at {home.front_door}")
    for proof in proofs:
        exchange = proof.exchange
        print(f"\n{'Telegram' if exchange.channel == 'telegram' else 'Web chat'}")
        line("said", exchange.said)
        line("reply", f"{exchange.reply}   (after {exchange.seconds:.2f} s)")
        line("model", f"{proof.model}, deployment {', '.join(proof.deployments)}")
        line("tokens", f"{proof.input_tokens} in, {proof.output_tokens} out")
        transfers = ", ".join(map(str, proof.ledger_sequences)) or "none: it was free"
        line("cost", f"{usd(proof.ledger_nano_usd)}   (ledger transfer {transfers})")
        line("trace", proof.trace_id)
    print("\nLive events   (arrived at a WebSocket client that listened before the first message)")
    for proof in proofs:
        for event in proof.events:
            after = event.at - proof.exchange.said_at
            print(f"  {after:+7.3f} s  {proof.exchange.channel:<9} {event.type}")
    entry = audited.entry["entry"]
    print("\nAudit")
    line("entry", f"{audited.entry['seq']}: {entry['action']} {entry['target']}")
    line("by", f"{entry['actor']['display'] or entry['actor']['id']}, {entry['occurred_at']}")
    line("hash", audited.entry["hash"])
    verdict = "intact" if audited.report["intact"] else "NOT INTACT"
    figures = f"{audited.report['entries']} entries, {audited.report['checkpoints']} checkpoints"
    line("verified", f"the log is {verdict}: {figures}")


def line(name: str, value: str) -> None:
    print(f"  {name:<9} {value}")


def document(proofs: list[Proof], audited: AuditProof, faults: list[str]) -> Json:
    """The same facts for programs."""
    return {
        "ok": not faults,
        "faults": faults,
        "messages": [
            asdict(proof.exchange)
            | {name: value for name, value in asdict(proof).items() if name not in {"exchange", "events"}}
            | {"cost_usd": f"{Decimal(proof.ledger_nano_usd) / NANO:f}"}
            | {"events": [{"type": each.type, "at": each.at} for each in proof.events]}
            for proof in proofs
        ],
        "audit": {
            **audited.entry,
            "recomputed_hash": audited.recomputed,
            "verification": audited.report,
        },
    }


async def bounded(home: Installation) -> tuple[list[Proof], AuditProof]:
    try:
        async with asyncio.timeout(LONGEST_S):
            return await run(home)
    except TimeoutError as error:
        missing = " and ".join(dict.fromkeys(waiting_for.now)) or "an answer"
        raise Missing(f"{LONGEST_S:g} s were over while waiting for {missing}") from error


def main() -> int:
    parser = argparse.ArgumentParser(description="Send one message per channel and prove both.")
    parser.add_argument("--connection", type=Path, default=CONNECTION, help="connection.json of make up")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")
    options = parser.parse_args()
    try:
        home = Installation.read(options.connection)
        proofs, audited = asyncio.run(bounded(home))
    except Missing as error:
        if options.as_json:
            print(json.dumps({"ok": False, "faults": [str(error)]}))
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    faults = [fault for proof in proofs for fault in proof.faults()] + list(audited.faults())
    if options.as_json:
        print(json.dumps(document(proofs, audited, faults), indent=2))
    else:
        show(home, proofs, audited)
    for fault in faults:
        print(f"missing: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
