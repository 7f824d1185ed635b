"""The topology is data, so its rules are checked without a broker; the broker's view is in test_bus."""

import re
from pathlib import Path

import pytest

from kairos_contracts.catalogue import catalogue
from kairos_contracts.registry import UnknownMessageType
from kairos_messaging.topology import (
    COMMANDS,
    DEAD,
    DEAD_LETTERS,
    EVENTS,
    Topology,
    exchange_for,
    from_catalogue,
    replica_arguments,
)

ROOT = Path(__file__).parents[4]
OURS = ROOT / "libs/common/messaging"
WHOLE = from_catalogue()


def queues_without_a_way_to_the_dead_letters(topology: Topology) -> set[str]:
    return {
        queue.name
        for queue in topology.queues
        if queue.name != DEAD_LETTERS and "x-dead-letter-exchange" not in queue.arguments
    }


def sources() -> list[Path]:
    return [
        path
        for part in ("libs", "services")
        for path in (ROOT / part).rglob("*.py")
        if "node_modules" not in path.parts
    ]


def test_every_queue_has_a_dead_letter_exchange() -> None:
    assert not queues_without_a_way_to_the_dead_letters(WHOLE)
    assert replica_arguments("bot-worker")["x-dead-letter-exchange"] == DEAD


def test_the_lint_refuses_a_queue_without_one() -> None:
    from dataclasses import replace

    from kairos_messaging.topology import Queue

    bad = replace(WHOLE, queues=(*WHOLE.queues, Queue("loose", {"x-queue-type": "quorum"})))
    assert queues_without_a_way_to_the_dead_letters(bad) == {"loose"}


def test_every_durable_queue_is_quorum_with_explicit_limits() -> None:
    for queue in WHOLE.queues:
        assert queue.arguments["x-queue-type"] == "quorum"
        assert "x-delivery-limit" in queue.arguments
        if queue.name != DEAD_LETTERS:
            assert queue.arguments["x-delivery-limit"] == 20
            assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
            assert queue.arguments["x-overflow"] == "reject-publish"


def test_no_queue_uses_an_argument_newer_than_rabbitmq_3_10() -> None:
    known = {
        "x-queue-type",
        "x-delivery-limit",
        "x-message-ttl",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
        "x-overflow",
    }
    assert {name for queue in WHOLE.queues for name in queue.arguments} <= known


def test_every_queue_of_the_catalogue_is_bound_to_its_types_and_has_its_ladder() -> None:
    names = {queue.name for queue in WHOLE.queues}
    bound = {(binding.exchange, binding.queue, binding.routing_key) for binding in WHOLE.bindings}
    for entry in catalogue().values():
        for queue in entry.queues:
            assert (exchange_for(entry.type), queue, entry.type) in bound
            assert {f"{queue}.retry.{delay}" for delay in ("5s", "30s", "5m", "30m")} <= names
    assert (DEAD, DEAD_LETTERS, "#") in bound


def test_a_retry_queue_waits_and_leads_back_to_its_queue() -> None:
    by_name = {queue.name: queue.arguments for queue in WHOLE.queues}
    arguments = by_name["bot-worker.messages.retry.30s"]
    assert arguments["x-message-ttl"] == 30_000
    assert (arguments["x-dead-letter-exchange"], arguments["x-dead-letter-routing-key"]) == (
        "",
        "bot-worker.messages",
    )


@pytest.mark.parametrize(
    ("attempt", "queue"),
    [
        (0, "q.retry.5s"),
        (1, "q.retry.5s"),
        (2, "q.retry.30s"),
        (3, "q.retry.5m"),
        (4, "q.retry.30m"),
        (5, None),
        (10**9, None),
    ],
)
def test_the_ladder_ends_after_the_fifth_attempt(attempt: int, queue: str | None) -> None:
    assert WHOLE.retry_queue("q", attempt) == queue


def test_other_delays_have_other_names() -> None:
    short = from_catalogue((0.05, 90.0))
    assert short.retry_queue("q", 1) == "q.retry.50ms"
    assert short.retry_queue("q", 2) == "q.retry.90s"


def test_commands_and_events_go_to_their_own_exchange() -> None:
    assert exchange_for("llm.completion.request.v1") == COMMANDS
    assert exchange_for("llm.completion.completed.v1") == EVENTS
    with pytest.raises(UnknownMessageType):
        exchange_for("no.such.type.v1")


def test_nobody_uses_an_acknowledgement_policy_that_loops_or_drops() -> None:
    forbidden = re.compile("NACK_" + "ON_ERROR|REJECT_" + "ON_ERROR|ACK_" + "FIRST")
    assert not [path for path in sources() if forbidden.search(path.read_text(encoding="utf-8"))]


def test_only_this_library_talks_to_the_broker_client() -> None:
    client = re.compile(r"^\s*(?:from|import) (?:faststream|aio_pika|aiormq|pika)\b", re.MULTILINE)
    allowed = (OURS, ROOT / "libs/common/testkit")
    assert not [
        path
        for path in sources()
        if client.search(path.read_text(encoding="utf-8"))
        and "tests" not in path.parts
        and not any(path.is_relative_to(folder) for folder in allowed)
    ]


def test_a_ladder_without_a_rung_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        from_catalogue(())
