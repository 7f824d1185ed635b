"""Where deployments of organisations may lead, and that nothing they say leads elsewhere."""

import ipaddress
import json
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from kairos_contracts.permissions import Role
from kairos_router.adapters.assembly import assemble
from kairos_router.adapters.guarded_names import GuardedNames
from kairos_router.adapters.http_answer import HttpFailed
from kairos_router.adapters.litellm_request import connection
from kairos_router.adapters.openai_upstream import OpenAIUpstream
from kairos_router.application.catalogue_documents import DeploymentDocument, Entry
from kairos_router.application.catalogue_store import Surroundings
from kairos_router.application.guard_address import InvalidAddress, Reach, origin
from kairos_router.application.ports import Fault, ProviderCall, ProviderFailed
from kairos_router.application.price_book import PriceBook
from kairos_router.domain.catalogue import Catalogue, Deployment, Dialect
from kairos_router.domain.vertex import TOKEN_URI
from kairos_router.entrypoints.deployment_rules import check, check_key
from kairos_testkit.fake_provider import FakeProvider
from kairos_web import Problem

KEY = "sk-provider-secret-5512"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_a_network_inside_is_reached_only_when_it_is_allowed(address: str) -> None:
    found = ipaddress.ip_address(address)
    assert not Reach().allows(found)
    assert Reach(private=True).allows(found)
    inside = ("127.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "::1/128", "fd00::/8")
    allowed = Reach(networks=tuple(ipaddress.ip_network(each) for each in inside))
    assert allowed.allows(found)
    assert not allowed.allows(ipaddress.ip_address("192.168.7.7"))


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fe80::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "0.0.0.0",  # noqa: S104 - nobody listens here
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ],
)
def test_metadata_and_addresses_of_no_single_server_are_never_reached(address: str) -> None:
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    assert not Reach(private=True, networks=everything).allows(ipaddress.ip_address(address))


def test_the_internet_is_reached() -> None:
    assert Reach().allows(ipaddress.ip_address("8.8.8.8"))
    assert Reach().allows(ipaddress.ip_address("2606:4700::1111"))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com",
        "http://user:word@example.com",
        "http://example.com\\@127.0.0.1/",
        "http://example.com /v1",
        "http://example.com?x=1",
        "http://example.com/#x",
        "http://example.com:99999",
        "http://example.com:0",
        "http://\u2460.example.com",
        "http://",
        "example.com",
    ],
)
def test_an_address_that_two_readers_may_take_differently_is_none(url: str) -> None:
    with pytest.raises(InvalidAddress):
        origin(url)


async def test_a_name_that_leads_inside_is_not_connected_to(
    provider: FakeProvider, kit: SimpleNamespace
) -> None:
    port = provider.url.rpartition(":")[2].partition("/")[0]
    own = kit.deployment("mine", base_url=f"http://localhost:{port}", owner=uuid4())
    upstream = OpenAIUpstream()
    call = ProviderCall(own, {"messages": []}, 10, uuid4())
    with pytest.raises(ProviderFailed) as refused:
        await upstream.complete(call)
    assert refused.value.fault is Fault.UNREACHABLE
    assert not refused.value.may_have_run
    assert not provider.requests
    await upstream.close()


async def test_what_is_connected_to_is_the_address_that_was_checked() -> None:
    names = GuardedNames(Reach(networks=(*LOOPBACK, ipaddress.ip_network("::1/128"))))
    found = await names("localhost", 1)
    assert found
    assert all(ipaddress.ip_address(each).is_loopback for each in found)


async def test_servers_of_the_suite_are_refused_by_whatever_name() -> None:
    reach = Reach(private=True, own=frozenset({("localhost", 5432)}))
    assert not reach.may_be_named("localhost", 5432)
    with pytest.raises(HttpFailed):
        await GuardedNames(reach)("127.0.0.1", 5432)
    assert await GuardedNames(reach)("127.0.0.1", 5433) == ["127.0.0.1"]


async def test_deployments_of_the_file_lead_wherever_it_says(
    provider: FakeProvider, kit: SimpleNamespace
) -> None:
    upstream = OpenAIUpstream()
    shared = kit.deployment("shared", base_url=provider.url)
    await upstream.complete(ProviderCall(shared, kit.ask().payload, 10, uuid4()))
    assert len(provider.requests) == 1
    await upstream.close()


@pytest.mark.parametrize(
    "dialect",
    [
        Dialect(headers=(("Transfer-Encoding", "chunked"),)),
        Dialect(headers=(("content-length", "1"),)),
        Dialect(headers=(("X y", "1"),)),
        Dialect(headers=(("X:y", "1"),)),
        Dialect(headers=(("X-Text", "\u20ac"),)),
        Dialect(headers=(("X-Text", "a\r\nHost: b"),)),
        Dialect(path="/a HTTP/1.1 /{operation}"),
        Dialect(path="/\u20ac"),
    ],
)
async def test_a_deployment_can_not_frame_requests(
    dialect: Dialect, provider: FakeProvider, kit: SimpleNamespace
) -> None:
    upstream = OpenAIUpstream()
    bad = kit.deployment("bad", base_url=provider.url, dialect=dialect)
    with pytest.raises(ProviderFailed) as refused:
        await upstream.complete(ProviderCall(bad, {"messages": []}, 10, uuid4()))
    assert refused.value.fault is Fault.MISCONFIGURED
    assert not provider.requests
    await upstream.close()


@pytest.mark.parametrize(
    "more",
    [
        {"provider": "vertex_ai", "model": "anthropic/claude"},
        {"provider": "bedrock", "model": "anthropic/claude"},
        {"provider": "anthropic", "base_url": "https://example.com"},
    ],
)
def test_the_sdk_finds_no_credentials_of_ours_for_an_organisation(
    more: dict[str, str], kit: SimpleNamespace
) -> None:
    own: Deployment = kit.deployment("mine", kind="litellm", api_key="anything", owner=uuid4(), **more)
    with pytest.raises(ProviderFailed) as refused:
        connection(own)
    assert refused.value.fault is Fault.MISCONFIGURED


@pytest.mark.parametrize(
    ("url", "lent"), [("https://api.example.com/v2", True), ("https://evil.example", False)]
)
def test_a_key_of_ours_is_lent_only_to_where_it_goes_anyway(url: str, lent: bool) -> None:
    document = {
        "kind": "openai",
        "model": "m",
        "api_key_env": "OUR_KEY",
        "context_window": 10,
        "max_output_tokens": 10,
    }
    owner = uuid4()
    rows = [
        Entry(None, "deployment", "shared", {**document, "base_url": "https://api.example.com/v1"}),
        Entry(owner, "deployment", "mine", {**document, "base_url": url}),
    ]
    surroundings = Surroundings({"OUR_KEY": KEY}, frozenset({"OUR_KEY"}))
    own = assemble(rows, PriceBook({}, {}), surroundings).own[owner].deployments
    assert ("mine" in own) is lent


def body(url: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": "openai",
        "model": "m",
        "base_url": url,
        "price": {"input": 10, "output": 40},
        "context_window": 32_000,
        "max_output_tokens": 256,
    } | more


ACCOUNT = {
    "type": "service_account",
    "client_email": "router@mine.iam.gserviceaccount.com",
    "private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "project_id": "mine",
    "token_uri": TOKEN_URI,
}


def at_vertex(key: str, **more: Any) -> dict[str, Any]:
    place = {"vertex_location": "europe-west4"}
    given = {"provider": "vertex_ai", "model": "gemini-2.5-flash", "options": place, "api_key": key}
    return body("", kind="litellm", **(given | more))


def check_given(document: dict[str, Any]) -> None:
    """What a PUT checks of a deployment and of its key. Raises Problem."""
    said = DeploymentDocument.model_validate({k: v for k, v in document.items() if k != "api_key"})
    check(said, Reach(), Surroundings(), Catalogue({}, {}), has_key=True)
    check_key(said, document["api_key"])


@pytest.fixture
def put(service_of: Any) -> Any:
    """Put the deployment `mine` on a router as an organisation's admin."""

    async def send(service: Any, document: dict[str, Any]) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession(headers={"Authorization": "Bearer admin"}) as session,
            session.put(f"{service.url}/deployments/mine", json=document) as response,
        ):
            told = await response.json()
            return response.status, str(told.get("code", ""))

    return send


def keeping(service_of: Any, **more: Any) -> AbstractAsyncContextManager[Any]:
    values: dict[str, Any] = {"data_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "limit": 10**12}
    return service_of(**{**values, "private_providers": True, **more})  # type: ignore[no-any-return]


async def test_a_kept_key_can_not_be_read_by_moving_its_deployment(service_of: Any, put: Any) -> None:
    async with keeping(service_of) as service:
        service.keys.add("admin", role=Role.ADMIN)
        first, second = service.first.url, service.second.url
        assert (await put(service, body(first, api_key=KEY)))[0] == 200
        assert await put(service, body(second)) == (422, "key_needed_again")
        assert (await put(service, body(second, api_key=None)))[0] == 200
        assert not service.second.requests


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (body("http://169.254.169.254/latest"), "private_address"),
        (body("http://[::ffff:169.254.169.254]/latest"), "private_address"),
        (body("http://user:word@example.com"), "invalid_address"),
        (body("https://example.com", path="/a b"), "invalid_address"),
        (body("https://example.com", headers={"Host": "elsewhere"}), "invalid_header"),
        (body("https://example.com", headers={"X-Auth-Token": "x"}), "secret_in_header"),
        (body("https://example.com", query={"api_key": "x"}), "secret_in_query"),
        (body("https://example.com", headers={"Transfer-Encoding": "chunked"}), "invalid_header"),
        (body("", kind="litellm", provider="vertex_ai", model="gemini/x", api_key=KEY), "needs_own_key"),
        (body("https://e.com", kind="litellm", provider="anthropic", api_key=KEY), "invalid_address"),
    ],
)
async def test_an_admin_is_told_what_a_deployment_can_not_say(
    service_of: Any, put: Any, document: dict[str, Any], code: str
) -> None:
    async with keeping(service_of) as service:
        service.keys.add("admin", role=Role.ADMIN)
        assert await put(service, document) == (422, code)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (at_vertex(KEY), "needs_own_key"),
        (at_vertex(json.dumps(ACCOUNT | {"token_uri": "http://169.254.169.254/token"})), "needs_own_key"),
        (at_vertex(json.dumps(ACCOUNT | {"type": "external_account"})), "needs_own_key"),
        (at_vertex(json.dumps(ACCOUNT), options={"vertex_location": "evil.example.com/"}), "invalid_option"),
        (at_vertex(json.dumps(ACCOUNT), options={"vertex_credentials": "{}"}), "invalid_option"),
        (at_vertex(json.dumps(ACCOUNT), base_url="http://127.0.0.1:1"), "invalid_address"),
    ],
)
def test_an_admin_is_told_what_a_deployment_at_vertex_can_not_say(
    document: dict[str, Any], code: str
) -> None:
    with pytest.raises(Problem) as refused:
        check_given(document)
    assert (refused.value.status, refused.value.code) == (422, code)
    assert "AAAA" not in f"{refused.value.title} {refused.value.detail}"


def test_an_admin_may_bring_a_service_account_of_google() -> None:
    check_given(at_vertex(json.dumps(ACCOUNT)))
    check_given(at_vertex(json.dumps(ACCOUNT), options={"vertex_location": "eu", "vertex_project": "other"}))


async def test_the_servers_of_the_router_itself_can_not_be_named(service_of: Any, put: Any) -> None:
    async with keeping(service_of) as service:
        service.keys.add("admin", role=Role.ADMIN)
        assert await put(service, body(service.router.settings.budget_url)) == (422, "private_address")
