"""/v1 as unmodified OpenAI clients see it, on real RabbitMQ and PostgreSQL."""

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import aiohttp
import openai
import orjson
import pytest

from kairos_contracts.permissions import Permission, Role
from kairos_testkit.fake_provider import Fault as Script

pytestmark = pytest.mark.servers

KEY = "key-of-a-developer"
USAGE = "llm.usage.recorded.v1"
HELLO = [{"role": "user", "content": "hello out there"}]


def client_of(service: Any, key: str = KEY, **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=service.v1, api_key=key, max_retries=0, **more)


async def post(service: Any, body: bytes, *, key: str | None = KEY, **headers: str) -> tuple[int, Any, Any]:
    if key:
        headers["Authorization"] = f"Bearer {key}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{service.v1}/chat/completions", data=body, headers=headers) as response,
    ):
        return response.status, await response.json(), response.headers


def request(**fields: Any) -> bytes:
    return orjson.dumps({"model": "default", "messages": HELLO, **fields})


async def test_an_openai_client_gets_an_answer_its_cost_and_a_usage_event(service_of: Any) -> None:
    async with service_of(limit=10**9) as service, client_of(service) as client:
        actor = service.keys.add(KEY)
        raw = await client.chat.completions.with_raw_response.create(
            model="default", messages=HELLO, max_tokens=9_999, extra_body={"vendor_field": [1]}
        )
        answer = raw.parse()
        assert answer.choices[0].message.content == "echo: hello out there"
        (booked,) = service.first.records
        cost = booked.input_tokens * 100 + booked.output_tokens * 400
        assert raw.headers["x-kairos-deployment"] == "first"
        assert raw.headers["x-kairos-cost-nano-usd"] == str(cost)
        assert "x-kairos-degraded" not in raw.headers
        (usage,) = await service.events.expect(USAGE)
        assert usage["completion_id"] == raw.headers["x-kairos-completion-id"]
        assert usage["attempt_id"] == booked.attempt_id
        assert usage["api_key_id"] == actor.id
        assert (usage["cost_nano_usd"], usage["outcome"], usage["streaming"]) == (cost, "settled", False)
        assert usage["lease_id"] == str(next(service.router.wallet.leases()).lease_id)
        assert usage["hold_nano_usd"] >= cost


async def test_a_stream_is_the_providers_own_without_the_usage_nobody_asked_for(service_of: Any) -> None:
    async with service_of(limit=10**9) as service, client_of(service) as client:
        service.keys.add(KEY)
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="default", messages=HELLO, stream=True
            )
        ]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "echo: hello out there"
        assert all(chunk.usage is None for chunk in chunks)
        with_usage = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="default", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        ]
        assert with_usage[-1].usage is not None
        first, second = await service.events.expect(USAGE, 2)
        (booked, _) = service.first.records
        assert first["cost_nano_usd"] == booked.input_tokens * 100 + booked.output_tokens * 400
        assert first["streaming"]
        assert first["time_to_first_token_ms"] is not None
        assert second["cost_nano_usd"] == first["cost_nano_usd"]


async def test_the_simulator_answers_without_any_provider(service_of: Any) -> None:
    async with service_of(limit=10**9) as service, client_of(service) as client:
        service.keys.add(KEY)
        answer = await client.chat.completions.create(model="simulator", messages=HELLO)
        assert answer.choices[0].message.content == "You said: hello out there"
        (usage,) = await service.events.expect(USAGE)
        assert usage["cost_nano_usd"] > 0


async def test_models_are_listed_and_found_by_name(service_of: Any) -> None:
    async with service_of() as service, client_of(service) as client:
        service.keys.add(KEY, Role.VIEWER)
        names = [model.id async for model in client.models.list()]
        assert names[:2] == ["default", "with-local"]
        assert (await client.models.retrieve("default")).id == "default"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("nobody")
        assert caught.value.code == "model_not_found"


async def test_every_refusal_is_openais_envelope(service_of: Any) -> None:
    async with service_of(limit=10**9, max_body=2_000) as service:
        service.keys.add(KEY)
        service.keys.add("viewer", Role.VIEWER)
        cases = [
            (400, "invalid_json", await post(service, b"{")),
            (400, "invalid_request", await post(service, b"[]")),
            (400, "invalid_request", await post(service, orjson.dumps({"messages": HELLO}))),
            (404, "model_not_found", await post(service, request(model="nobody"))),
            (401, "invalid_api_key", await post(service, request(), key=None)),
            (401, "invalid_api_key", await post(service, request(), key="wrong")),
            (403, "forbidden", await post(service, request(), key="viewer")),
            (413, "body_too_large", await post(service, request(user="x" * 2_000))),
        ]
        for status, code, (got, document, headers) in cases:
            assert (got, document["error"]["code"]) == (status, code)
            assert set(document["error"]) >= {"message", "type", "param", "code"}
            assert headers["x-request-id"]
            assert headers["x-kairos-completion-id"]
        assert service.first.records == []


async def test_a_header_of_ours_with_an_unknown_value_is_refused_and_told_the_known_ones(
    service_of: Any,
) -> None:
    wrong = {
        "x-kairos-cache": ("sometimes", "no-store, no-cache or only-if-cached"),
        "x-kairos-priority": ("urgent", "batch, normal or interactive"),
        "x-kairos-contact-id": ("somebody", "a UUID"),
    }
    async with service_of(limit=10**9) as service:
        service.keys.add(KEY)
        for name, (value, allowed) in wrong.items():
            status, body, _ = await post(service, request(), **{name: value})
            error = body["error"]
            assert (status, error["code"], error["param"]) == (400, "invalid_header", name)
            assert allowed in error["message"]
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
            session.post(
                f"{service.v1}/responses",
                json={"model": "default", "input": "hi"},
                headers={"x-kairos-cache": "only-if-cached"},
            ) as response,
        ):
            assert (response.status, (await response.json())["error"]["code"]) == (504, "not_cached")
        assert not service.first.records


async def test_a_wrong_address_or_method_below_v1_is_openais_envelope_too(service_of: Any) -> None:
    async with service_of() as service, aiohttp.ClientSession() as session:
        for method, path, status in (
            ("GET", "/nothing", 404),
            ("GET", "/chat/completions", 405),
            ("POST", "/models", 405),
        ):
            async with session.request(method, service.v1 + path) as response:
                assert response.status == status
                assert "code" in (await response.json())["error"]


async def test_a_denial_is_audited(service_of: Any) -> None:
    async with service_of() as service:
        service.keys.add("narrow", Role.ADMIN, scopes=frozenset({Permission.MODELS_READ}))
        denied = []

        async def note(*entry: Any) -> None:
            denied.append(entry)

        service.router.gate._audit_denial = note
        status, _, _ = await post(service, request(), key="narrow")
        assert status == 403
        ((context, permission, path, _),) = denied
        assert (context.actor.kind, permission, path) == (
            "api_key",
            "completions.create",
            "/v1/chat/completions",
        )


async def test_a_used_up_budget_is_402_with_a_decision_that_explains_it(
    service_of: Any, kit: SimpleNamespace
) -> None:
    async with service_of(limit=5) as service, client_of(service) as client:
        service.keys.add(KEY)
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="default", messages=HELLO)
        assert caught.value.status_code == 402
        assert caught.value.code == "budget_exceeded"
        assert caught.value.body["type"] == "insufficient_quota"  # type: ignore[index]
        decision_id = caught.value.response.headers["x-kairos-decision-id"]
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:

            async def found() -> Any:
                async with session.get(f"{service.url}/decisions/{decision_id}") as response:
                    return await response.json() if response.status == 200 else None

            decision = await kit.until(found)
        assert decision["code"] == "budget_exceeded"
        assert {step["deployment"] for step in decision["steps"]} == {"first", "second"}
        assert service.first.records == []


async def test_a_used_up_budget_goes_to_the_local_model_and_says_so(service_of: Any) -> None:
    async with service_of(limit=5) as service:
        service.keys.add(KEY)
        status, _, headers = await post(service, request(model="with-local"))
        assert status == 200
        assert headers["x-kairos-degraded"] == "budget.local"
        assert headers["x-kairos-cost-nano-usd"] == "0"


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (Script(status=429, retry_after=4, times=0), 429, "provider_rate_limited"),
        (Script(status=500, times=0), 502, "provider_error"),
        (Script(delay_ms=6_000, times=0), 504, "provider_timeout"),
        (Script(garbage=True, times=0), 502, "provider_error"),
        (Script(status=403, times=0), 502, "provider_misconfigured"),
        (Script(status=422, times=0), 422, "422"),
    ],
)
async def test_when_no_provider_answers_the_caller_is_told_which_way_it_failed(
    service_of: Any, script: Script, status: int, code: str
) -> None:
    async with service_of(limit=10**9, patience=2.5) as service:
        service.keys.add(KEY)
        service.first.fail(script)
        service.second.fail(script)
        got, document, headers = await post(service, request())
        assert (got, document["error"]["code"]) == (status, code)
        if status == 429:
            assert headers["retry-after"] == "4"


async def test_a_failing_provider_is_replaced_and_both_attempts_are_reported(service_of: Any) -> None:
    async with service_of(limit=10**9) as service:
        service.keys.add(KEY)
        service.first.fail(Script(drop=True))
        status, _, headers = await post(service, request())
        assert (status, headers["x-kairos-deployment"]) == (200, "second")
        events = await service.events.expect(USAGE, 2)
        assert {(event["deployment"], event["outcome"]) for event in events} == {
            ("first", "unknown"),
            ("second", "settled"),
        }


async def test_a_stream_that_breaks_off_tells_the_client(service_of: Any) -> None:
    async with service_of(limit=10**9) as service, client_of(service) as client:
        service.keys.add(KEY)
        service.first.fail(Script(cut_after_bytes=900))
        stream = await client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "a b c d e f g h"}], stream=True
        )
        with pytest.raises(openai.APIError) as caught:
            [chunk async for chunk in stream]
        assert caught.value.code == "provider_error"
        (usage,) = await service.events.expect(USAGE)
        assert usage["outcome"] == "unknown"


async def test_a_client_that_leaves_a_stream_stops_the_provider_and_pays_for_what_it_saw(
    service_of: Any, kit: SimpleNamespace
) -> None:
    async with service_of(limit=10**9) as service, client_of(service) as client:
        service.keys.add(KEY)
        words = " ".join(["word"] * 2_000)
        service.first.fail(Script(reply=words))
        stream = await client.chat.completions.create(model="default", messages=HELLO, stream=True)
        async for _ in stream:
            break
        await stream.close()
        (usage,) = await service.events.expect(USAGE)
        assert usage["outcome"] == "settled"
        assert 0 < usage["cost_nano_usd"] <= usage["hold_nano_usd"]
        await assert_nothing_held(service, kit)


async def assert_nothing_held(service: Any, kit: SimpleNamespace) -> None:
    async def free() -> bool:
        return all(lease.balance.held == 0 for lease in service.router.wallet.leases())

    await kit.until(free)


async def test_a_client_that_leaves_a_plain_request_leaves_its_hold_unknown(
    service_of: Any, kit: SimpleNamespace
) -> None:
    async with service_of(limit=10**9) as service:
        service.keys.add(KEY)
        service.first.fail(Script(delay_ms=900))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await post(service, request())
        (usage,) = await service.events.expect(USAGE)
        assert usage["outcome"] == "unknown"
        await assert_nothing_held(service, kit)


async def test_a_warm_request_awaits_nothing_but_its_provider(service_of: Any) -> None:
    async with service_of(limit=10**9) as service:
        service.keys.add(KEY)
        await post(service, request())
        resolved, calls = service.keys.resolved, service.budgets.calls.count("grant")
        for _ in range(5):
            assert (await post(service, request()))[0] == 200
        assert service.keys.resolved == resolved
        assert service.budgets.calls.count("grant") == calls


async def test_a_cold_key_is_resolved_once(service_of: Any) -> None:
    async with service_of(limit=10**9) as service:
        service.keys.add(KEY)
        service.keys.cold = True
        assert (await post(service, request()))[0] == 200
        assert service.keys.resolved == 1


async def test_when_usage_piles_up_new_requests_wait_and_none_is_lost(
    service_of: Any, kit: SimpleNamespace
) -> None:
    async with service_of(limit=10**9, usage_buffer=3) as service:
        service.keys.add(KEY)
        bus = service.router.bus
        publish, bus.publish_prepared = bus.publish_prepared, refuse
        statuses = [(await post(service, request()))[0] for _ in range(5)]
        assert statuses == [200, 200, 200, 503, 503]
        bus.publish_prepared = publish
        assert len({event["attempt_id"] for event in await service.events.expect(USAGE, 3)}) == 3
        await kit.until(lambda: not service.router.usage.full)
        assert (await post(service, request()))[0] == 200


async def refuse(*_: Any, **__: Any) -> None:
    raise ConnectionError("the broker is away")


async def test_without_budgets_in_reach_paid_models_are_503(service_of: Any) -> None:
    async with service_of(limit=10**9) as service:
        service.keys.add(KEY)
        service.budgets.away = True
        status, document, headers = await post(service, request())
        assert (status, document["error"]["code"], headers["retry-after"]) == (503, "budget_unavailable", "2")
        assert (await post(service, request(model="free")))[0] == 200


async def test_a_stopping_router_reports_everything_and_gives_the_money_back(service_of: Any) -> None:
    async with service_of(limit=10**9) as service:
        service.keys.add(KEY)
        _, _, headers = await post(service, request())
        budgets = service.budgets
    assert budgets.remaining() == 10**9 - int(headers["x-kairos-cost-nano-usd"])


async def test_the_management_api_shows_what_there_is_but_no_key(service_of: Any) -> None:
    async with service_of(limit=10**9) as service:
        service.keys.add(KEY)
        await post(service, request())
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:

            async def get(path: str) -> Any:
                async with session.get(service.url + path) as response:
                    assert response.status == 200, path
                    return await response.json()

            deployments = {each["name"]: each for each in (await get("/deployments"))["items"]}
            assert deployments["first"]["circuit"] == "closed"
            assert "api_key" not in deployments["first"]
            assert {each["name"] for each in (await get("/routes"))["items"]} == {"default", "with-local"}
            prices = {each["deployment"]: each for each in (await get("/prices"))["items"]}
            assert prices["first"]["input_nano_usd_per_million"] == 100_000_000
            (lease,) = (await get("/holds"))["leases"]
            assert lease["granted_nano_usd"] == lease["free_nano_usd"] + lease["settled_nano_usd"]
        async with aiohttp.ClientSession() as session, session.get(f"{service.url}/holds") as response:
            assert response.status == 401


async def test_another_tenant_sees_neither_holds_nor_decisions(service_of: Any) -> None:
    async with service_of(limit=5) as service:
        service.keys.add(KEY)
        service.keys.add("stranger", organisation_id=uuid4())
        _, _, headers = await post(service, request())
        decision_id = headers["x-kairos-decision-id"]
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer stranger"}) as session:
            async with session.get(f"{service.url}/holds") as response:
                assert (await response.json())["leases"] == []
            async with session.get(f"{service.url}/decisions/{decision_id}") as response:
                assert response.status == 404
