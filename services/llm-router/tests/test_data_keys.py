"""Providers' keys over a rotation of the data key, and what is said when a data key is wrong."""

import base64
import io
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from kairos_contracts.permissions import Role
from kairos_router.bootstrap import sealer_of
from kairos_router.settings import Settings
from kairos_sealing import UnusableKey
from kairos_telemetry import configure
from kairos_testkit.fake_provider import FakeProvider

OLD = base64.b64encode(b"the old data key".ljust(32)).decode()
NEW = base64.b64encode(b"the new data key".ljust(32)).decode()
KEY = "kairos_live_rotating"
PROVIDER_KEY = "sk-kept-since-long-4711"
NEWER_KEY = "sk-given-later-0815"


class Admin:
    """An administrator of one organisation at one running router."""

    def __init__(self, session: aiohttp.ClientSession, service: Any, provider: FakeProvider) -> None:
        self._session = session
        self._service = service
        self._provider = provider
        service.keys.add(KEY, role=Role.ADMIN)

    async def put(self, name: str, **fields: Any) -> Any:
        document = {
            "kind": "openai",
            "model": "model-of-mine",
            "base_url": self._provider.url,
            "price": {"input": 1, "output": 1},
            "context_window": 32_000,
            "max_output_tokens": 256,
        }
        url = f"{self._service.url}/deployments/{name}"
        async with self._session.put(url, json=document | fields) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def read(self, name: str) -> Any:
        async with self._session.get(f"{self._service.url}/deployments/{name}") as response:
            return await response.json()

    async def key_used_by(self, name: str) -> str | None:
        """The provider's key that a completion by this deployment was asked with; None when refused."""
        ask = {"model": name, "messages": [{"role": "user", "content": "hello"}]}
        async with self._session.post(f"{self._service.v1}/chat/completions", json=ask) as response:
            if response.status != 200:
                assert (await response.json())["error"]["code"] == "model_not_found"
                return None
        headers = {key.lower(): value for key, value in self._provider.requests[-1].headers.items()}
        return str(headers["authorization"]).removeprefix("Bearer ")


async def test_a_key_outlives_the_data_key_it_was_sealed_under(
    service_of: Any, provider: FakeProvider
) -> None:
    log = io.BytesIO()
    configure("llm-router", otlp_endpoint=None, log_stream=log)
    kept: dict[str, Any] = {"limit": 10**12, "private_providers": True}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        async with service_of(data_key=OLD, **kept) as service:
            admin = Admin(session, service, provider)
            under_old = (await admin.put("mine", api_key=PROVIDER_KEY))["key"]["sealed_under"]
            await admin.put("untouched", api_key=PROVIDER_KEY)
        async with service_of(data_key=NEW, previous_data_keys=[OLD], **kept) as service:
            admin = Admin(session, service, provider)
            assert await admin.key_used_by("mine") == PROVIDER_KEY
            assert (await admin.read("mine"))["key"]["sealed_under"] == under_old
            under_new = (await admin.put("later", api_key=NEWER_KEY))["key"]["sealed_under"]
            assert under_new != under_old
            # A change that does not mention the key takes it over, under the new data key.
            changed = await admin.put("mine", max_output_tokens=99)
            assert changed["key"] == {
                "source": "stored",
                "variable": None,
                "sealed_under": under_new,
                "problem": None,
            }
            assert await admin.key_used_by("mine") == PROVIDER_KEY
        async with service_of(data_key=NEW, **kept) as service:
            admin = Admin(session, service, provider)
            assert await admin.key_used_by("mine") == PROVIDER_KEY
            assert await admin.key_used_by("later") == NEWER_KEY
            # Nobody rotated this one: it is absent rather than asked without its key, and says why.
            asked = len(provider.requests)
            assert await admin.key_used_by("untouched") is None
            assert len(provider.requests) == asked
            lost = await admin.read("untouched")
            assert (lost["state"], lost["key"]["sealed_under"]) == (None, under_old)
            assert under_old in lost["key"]["problem"]
            again = await admin.put("untouched", api_key=NEWER_KEY)
            assert again["key"]["problem"] is None
            assert await admin.key_used_by("untouched") == NEWER_KEY
    said = log.getvalue().decode()
    assert under_old in said, "the log names the key that is missing"
    assert not [secret for secret in (OLD, NEW, PROVIDER_KEY, NEWER_KEY) if secret in said]


def settings(**more: Any) -> Settings:
    values = {
        "postgres_url": "postgresql://x",
        "amqp_url": "amqp://x",
        "redis_url": "redis://x",
        "auth_url": "http://x",
        "service_secret": "x",
        "budget_url": "http://x",
    }
    return Settings(**(values | more))


@pytest.mark.parametrize("wrong", ["c2hvcnQ=", "not base64: 4711", OLD[:-4]])
def test_a_data_key_that_is_none_stops_the_start_and_is_not_shown(wrong: str) -> None:
    for keys, which in (
        ({"data_key": wrong}, "the data key"),
        ({"data_key": NEW, "previous_data_keys": [OLD, wrong]}, "previous data key 2"),
    ):
        with pytest.raises(UnusableKey, match=f"{which} is not base64 of 32 bytes") as caught:
            sealer_of(settings(**keys))
        assert wrong not in str(caught.value)


def test_settings_that_are_wrong_are_named_and_their_values_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAIROS_ROUTER_PREVIOUS_DATA_KEYS", f'"{OLD}"')
    with pytest.raises(ValidationError, match="previous_data_keys") as caught:
        settings(data_key=NEW)
    assert OLD not in str(caught.value)
