"""The semantic cache with the real model: what counts as the same question, and what never does."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from kairos_router.adapters.minilm import MiniLM
from kairos_router.adapters.redis_answers import MOST_VECTORS, RedisAnswers
from kairos_router.adapters.similar_questions import MOST_QUESTIONS, SimilarQuestions
from kairos_router.application.cache_policies import CachePolicies
from kairos_router.application.embed_text import EmbedderAbsent
from kairos_router.domain.ask import Ask, Caller, parse_ask
from kairos_router.domain.cache_key import plan
from kairos_router.domain.cache_policy import CachePolicy, Mode
from kairos_router.domain.lease import Scope
from kairos_router.entrypoints.cached_answers import CachedAnswers
from kairos_router.entrypoints.completions import Served

pytestmark = pytest.mark.servers

ORGANISATION, OTHER = UUID(int=10), UUID(int=11)
CALLER = Caller(Scope(ORGANISATION), UUID(int=12))
POLICY = CachePolicy(ORGANISATION, "default", Mode.ALL, 60, semantic=True, similarity=0.9)


@pytest.fixture(scope="module")
def model() -> Any:
    loaded = MiniLM()
    yield loaded
    loaded.close()


def ask_for(text: str, *before: str, **fields: Any) -> Ask:
    messages = [{"role": "user", "content": each} for each in (*before, text)]
    payload = {"model": "default", "messages": messages, **fields}
    return parse_ask(payload, len(str(payload)))


class Provider:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.label = str

    async def complete(self, ask: Ask, caller: Caller, completion_id: UUID) -> Served:
        text = ask.payload["messages"][-1]["content"]
        self.asked.append(text)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": f"to: {text}"},
            "finish_reason": "stop",
        }
        body = orjson.dumps({"id": "x", "object": "chat.completion", "choices": [choice]})
        return Served(body, [(b"x-kairos-deployment", b"first")], 1, 0.1)


def desk(store: RedisAnswers, model: Any, *policies: CachePolicy) -> Any:
    provider = Provider()
    known: Any = CachePolicies(None)  # type: ignore[arg-type] # policies are set directly
    known._policies = {}
    for policy in policies or (POLICY,):
        known._policies.setdefault(policy.organisation_id, {})[policy.route] = policy
    kinds: list[str] = []

    def note(ask: Ask, caller: Caller, completion_id: UUID, kept: Any, kind: str, seconds: float) -> None:
        kinds.append(kind)

    def describe(organisation_id: UUID, deployment: str) -> tuple[str, str, str]:
        return ("m", "p", "v")

    answers = CachedAnswers(
        provider,  # type: ignore[arg-type] # plain answers are all that is asked for
        known,
        store,
        SimilarQuestions(model, store),
        note=note,
        describe=describe,
        resolve=lambda *_: "",
        holder=uuid4().hex,
    )

    async def ask(text: str, *before: str, caller: Caller = CALLER, **fields: Any) -> str:
        served = await answers.complete(ask_for(text, *before, **fields), caller, uuid4())
        await asyncio.gather(*answers._tasks)
        return dict(served.headers)[b"x-kairos-cache"].decode()

    return SimpleNamespace(ask=ask, provider=provider, kinds=kinds)


@pytest.fixture
async def store(redis_url: str) -> Any:
    # A loaded machine is not what is tried here.
    answers = RedisAnswers(redis_url, patience=2.0)
    yield answers
    await answers.close()


async def test_a_question_of_the_same_meaning_gets_the_kept_answer_and_others_do_not(
    store: Any, model: Any
) -> None:
    bot = desk(store, model)
    assert await bot.ask("How do I reset my password?") == "miss"

    assert await bot.ask("How can I reset my password?") == "semantic"
    assert await bot.ask("How do I reset my password?") == "hit"
    assert await bot.ask("How do I delete my account?") == "miss"
    assert await bot.ask("What is the weather in Paris?") == "miss"
    assert bot.kinds == ["semantic", "exact"]


async def test_another_process_finds_what_the_first_has_kept(store: Any, model: Any) -> None:
    await desk(store, model).ask("How do I reset my password?")

    assert await desk(store, model).ask("How can I reset my password?") == "semantic"


async def test_the_floor_decides_how_alike_is_alike_enough(store: Any, model: Any) -> None:
    strict = desk(store, model, replace(POLICY, similarity=0.9999))
    await strict.ask("How do I reset my password?")

    assert await strict.ask("How can I reset my password?") == "miss"


async def test_other_numbers_are_another_question_however_alike(store: Any, model: Any) -> None:
    bot = desk(store, model, replace(POLICY, similarity=0.8))
    await bot.ask("Where is my order 4711?")

    assert await bot.ask("Where is my order 4712?") == "miss"
    assert await bot.ask("Where's my order 4711?") == "semantic"


async def test_only_the_last_message_may_differ(store: Any, model: Any) -> None:
    bot = desk(store, model)
    await bot.ask("How do I reset my password?", "I use the mobile app")

    assert await bot.ask("How can I reset my password?", "I use the website") == "miss"
    assert await bot.ask("How can I reset my password?", "I use the mobile app") == "semantic"
    assert await bot.ask("How can I reset my password?", "I use the mobile app", temperature=0) == "miss"


async def test_organisations_never_share_a_meaning(store: Any, model: Any) -> None:
    both = desk(store, model, POLICY, replace(POLICY, organisation_id=OTHER))
    await both.ask("How do I reset my password?")

    other = Caller(Scope(OTHER), UUID(int=12))
    assert await both.ask("How can I reset my password?", caller=other) == "miss"


async def test_without_the_model_the_exact_cache_goes_on(store: Any) -> None:
    class Absent:
        async def embed(self, texts: Any) -> Any:
            raise EmbedderAbsent

    bot = desk(store, Absent())
    assert await bot.ask("How do I reset my password?") == "miss"
    assert await bot.ask("How can I reset my password?") == "miss"
    assert await bot.ask("How do I reset my password?") == "hit"


async def test_a_space_keeps_its_newest_questions_and_no_more(store: Any) -> None:
    class Numbered:
        """Each text its own direction, so that nothing is alike."""

        async def embed(self, texts: Any) -> list[list[float]]:
            return [[1.0 if at == int(text) % 384 else 0.0 for at in range(384)] for text in texts]

    similar: Any = SimilarQuestions(Numbered(), store)  # type: ignore[arg-type] # the part used here
    for number in range(MOST_VECTORS + 5):
        await similar.add("space", str(number), str(number), f"key-{number}", 60)

    kept = await store.vectors("space")
    assert len(kept) <= MOST_VECTORS
    assert f"key-{MOST_VECTORS + 4}" in kept
    assert "key-0" not in kept
    assert len(similar._spaces["space"].keys) <= MOST_QUESTIONS


def test_what_decides_about_the_answers_form_keeps_a_request_out() -> None:
    def question(**fields: Any) -> Any:
        planned = plan(ask_for("hello there", **fields), CALLER, POLICY, 0, "")
        assert planned is not None
        return planned.question

    assert question() is not None
    assert question(tools=[{"type": "function", "function": {"name": "f"}}]) is None
    assert question(response_format={"type": "json_object"}) is None
    assert question(n=2) is None
    assert plan(ask_for("hello"), CALLER, replace(POLICY, semantic=False), 0, "").question is None  # type: ignore[union-attr]
