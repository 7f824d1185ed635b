"""What providers' answers mean, and whose connections are whose. The wire itself: test_http_client.py."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from kairos_router.adapters.http_client import Patience
from kairos_router.adapters.openai_upstream import LONGEST_ERROR, OpenAIUpstream
from kairos_router.application.guard_address import Reach
from kairos_router.application.ports import Fault, ProviderCall, ProviderFailed
from kairos_router.domain.catalogue import Dialect, Timeouts

ANSWER = b'{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'


def whole(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


class Server:
    """Answers each request with these bytes; `hangs_up` after them, else it waits for the next request."""

    def __init__(self) -> None:
        self.answer = whole(ANSWER)
        self.hangs_up = False
        self.connections = 0
        self.open = 0
        self.heads: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
                writer.write(self.answer)
                if self.hangs_up:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    yield made
    listening.close()


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIUpstream]:
    adapter = OpenAIUpstream(Reach(private=True))
    yield adapter
    await adapter.close()


@pytest.fixture
def call_of(kit: SimpleNamespace, server: Server) -> Any:
    def make(deployment: Any = None, **more: Any) -> ProviderCall:
        deployment = deployment or kit.deployment(**{"base_url": server.url} | more)
        return ProviderCall(deployment, {"model": "m", "messages": []}, 5, uuid4())

    return make


@pytest.mark.parametrize(
    ("status", "body", "fault", "ran"),
    [
        (429, b"", Fault.RATE_LIMITED, False),
        (500, b"secret", Fault.FAILED, False),
        (502, b"", Fault.FAILED, True),
        (503, b"", Fault.FAILED, False),
        (504, b"", Fault.FAILED, True),
        (524, b"", Fault.FAILED, True),
        (401, b"your key sk-1", Fault.MISCONFIGURED, False),
        (404, b"", Fault.MISCONFIGURED, False),
        (400, b'{"code":"context_length_exceeded"}', Fault.TOO_LONG, False),
        (422, b'{"code":"what"}', Fault.INVALID_REQUEST, False),
    ],
)
async def test_a_status_says_whose_fault_it_is_and_only_the_callers_own_is_passed_on(
    server: Server, upstream: OpenAIUpstream, call_of: Any, status: int, body: bytes, fault: Fault, ran: bool
) -> None:
    server.answer = whole(body, status)
    for _ in range(2):
        with pytest.raises(ProviderFailed) as caught:
            await upstream.complete(call_of())
        failure = caught.value
        assert (failure.fault, failure.status, failure.may_have_run) == (fault, status, ran)
        assert failure.body == (body if fault.callers else b"")
    assert server.connections == 1, "an error that was read to its end leaves the connection free"


async def test_an_error_without_an_end_is_read_no_further_than_anybody_needs(
    kit: SimpleNamespace, server: Server, upstream: OpenAIUpstream, call_of: Any
) -> None:
    head = b"HTTP/1.1 400 x\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.answer = head + chunked(b"e" * LONGEST_ERROR * 2)
    with pytest.raises(ProviderFailed) as caught:
        await asyncio.wait_for(upstream.complete(call_of(timeouts=Timeouts(idle=30))), 5)
    assert len(caught.value.body) == LONGEST_ERROR
    await kit.until(lambda: not server.open)


async def test_a_stream_that_is_none_is_broken_and_let_go(
    kit: SimpleNamespace, server: Server, upstream: OpenAIUpstream, call_of: Any
) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9999\r\n\r\n<html>"
    with pytest.raises(ProviderFailed) as caught:
        await upstream.open_stream(call_of())
    assert (caught.value.fault, caught.value.may_have_run) == (Fault.BROKEN, True)
    await kit.until(lambda: not server.open)


async def test_a_caller_who_goes_in_the_middle_of_an_answer_closes_its_connection(
    kit: SimpleNamespace, server: Server, upstream: OpenAIUpstream, call_of: Any
) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{"
    deployment = kit.deployment(base_url=server.url, timeouts=Timeouts(idle=300))
    asking = asyncio.create_task(upstream.complete(call_of(deployment)))
    client = upstream._line(deployment).client
    await kit.until(lambda: any(each._answer and each._answer.size for each in client._busy))
    asking.cancel()
    await asyncio.wait([asking])
    await kit.until(lambda: not server.open)
    server.answer = EVENTS + chunked(CHUNK)
    stream = await upstream.open_stream(call_of(deployment))
    assert await stream.next() == CHUNK
    stream.close()
    await kit.until(lambda: not server.open)
    assert client.unused


async def test_how_a_connection_ends_does_not_matter_after_the_answer_has(
    server: Server, upstream: OpenAIUpstream, call_of: Any
) -> None:
    server.hangs_up = True
    for end, broken in ((b"data: [DONE]\n\n", False), (b"", True)):
        server.answer = EVENTS + chunked(CHUNK + end)
        stream = await upstream.open_stream(call_of())
        assert await stream.next() == CHUNK + end
        if broken:
            with pytest.raises(ProviderFailed):
                await stream.next()
        else:
            assert await stream.next() == b""


async def test_a_deployment_read_anew_keeps_its_connections_and_a_changed_one_gets_others(
    kit: SimpleNamespace, server: Server, upstream: OpenAIUpstream, call_of: Any
) -> None:
    deployment = kit.deployment(base_url=server.url)
    await upstream.complete(call_of(deployment))
    await upstream.complete(call_of(replace(deployment)))
    assert server.connections == 1
    server.answer = EVENTS + chunked(CHUNK)
    stream = await upstream.open_stream(call_of(deployment))
    server.answer = whole(ANSWER)
    changed = replace(deployment, timeouts=Timeouts(first_byte=7))
    await upstream.complete(call_of(changed))
    assert (server.connections, server.open) == (2, 2), "what is under way ends on the former connection"
    assert await stream.next() == CHUNK
    stream.close()
    await kit.until(lambda: server.open == 1, 5)
    await upstream.complete(call_of(replace(changed, timeouts=Timeouts(first_byte=8))))
    await kit.until(lambda: server.open == 1, 5)
    assert server.connections == 3
    assert len(upstream._former) <= 1, "a line without connections is forgotten"


async def test_requests_of_two_organisations_or_with_two_keys_never_share_a_connection(
    kit: SimpleNamespace, server: Server, upstream: OpenAIUpstream, call_of: Any
) -> None:
    shared = kit.deployment(base_url=server.url)
    mine, theirs = (replace(shared, owner=uuid4()) for _ in "ab")
    for each in (shared, mine, theirs, replace(mine, api_key="other")) * 2:
        await upstream.complete(call_of(each))
    assert server.connections == 4


async def test_what_is_fixed_of_a_request_comes_from_the_deployment(
    server: Server, upstream: OpenAIUpstream, call_of: Any
) -> None:
    address = server.url.removeprefix("http://")
    await upstream.complete(
        call_of(base_url=f"http://user:secret@{address}", dialect=Dialect(headers=(("X-Title", "Kairos"),)))
    )
    (head,) = server.heads
    assert b"\r\nHost: %b\r\n" % address.removesuffix("/v1").encode() in head
    assert b"\r\nX-Title: Kairos\r\n" in head
    assert b"secret" not in head
    for key in ("sk\r\nX-Admin: 1", "sk\n", "sk\u20ac"):
        with pytest.raises(ProviderFailed) as caught:
            await upstream.complete(call_of(api_key=key))
        assert caught.value.fault is Fault.MISCONFIGURED
        assert key not in str(caught.value)


async def test_a_deployments_limits_are_its_clients(upstream: OpenAIUpstream, kit: SimpleNamespace) -> None:
    deployment = kit.deployment(base_url="http://x", timeouts=Timeouts(connect=1, first_byte=2, idle=3))
    assert upstream._line(deployment).client.patience == Patience(connect=1, first_byte=2, idle=3)
