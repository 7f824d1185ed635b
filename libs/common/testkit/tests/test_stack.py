"""The whole suite as tests get it. What it does with messages is proved in tests/e2e."""

import pytest

from kairos_testkit.api_client import ApiClient, ApiError
from kairos_testkit.stack import Stack
from kairos_testkit.suite import SERVICES

pytestmark = pytest.mark.stack


def test_every_service_is_ready_and_seeded(stack: Stack) -> None:
    for service in SERVICES:
        assert ApiClient(stack.url(service.name)).get("/health/ready")
    assert stack.seeded.bot_id in {bot["id"] for bot in stack.client("bot-worker").items("/bots")}


def test_the_front_door_leads_to_every_service(stack: Stack) -> None:
    door = ApiClient(stack.front_door).with_key(stack.seeded.api_key)
    for service in SERVICES:
        assert door.get(f"/api/{service.name}/health/ready")
    with pytest.raises(ApiError) as hidden:
        door.get("/api/auth-audit/internal/introspect")
    assert hidden.value.status == 404


def test_a_killed_service_comes_back_under_its_address(stack: Stack) -> None:
    stack.kill("llm-router")
    with pytest.raises(ApiError) as gone:
        stack.client("llm-router").get("/health/live")
    assert gone.value.status == 0
    stack.start("llm-router")
    assert stack.client("llm-router").get("/health/ready")


def test_a_message_on_telegram_is_answered_by_the_provider(stack: Stack) -> None:
    stack.say(99, "is anybody there?")
    (sent,) = stack.telegram.wait_sent(1, chat_id=99)
    assert sent.text == "echo: is anybody there?"
    assert any(record.text == "is anybody there?" for record in stack.provider.records)
