"""What a budget's owner sees: money runs out and work goes on; a long prompt finds a model that reads it."""

from collections.abc import Iterator
from typing import Any, Final

import openai
import pytest
from tests.e2e.people import Visitor, chat_ids, door, new_bot, signed_in

from kairos_testkit.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

USD: Final = 1_000_000_000
# Of the stack's deployment `dear`, in nano-USD per token.
INPUT_PRICE: Final = 4_000_000
OUTPUT_PRICE: Final = 8_000_000


@pytest.fixture
def project(stack: Stack) -> str:
    made: str = door(stack, "auth-audit").post("/projects", {"name": f"Frugal {next(chat_ids)}"})["id"]
    return made


@pytest.fixture
def client(stack: Stack, project: str) -> Iterator[openai.OpenAI]:
    member = signed_in(stack, f"{project}@kairos.example")
    key = member.post("/api-keys", {"name": "frugal", "project_id": project})["key"]
    with openai.OpenAI(base_url=f"{stack.front_door}/v1", api_key=key, max_retries=0, timeout=60) as made:
        yield made


def ten_dollars(stack: Stack, project: str) -> str:
    limit = {"name": "10 USD a month", "scope": "project", "scope_id": project, "limit_usd": "10"}
    made: str = door(stack, "budget-analytics").post("/budgets", {**limit, "period": "month"})["id"]
    return made


def settled(stack: Stack, budget: str) -> int:
    current: dict[str, Any] = door(stack, "budget-analytics").get(f"/budgets/{budget}")["current"]
    return int(current["settled"]["nano_usd"])


def ask(client: openai.OpenAI, text: str) -> tuple[str, dict[str, str]]:
    answer = client.chat.completions.with_raw_response.create(
        model="frugal", messages=[{"role": "user", "content": text}], max_tokens=20
    )
    content = answer.parse().choices[0].message.content or ""
    return content, {name: value for name, value in answer.headers.items() if name.startswith("x-kairos-")}


def test_a_monthly_budget_of_10_usd_is_used_up_and_then_the_local_model_answers_and_says_so(
    stack: Stack, project: str, client: openai.OpenAI
) -> None:
    budget = ten_dollars(stack, project)
    paid, spent, headers = 0, 0, {}
    for number in range(400):
        text, headers = ask(client, f"question {number}")
        assert text.startswith("echo"), "work goes on, whoever answers"
        if headers["x-kairos-deployment"] == "local":
            break
        paid += 1
        spent += int(headers["x-kairos-cost-nano-usd"])
        assert spent <= 10 * USD
    assert headers["x-kairos-degraded"] == "budget.local"
    assert headers["x-kairos-cost-nano-usd"] == "0"
    assert paid > 50, "most of the money was of use"
    # What is left is less than the least the dear model could cost.
    worst = 512 * INPUT_PRICE + 20 * OUTPUT_PRICE
    assert 10 * USD - spent < worst
    # And it stays so, for streams too.
    with client.chat.completions.with_streaming_response.create(
        model="frugal", messages=[{"role": "user", "content": "question 999"}], max_tokens=20, stream=True
    ) as streamed:
        assert streamed.headers["x-kairos-deployment"] == "local"
        assert b"echo" in streamed.read()
    assert settled(stack, budget) <= 10 * USD


def test_a_bot_whose_money_is_used_up_goes_on_with_the_local_model(stack: Stack, project: str) -> None:
    limit = {"name": "a cent", "scope": "project", "scope_id": project, "limit_usd": "0.01"}
    door(stack, "budget-analytics").post("/budgets", limit)
    bot = new_bot(stack, "Frugal", model="frugal", project_id=project)
    visitor = Visitor(stack, bot["id"])
    visitor.say("who answers me?")
    (reply,) = visitor.wait_replies(1)
    assert "who answers me?" in reply
    (record,) = [each for each in list(stack.provider.records) if each.text == "who answers me?"]
    assert record.model == "fake-local"


def test_a_prompt_of_100k_tokens_goes_to_the_model_whose_window_fits(
    stack: Stack, client: openai.OpenAI
) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model="fitting", messages=[{"role": "user", "content": "short enough"}], max_tokens=50
    )
    assert answer.headers["x-kairos-deployment"] == "short"
    prompt = "one more thing to read " * 20_000
    answer = client.chat.completions.with_raw_response.create(
        model="fitting", messages=[{"role": "user", "content": prompt}], max_tokens=50
    )
    assert answer.headers["x-kairos-deployment"] == "long"
    usage = answer.parse().usage
    assert usage is not None
    assert usage.prompt_tokens > 100_000
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="fitting", messages=[{"role": "user", "content": prompt * 3}], max_tokens=50
        )
    assert refused.value.code == "context_length_exceeded"
