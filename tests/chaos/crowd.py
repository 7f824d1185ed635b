"""A crowd of clients that asks OpenAI-compatible gateways until the money is gone, and goes on asking.

It knows nothing of the gateway under test, so that another product can be squeezed the same way.
"""

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

MODEL = "default"
OK, PAYMENT_REQUIRED, SERVER_ERROR, TOO_MANY = 200, 402, 500, 429
DONE = b"data: [DONE]"
AT_THE_CAP = b"budget_exhausted"
WORDS = ("money spends itself when nobody counts what", "every one of us asks for", "at once")


@dataclass(frozen=True, slots=True)
class Account:
    """A key and whose money it spends."""

    owner: str
    api_key: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as its client saw it. `tag` opens the prompt, so the provider's record leads back here."""

    tag: str
    owner: str
    gateway: int
    stream: bool
    outcome: str


@dataclass(slots=True)
class Tally:
    asked: list[Asked] = field(default_factory=list)

    def outcomes(self) -> dict[str, int]:
        return dict(sorted(Counter(each.outcome for each in self.asked).items()))

    def refused(self, owner: str, last: int) -> bool:
        """Whether the owner's latest `last` requests were all refused for money."""
        mine = [each.outcome for each in self.asked if each.owner == owner][-last:]
        return len(mine) == last and set(mine) == {"refused"}


@dataclass(frozen=True, slots=True)
class Growing:
    """This share of the streams asks for long answers, whose holds grow while they are read.

    `hear` is told the tag of a request and how often `mark` has come in its answer so far.
    """

    share: float
    model: str
    max_tokens: int
    mark: bytes
    hear: Callable[[str, int], None]


class Crowd(threading.Thread):
    """`clients` at once, each asking, waiting for the end, and asking again, until `leave` is called."""

    def __init__(
        self,
        gateways: Sequence[str],
        accounts: Sequence[Account],
        *,
        clients: int,
        seed: int,
        max_tokens: int,
        growing: Growing | None = None,
    ) -> None:
        super().__init__(name="crowd", daemon=True)
        self.tally = Tally()
        self._gateways, self._accounts = tuple(gateways), tuple(accounts)
        self._clients, self._seed, self._max_tokens = clients, seed, max_tokens
        self._growing = growing
        self._leaving = threading.Event()

    def leave(self) -> None:
        """Returns when every client has seen the end of its last request."""
        self._leaving.set()
        self.join()

    def run(self) -> None:
        asyncio.run(self._all())

    async def _all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(self._clients)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        dice = random.Random(f"{self._seed}:{number}")
        count = 0
        while not self._leaving.is_set():
            count += 1
            account = dice.choice(self._accounts)
            gateway = dice.randrange(len(self._gateways))
            stream = dice.random() < 0.5
            tag = f"{account.owner}-{number}-{count}"
            words = " ".join(dice.choices(WORDS, k=dice.randint(1, 5)))
            growing = self._growing if stream and self._growing else None
            if growing is not None and dice.random() >= growing.share:
                growing = None
            text = f"{tag} {words}"
            outcome = await self._ask(session, gateway, account, text, stream=stream, growing=growing)
            self.tally.asked.append(Asked(tag, account.owner, gateway, stream, outcome))
            # Who was refused or met a dead gateway tries again soon: that is what overruns a weak cap.
            await asyncio.sleep(0 if outcome == "answered" else dice.uniform(0.02, 0.2))

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        gateway: int,
        account: Account,
        text: str,
        *,
        stream: bool,
        growing: Growing | None,
    ) -> str:
        body = {
            "model": growing.model if growing else MODEL,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": growing.max_tokens if growing else self._max_tokens,
            "stream": stream,
        }
        headers = {"Authorization": f"Bearer {account.api_key}"}
        url = f"{self._gateways[gateway]}/v1/chat/completions"
        try:
            async with session.post(url, json=body, headers=headers) as answer:
                content = await (_listened(answer, text, growing) if growing else answer.read())
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return "broken"
        if answer.status == OK and growing is not None and DONE in content:
            return "ended at the cap" if AT_THE_CAP in content else "grown"
        if answer.status == OK:
            return "answered" if not stream or DONE in content else "cut"
        return _refusal(answer.status, content)


async def _listened(answer: aiohttp.ClientResponse, text: str, growing: Growing) -> bytes:
    """The whole answer, telling at every piece how far it was heard."""
    content = b""
    async for piece in answer.content.iter_any():
        content += piece
        growing.hear(text.partition(" ")[0], content.count(growing.mark))
    return content


def _refusal(status: int, content: bytes) -> str:
    if status == PAYMENT_REQUIRED:
        return "refused"
    if status in {400, TOO_MANY} and b"budget" in content.lower():
        return "refused"  # Other gateways say it with another status.
    try:
        code = json.loads(content)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = ""
    return f"{status} {code}".strip()
