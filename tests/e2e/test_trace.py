"""One trace from the channel's message to the sent reply, through every service, edge by edge."""

import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Final
from urllib.parse import urlsplit

import pytest
from tests.e2e.people import Visitor, chat_ids, conversation_of, messages_of, new_bot, until

from kairos_testkit.fake_provider import ProviderRecord
from kairos_testkit.faults_script import Fault
from kairos_testkit.otlp_receiver import ReceivedSpan, SpanNode
from kairos_testkit.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

# Every event also reaches the event store, once, and every replica's live feed.
SEEN: Final = (
    "observability: process observability.events [consumer]",
    "observability: process observability.replica [consumer]",
)
TELEGRAM: Final = """\
bot-worker: POST /channels/telegram/{bot_id} [server]
  bot-worker: publish conversation.message.received.v1 [producer]
    SEEN
    bot-worker: process bot-worker.messages [consumer]
      bot-worker: turn opens [internal]
        bot-worker: publish conversation.turn.opened.v1 [producer]
          SEEN
        bot-worker: publish llm.completion.request.v1 [producer]
          llm-router: process llm-router.completions [consumer]
            llm-router: completion [internal]
              llm-router: chat fake-echo [client]
              llm-router: publish llm.usage.recorded.v1 [producer]
                SEEN
                budget-analytics: process budget-analytics.usage [consumer]
              llm-router: publish llm.completion.completed.v1 [producer]
                SEEN
                bot-worker: process bot-worker.completions [consumer]
                  bot-worker: publish conversation.turn.answered.v1 [producer]
                    SEEN
                  bot-worker: send telegram [client]
                    bot-worker: publish conversation.reply.sent.v1 [producer]
                      SEEN
                      bot-worker: process bot-worker.replica [consumer]
"""
# On the web channel the stored reply is the sent reply, and the page is pushed to by every replica.
WEB: Final = """\
bot-worker: POST /web/messages [server]
  bot-worker: publish conversation.message.received.v1 [producer]
    SEEN
    bot-worker: process bot-worker.messages [consumer]
      bot-worker: turn opens [internal]
        bot-worker: publish conversation.turn.opened.v1 [producer]
          SEEN
        bot-worker: publish llm.completion.request.v1 [producer]
          llm-router: process llm-router.completions [consumer]
            llm-router: completion [internal]
              llm-router: chat fake-echo [client]
              llm-router: publish llm.usage.recorded.v1 [producer]
                SEEN
                budget-analytics: process budget-analytics.usage [consumer]
              llm-router: publish llm.completion.completed.v1 [producer]
                SEEN
                bot-worker: process bot-worker.completions [consumer]
                  bot-worker: publish conversation.turn.answered.v1 [producer]
                    SEEN
                  bot-worker: publish conversation.reply.sent.v1 [producer]
                    SEEN
                    bot-worker: process bot-worker.replica [consumer]
"""
COMPLETION: Final = """\
llm-router: POST /v1/chat/completions [server]
  llm-router: chat fake-echo [client]
  llm-router: publish llm.usage_batch.recorded.v1 [producer]
    SEEN
    budget-analytics: process budget-analytics.usage [consumer]
"""
# What depends on what a process remembers: it may hang here, and nowhere else.
LEASE: Final = ("llm-router: completion [internal]", "budget-analytics: POST /internal/leases [server]")
V1_LEASE: Final = ("llm-router: POST /v1/chat/completions [server]", LEASE[1])
SCOPES: Final = "budget-analytics: GET /internal/leases/scopes/{organisation_id} [server]"
REMEMBERED: Final = frozenset(
    {
        LEASE,
        V1_LEASE,
        (LEASE[0], "auth-audit: POST /internal/token [server]"),
        (LEASE[0], SCOPES),
        (V1_LEASE[0], SCOPES),
        (LEASE[1], "auth-audit: GET /.well-known/jwks.json [server]"),
        (V1_LEASE[0], "auth-audit: POST /internal/token [server]"),
        (V1_LEASE[0], "auth-audit: POST /internal/introspect [server]"),
    }
)
CALLER_TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
CALLER_SPAN: Final = "b7ad6b7169203331"
Tree = tuple[str, tuple["Tree", ...]]


@pytest.fixture(scope="module", autouse=True)
def began_ns() -> int:
    """Tests before this module may have killed services, and their last spans with them."""
    return time.time_ns()


def expected(text: str) -> Tree:
    """The tree that indented lines draw, children sorted."""
    lines = [(len(line) - len(line.lstrip()), line.strip()) for line in text.splitlines()]

    def children(start: int, depth: int) -> tuple[tuple[Tree, ...], int]:
        found: list[Tree] = []
        while start < len(lines) and lines[start][0] == depth:
            name = lines[start][1]
            below, start = children(start + 1, depth + 2)
            found += [(each, ()) for each in SEEN] if name == "SEEN" else [(name, below)]
        return tuple(sorted(found)), start

    (root,), _ = children(0, 0)
    return root


def drawn(node: SpanNode, may_hang: frozenset[tuple[str, str]]) -> Tree:
    """The received tree in the same form, without what may hang there."""
    name = node.lines()[0]
    below = [drawn(child, may_hang) for child in node.children]
    return name, tuple(sorted(each for each in below if (name, each[0]) not in may_hang))


def lines_of(tree: Tree, depth: int = 0) -> Iterator[str]:
    yield "  " * depth + tree[0]
    for child in tree[1]:
        yield from lines_of(child, depth + 1)


def assert_trace(
    stack: Stack, trace_id: str, text: str, may_hang: frozenset[tuple[str, str]] = REMEMBERED
) -> SpanNode:
    """Every edge of the trace is one of `text`, each exactly once, below one root. Gives the root."""
    wanted = expected(text)

    def complete() -> bool:
        return [drawn(root, may_hang) for root in stack.otlp.tree(trace_id)] == [wanted]

    try:
        until("the whole trace", complete, timeout=30)
    except AssertionError:
        received = [line for root in stack.otlp.tree(trace_id) for line in lines_of(drawn(root, may_hang))]
        assert received == list(lines_of(wanted))
        raise
    (root,) = stack.otlp.tree(trace_id)
    return root


def asked(stack: Stack, text: str) -> ProviderRecord:
    """The provider's own record of the request about this text."""
    return until(f"the provider's record of {text!r}", lambda: _records(stack, text))[0]


def _records(stack: Stack, text: str) -> list[ProviderRecord]:
    return [record for record in list(stack.provider.records) if record.text == text]


def span_of(root: SpanNode, is_it: Callable[[ReceivedSpan], bool]) -> ReceivedSpan:
    (found,) = [node.span for node in root.walk() if is_it(node.span)]
    return found


def trace_ids(stack: Stack, conversation_id: str) -> set[str]:
    return {message["trace_id"] for message in messages_of(stack, conversation_id)}


def assert_provider_was_told(stack: Stack, root: SpanNode, text: str) -> None:
    attempt = span_of(root, lambda span: span.kind == "client" and span.name.startswith("chat "))
    record = asked(stack, text)
    version, trace_id, parent, _ = (record.traceparent or "").split("-")
    assert (version, trace_id, parent) == ("00", attempt.trace_id, attempt.span_id)
    assert attempt.attributes["kairos.attempt_id"] == record.attempt_id
    assert attempt.attributes["gen_ai.usage.input_tokens"] == record.input_tokens
    assert attempt.attributes["gen_ai.usage.output_tokens"] == record.output_tokens


def test_a_telegram_message_is_one_trace_from_the_webhook_to_the_sent_reply(stack: Stack) -> None:
    chat, text = next(chat_ids), "trace me through Telegram"
    stack.say(chat, text)
    stack.telegram.wait_sent(1, chat_id=chat, timeout=60)
    (trace_id,) = trace_ids(stack, conversation_of(stack, chat))
    root = assert_trace(stack, trace_id, TELEGRAM)
    assert root.span.parent_id is None
    assert_provider_was_told(stack, root, text)
    sent = span_of(root, lambda span: span.name == "send telegram")
    assert sent.attributes["kairos.outcome"] == "sent"
    assert not any(node.span.error for node in root.walk())


def test_a_web_message_is_one_trace_from_the_page_to_the_stored_reply(stack: Stack) -> None:
    bot, text = new_bot(stack, "Traced"), "trace me through web chat"
    visitor = Visitor(stack, bot["id"])
    visitor.say(text)
    visitor.wait_replies(1)
    (trace_id,) = trace_ids(stack, visitor.conversation)
    root = assert_trace(stack, trace_id, WEB)
    assert root.span.parent_id is None
    assert_provider_was_told(stack, root, text)
    assert not any(node.span.error for node in root.walk())


def test_a_callers_own_trace_goes_on_through_v1(stack: Stack) -> None:
    text = "trace me through v1"
    address = urlsplit(stack.front_door)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=30)
    headers = {
        "Authorization": f"Bearer {stack.seeded.api_key}",
        "Content-Type": "application/json",
        "traceparent": f"00-{CALLER_TRACE}-{CALLER_SPAN}-01",
    }
    body = f'{{"model": "default", "messages": [{{"role": "user", "content": "{text}"}}]}}'
    connection.request("POST", "/v1/chat/completions", body, headers)
    assert connection.getresponse().status == 200
    connection.close()
    root = assert_trace(stack, CALLER_TRACE, COMPLETION)
    assert root.span.parent_id == CALLER_SPAN
    assert_provider_was_told(stack, root, text)


def test_a_turn_continues_its_first_messages_trace_and_is_linked_to_the_others(stack: Stack) -> None:
    chat = next(chat_ids)
    stack.provider.fail(Fault(match="keep the turn open", delay_ms=1_500))
    stack.say(chat, "keep the turn open")
    asked(stack, "keep the turn open")
    stack.say(chat, "first of the next turn")
    stack.say(chat, "second of the next turn")
    stack.telegram.wait_sent(2, chat_id=chat, timeout=60)
    incoming = [
        each for each in messages_of(stack, conversation_of(stack, chat)) if each["direction"] == "in"
    ]
    _, first, second = incoming
    assert first["turn_id"] == second["turn_id"]
    (opening,) = until("the turn's span", lambda: _openings(stack, first["trace_id"]))
    assert {trace for trace, _ in opening.links} == {second["trace_id"]}
    assert _openings(stack, second["trace_id"]) == []


def _openings(stack: Stack, trace_id: str) -> list[ReceivedSpan]:
    return [span for span in stack.otlp.spans(trace_id) if span.name == "turn opens"]


def test_no_span_of_this_module_is_an_orphan(stack: Stack, began_ns: int) -> None:
    def orphans() -> list[ReceivedSpan]:
        spans = stack.otlp.spans()
        known = {(span.trace_id, span.span_id) for span in spans}
        older = {span.trace_id for span in spans if span.start_ns < began_ns}
        return [
            span
            for span in spans
            if span.trace_id not in older
            and span.parent_id not in {None, CALLER_SPAN}
            and (span.trace_id, span.parent_id) not in known
        ]

    # A parent that is still open is exported after its children.
    until("every span's parent", lambda: not orphans(), timeout=30)
