"""Deployments, routes and prices changed at run time, and every router following."""

import base64
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import aiohttp
import orjson
import pytest
from pydantic import ValidationError

from kairos_contracts.permissions import Role
from kairos_router.entrypoints.management_deployments import DeploymentIn
from kairos_web.problems import findings

ADMIN = "kairos_live_admin"
DATA_KEY = base64.b64encode(bytes(range(32))).decode()
PROVIDER_KEY = "sk-provider-secret-7391"


def deployment(url: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": "openai",
        "model": "model-of-mine",
        "base_url": url,
        "price": {"input": 10, "output": 40},
        "context_window": 32_000,
        "max_output_tokens": 256,
        "capabilities": ["streaming", "tools", "json"],
    } | more


class Api:
    """One caller's management API of a running router."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def __call__(
        self, method: str, path: str, body: Any = None, *, data: bytes | None = None, **headers: str
    ) -> SimpleNamespace:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(
            method, self._url + path, json=body, data=data, headers=names
        ) as response:
            text = await response.text()
            document = orjson.loads(text) if text else None
            return SimpleNamespace(status=response.status, body=document, text=text, headers=response.headers)

    async def ask(self, model: str, **fields: Any) -> SimpleNamespace:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}
        return await self("POST", "/v1/chat/completions", body)


@contextlib.asynccontextmanager
async def calling(service: Any, key: str = ADMIN) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        yield Api(session, service.url)


def authorization(provider: Any) -> str | None:
    headers = {name.lower(): value for name, value in provider.requests[-1].headers.items()}
    return headers.get("authorization")


@pytest.fixture
def running(service_of: Any) -> Any:
    """A router where organisations may keep keys and name addresses of this machine."""

    @contextlib.asynccontextmanager
    async def start(*, organisation: Any = None, **more: Any) -> AsyncIterator[Any]:
        values = {"data_key": DATA_KEY, "private_providers": True, "limit": 10**12, **more}
        async with service_of(**values) as service:
            service.keys.add(ADMIN, role=Role.ADMIN, organisation_id=organisation or uuid4())
            yield service

    return start


async def test_an_own_deployment_answers_at_once_and_its_key_is_never_shown(running: Any) -> None:
    async with running() as service, calling(service) as api:
        made = await api("PUT", "/deployments/mine", deployment(service.first.url, api_key=PROVIDER_KEY))
        assert made.status == 200, made.text
        assert made.body["key"]["source"] == "stored"
        assert made.headers["ETag"] == '"1"'
        answer = await api.ask("mine")
        assert answer.headers["x-kairos-deployment"] == "mine"
        assert authorization(service.first) == f"Bearer {PROVIDER_KEY}"
        for path in ("/deployments", "/deployments/mine", "/prices", "/routes"):
            assert PROVIDER_KEY not in (await api("GET", path)).text
        async with service.router.database.system_unit_of_work() as unit:
            from sqlalchemy import text

            rows = await unit.session.execute(text("SELECT catalogue_entries::text FROM catalogue_entries"))
            kept = " ".join(row[0] for row in rows)
            audit = await unit.session.execute(text("SELECT body::text FROM outbox"))
            assert PROVIDER_KEY not in kept + " ".join(row[0] for row in audit)
            assert PROVIDER_KEY.encode().hex() not in kept


async def test_a_key_that_is_not_mentioned_stays_and_null_removes_it(running: Any) -> None:
    async with running() as service, calling(service) as api:
        await api("PUT", "/deployments/mine", deployment(service.first.url, api_key=PROVIDER_KEY))
        changed = await api("PUT", "/deployments/mine", deployment(service.first.url, max_output_tokens=99))
        assert changed.body["key"]["source"] == "stored"
        await api.ask("mine")
        assert authorization(service.first) == f"Bearer {PROVIDER_KEY}"
        gone = await api("PUT", "/deployments/mine", deployment(service.first.url, api_key=None))
        assert gone.body["key"]["source"] == "none"
        await api.ask("mine")
        assert not authorization(service.first)


async def test_a_change_on_one_router_is_followed_by_another_within_a_second(running: Any, kit: Any) -> None:
    organisation = uuid4()
    # The poll alone would take a minute: only the event can be this fast.
    async with (
        running(organisation=organisation, catalogue_poll_s=60) as one,
        running(organisation=organisation, catalogue_poll_s=60) as two,
        calling(one) as here,
        calling(two) as there,
    ):
        assert (await there.ask("mine")).status == 404
        await here("PUT", "/deployments/mine", deployment(one.first.url))
        started = datetime.now(UTC)

        async def known() -> bool:
            return (await there.ask("mine")).status == 200

        await kit.until(known, 10)
        assert (datetime.now(UTC) - started).total_seconds() < 1
        await here("PUT", "/deployments/mine", deployment(one.second.url))
        await kit.until(lambda: _base(two, organisation) == one.second.url, 10)
        await here("DELETE", "/deployments/mine")

        async def forgotten() -> bool:
            return (await there.ask("mine")).status == 404

        await kit.until(forgotten, 10)


def _base(service: Any, organisation: Any) -> str:
    found = service.router.catalogue.current(organisation).deployments.get("mine")
    return found.base_url if found is not None else ""


async def test_without_the_event_the_poll_finds_the_change(running: Any, kit: Any) -> None:
    organisation = uuid4()
    async with (
        running(organisation=organisation) as one,
        running(organisation=organisation, catalogue_poll_s=0.3) as two,
        calling(one) as here,
    ):
        two.router.catalogue.changed = lambda: None
        await here("PUT", "/deployments/mine", deployment(one.first.url))
        await kit.until(lambda: _base(two, organisation) == one.first.url, 10)


async def test_another_organisation_neither_sees_nor_uses_it(running: Any) -> None:
    async with running() as service, calling(service) as api:
        service.keys.add("stranger", role=Role.ADMIN, organisation_id=uuid4())
        await api("PUT", "/deployments/mine", deployment(service.first.url))
        async with calling(service, "stranger") as other:
            assert (await other("GET", "/deployments/mine")).status == 404
            assert (await other("DELETE", "/deployments/mine")).status == 404
            names = [each["name"] for each in (await other("GET", "/deployments")).body["items"]]
            assert "mine" not in names
            assert "first" in names
            assert (await other.ask("mine")).status == 404


async def test_an_own_name_covers_a_shared_one_until_it_is_removed(running: Any) -> None:
    async with running() as service, calling(service) as api:
        shared = await api("GET", "/deployments/first")
        assert (shared.body["shared"], shared.body["document"], shared.headers["ETag"]) == (True, None, '"0"')
        made = await api("PUT", "/deployments/first", deployment(service.second.url), If_Match='"0"')
        assert made.status == 200
        # The shared route names it, and gets the organisation's own.
        await api.ask("default")
        assert len(service.second.records) == 1
        assert (await api("DELETE", "/deployments/first")).status == 204
        await api.ask("default")
        assert len(service.first.records) == 1


async def test_two_people_who_edit_at_once_are_told(running: Any) -> None:
    async with running() as service, calling(service) as api:
        body = deployment(service.first.url)
        await api("PUT", "/deployments/mine", body, If_None_Match="*")
        again = await api("PUT", "/deployments/mine", body, If_None_Match="*")
        assert (again.status, again.body["code"]) == (412, "version_conflict")
        assert (await api("PUT", "/deployments/mine", body, If_Match='"1"')).headers["ETag"] == '"2"'
        late = await api("PUT", "/deployments/mine", body, If_Match='"1"')
        assert (late.status, late.body["current_version"]) == (412, 2)
        assert (await api("DELETE", "/deployments/mine", If_Match='"1"')).status == 412
        assert late.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"base_url": "file:///etc/passwd"}, "invalid_address"),
        ({"base_url": "http://169.254.169.254/latest"}, "private_address"),
        ({"base_url": "http://budget-analytics:5052"}, "private_address"),
        ({"base_url": "http://0x7f000001/"}, "private_address"),
        (
            {"base_url": "https://example.com", "api_key_env": "KAIROS_ROUTER_DATA_KEY"},
            "variable_not_allowed",
        ),
        ({"base_url": "https://example.com", "headers": {"Authorization": "Bearer x"}}, "secret_in_header"),
        ({"kind": "litellm", "base_url": "", "model": "bedrock/claude"}, "needs_own_key"),
        ({"kind": "litellm", "base_url": "", "model": "gemini/flash"}, "needs_own_key"),
        ({"unknown": 1}, "invalid_request"),
        ({"price": {"input": -1, "output": 0}}, "invalid_request"),
    ],
)
async def test_what_an_organisation_may_not_say_is_refused(
    running: Any, change: dict[str, Any], code: str
) -> None:
    async with running(private_providers=False) as service, calling(service) as api:
        refused = await api("PUT", "/deployments/mine", deployment("https://example.com") | change)
        assert (refused.status, refused.body["code"]) == (422, code)
        assert (await api("GET", "/deployments/mine")).status == 404


async def test_variables_are_never_put_into_what_an_organisation_writes(running: Any) -> None:
    async with running() as service, calling(service) as api:
        made = await api(
            "PUT", "/deployments/mine", deployment("http://example.com/${HOME}", model="${HOME}")
        )
        assert made.status == 200
        own = next(iter(service.router.catalogue._own.values())).deployments["mine"]
        assert (own.model, own.base_url) == ("${HOME}", "http://example.com/${HOME}")


async def test_a_route_needs_deployments_that_are_there_and_is_followed(running: Any) -> None:
    async with running() as service, calling(service) as api:
        missing = await api("PUT", "/routes/fast", {"deployments": ["nobody"]})
        assert (missing.status, missing.body["unknown"]) == (422, ["nobody"])
        targets = [{"name": "second", "weight": 3}, {"name": "first", "canary": 0}]
        made = await api("PUT", "/routes/fast", {"deployments": targets, "policy": "weighted"})
        assert made.status == 200, made.text
        assert made.body["state"]["weights"] == {"second": 3, "first": 1}
        answer = await api.ask("fast")
        assert answer.headers["x-kairos-deployment"] == "second"
        assert "fast" in {each["name"] for each in (await api("GET", "/routes")).body["items"]}
        assert (await api("DELETE", "/routes/fast")).status == 204
        assert (await api.ask("fast")).status == 404


async def test_only_those_who_may_write_models_change_the_catalogue(running: Any) -> None:
    async with running() as service:
        service.keys.add("developer", role=Role.DEVELOPER)
        async with calling(service, "developer") as api:
            for path, body in (
                ("/deployments/mine", deployment(service.first.url)),
                ("/routes/mine", {"deployments": ["first"]}),
                ("/prices/mine", {"input": 1, "output": 1}),
            ):
                assert (await api("PUT", path, body)).status == 403
                assert (await api("DELETE", path)).status == 403
            assert (await api("POST", "/prices/import")).status == 403
            assert (await api("GET", "/deployments")).status == 200


async def test_a_deployment_without_a_price_is_refused_under_a_budget_and_runs_without_one(
    running: Any,
) -> None:
    body = {name: value for name, value in deployment("").items() if name != "price"}
    async with running() as service, calling(service) as api:
        body["base_url"] = service.first.url
        await api("PUT", "/deployments/mine", body)
        (price,) = [
            each for each in (await api("GET", "/prices")).body["items"] if each["deployment"] == "mine"
        ]
        assert (price["known"], price["version"]) == (False, "unpriced")
        refused = await api.ask("mine")
        assert refused.status == 402
        decision = await _decision(api, refused)
        assert decision["steps"][0]["reason"] == "no_price"
        assert "price" in decision["what_to_do"][0]
        # A price by the model's name is found by it.
        await api("PUT", "/prices/model-of-mine", {"input": 1, "output": 2})
        assert (await api.ask("mine")).status == 200
    async with running(limit=None) as service, calling(service) as api:
        body["base_url"] = service.first.url
        await api("PUT", "/deployments/mine", body)
        assert (await api.ask("mine")).status == 200


async def test_a_price_nobody_has_is_refused_and_the_nearest_names_are_told(running: Any) -> None:
    async with running() as service, calling(service) as api:
        body = deployment(service.first.url, price="gpt-4oo-mini")
        refused = await api("PUT", "/deployments/mine", body)
        assert (refused.status, refused.body["code"]) == (422, "unknown_price")
        assert "gpt-4o-mini" in refused.body["near"]
        assert "gpt-4o-mini" in refused.body["detail"]
        assert refused.body["errors"][0]["at"] == "body/price"
        assert (await api("GET", "/deployments/mine")).status == 404
        assert (await api("PUT", "/deployments/mine", body | {"price": "gpt-4o-mini"})).status == 200


@pytest.mark.parametrize(
    ("price", "at"),
    [
        ({"input": -1, "output": 1}, "body/price/input"),
        ({"input": 1}, "body/price/output"),
        ({"input": 1, "output": 1, "outptu": 1}, "body/price/outptu"),
        ({"input": 1, "output": 1, "long_context": [{"above": 0}]}, "body/price/long_context/0/above"),
        ({"input": 1, "output": 1, "services": {"fast": {}}}, "body/price/services/fast"),
        ({"input": 1, "output": 1, "long_context": [{"above": 9}, {"above": 9}]}, "body/price"),
        ("two words", "body/price"),
        (5, "body/price"),
    ],
)
def test_a_wrong_price_is_told_where_it_was_written(price: Any, at: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DeploymentIn.model_validate(deployment("http://a", price=price))
    (found,) = findings(
        [error | {"loc": ("body", *error["loc"])} for error in caught.value.errors()],
        {"body": deployment("http://a", price=price)},
    )
    assert found["at"] == at
    assert found["problem"]


async def _decision(api: Api, refused: SimpleNamespace) -> Any:
    decision_id = refused.headers["x-kairos-decision-id"]

    async def written() -> Any:
        found = await api("GET", f"/decisions/{decision_id}")
        return found.body if found.status == 200 else None

    for _ in range(200):
        found = await written()
        if found:
            return found
    raise AssertionError("the decision was not written")


async def test_a_price_has_versions_and_usage_names_the_one_it_was_charged_by(running: Any) -> None:
    async with running() as service, calling(service) as api:
        first = await api("PUT", "/prices/my/model", {"input": "37.5", "output": 150, "cached_input": 9})
        assert first.status == 200, first.text
        await api("PUT", "/deployments/mine", deployment(service.first.url, price="my/model"))
        await api.ask("mine")
        second = await api("PUT", "/prices/my/model", {"input": 40, "output": 150}, If_Match='"1"')
        assert second.body["version"] != first.body["version"]
        await api.ask("mine")
        versions = (await api("GET", "/prices/my/model/versions")).body
        assert [each["version"] for each in versions] == [second.body["version"], first.body["version"]]
        assert versions[1]["price"] == {"input": "37.5", "output": 150, "cached_input": 9}
        assert (await api("DELETE", "/prices/my/model")).status == 204
        assert (await api("GET", "/prices/my/model")).status == 404
        assert len((await api("GET", "/prices/my/model/versions")).body) == 2


PRICES = {
    "one-model": {
        "mode": "chat",
        "litellm_provider": "x",
        "input_cost_per_token": 1.25e-06,
        "output_cost_per_token": 1e-05,
        "cache_read_input_token_cost": 1.25e-07,
        "input_cost_per_token_above_200k_tokens": 2.5e-06,
        "output_cost_per_token_above_200k_tokens": 1.5e-05,
        "input_cost_per_token_batches": 6.25e-07,
        "output_cost_per_token_batches": 5e-06,
    },
    "a-picture": {"mode": "image_generation", "output_cost_per_image": 0.04},
}


async def test_an_import_shows_first_what_it_would_change_and_then_prices_deployments(running: Any) -> None:
    async with running() as service, calling(service) as api:
        mine = deployment(service.first.url, price="one-model")
        refused = await api("PUT", "/deployments/mine", mine)
        assert (refused.status, refused.body["code"]) == (422, "unknown_price")
        dry = await api("POST", "/prices/import?dry_run=true", PRICES)
        assert dry.status == 200, dry.text
        assert (dry.body["imported"], dry.body["added"], dry.body["models"]) == (False, 1, 1)
        assert dry.body["removed"] > 1_000
        assert (await api("GET", "/prices/one-model")).status == 404
        done = await api("POST", "/prices/import", PRICES)
        assert (done.body["imported"], done.body["version"]) == (True, dry.body["version"])
        price = (await api("GET", "/prices/one-model")).body
        assert price["version"] == done.body["version"]
        assert price["price"]["long_context"] == [{"above": 200_000, "input": 2_500, "output": 15_000}]
        again = await api("POST", "/prices/import", PRICES)
        assert (again.body["imported"], again.body["changed"]) == (False, 0)
        await api("PUT", "/deployments/mine", mine)
        assert (await api.ask("mine")).status == 200
        bad = await api("POST", "/prices/import", {"x": {"mode": "chat"}})
        assert (bad.status, bad.body["code"]) == (422, "invalid_price_map")


async def test_the_price_book_that_came_with_the_release_serves_everybody(running: Any) -> None:
    async with running() as service, calling(service) as api:
        price = (await api("GET", "/prices/gpt-4o-mini")).body
        assert (price["shared"], price["price"]["input"], price["price"]["output"]) == (True, 150, 600)
        (version,) = (await api("GET", "/prices/gpt-4o-mini/versions")).body
        assert (version["source"], version["price"]["input"]) == ("vendored", 150)


async def test_scores_are_learned_and_shown(running: Any, kit: Any) -> None:
    async with running(catalogue_poll_s=0.2) as service, calling(service) as api:
        for score in (1.0, 0.5):
            learned = await api("POST", "/deployments/first/scores", {"score": score})
        assert (learned.body["quality"], learned.body["samples"]) == (0.75, 2)
        assert (await api("POST", "/deployments/first/scores", {"score": 1.1})).status == 422
        assert (await api("POST", "/deployments/nobody/scores", {"score": 1})).status == 404

        async def shown() -> bool:
            items = (await api("GET", "/deployments")).body["items"]
            return any(each["name"] == "first" and each["quality"] == 0.75 for each in items)

        await kit.until(shown, 10)


async def test_lists_come_in_pages(running: Any) -> None:
    async with running() as service, calling(service) as api:
        first = (await api("GET", "/deployments?limit=2")).body
        rest = (await api("GET", f"/deployments?cursor={first['next_cursor']}")).body
        names = [each["name"] for each in first["items"] + rest["items"]]
        assert names == sorted(names) == ["first", "free", "second", "simulator"]
        assert (await api("GET", "/deployments?cursor=nonsense")).status == 400


async def test_every_refusal_of_a_budget_can_be_listed_and_says_why_in_words(running: Any) -> None:
    async with running(limit=5) as service, calling(service) as api:
        refused = [await api.ask("default") for _ in range(3)]
        assert {each.status for each in refused} == {402}
        for each in refused:
            await _decision(api, each)
        page = (await api("GET", "/decisions?limit=2&code=budget_exceeded")).body
        rest = (await api("GET", f"/decisions?limit=2&cursor={page['next_cursor']}")).body
        found = page["items"] + rest["items"]
        assert {each["decision_id"] for each in found} == {
            each.headers["x-kairos-decision-id"] for each in refused
        }
        says = found[0]["steps"][0]["says"]
        assert "0.000000005 USD of 0.000000005 USD left" in says
        assert any("Raise the budget" in advice for advice in found[0]["what_to_do"])
        assert (await api("GET", "/decisions?model=other")).body["items"] == []
