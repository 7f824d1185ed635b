"""kairos.toml's deployments of every kind, and how requests look at providers that depart from OpenAI."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import orjson
import pytest

from kairos_router.adapters.local_embeddings import LocalEmbeddings
from kairos_router.adapters.minilm import MiniLM
from kairos_router.adapters.openai_upstream import OpenAIUpstream
from kairos_router.adapters.operations import WIRES, address, encode, fixed_headers
from kairos_router.adapters.simulator import Simulator
from kairos_router.adapters.toml_catalogue import load_catalogue
from kairos_router.application.embed_text import EmbedderAbsent
from kairos_router.application.ports import Fault, ProviderCall, ProviderFailed
from kairos_router.domain.catalogue import Catalogue, Deployment, Dialect
from kairos_router.domain.pricing import Usage
from kairos_testkit.fake_provider import FakeProvider

ROOT = Path(__file__).parents[3]
KEYS = {
    "AZURE_OPENAI_DEPLOYMENT": "our gpt",
    "AZURE_OPENAI_ENDPOINT": "https://us.example",
    "AZURE_OPENAI_API_KEY": "azure-key",
    "ANTHROPIC_API_KEY": "claude-key",
    "GEMINI_API_KEY": "gemini-key",
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(ROOT / "kairos.toml", KEYS)


def chat(deployment: Deployment, **more: Any) -> ProviderCall:
    payload = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **more}
    return ProviderCall(deployment, payload, 20, uuid4())


def embed(deployment: Deployment, **payload: Any) -> ProviderCall:
    return ProviderCall(deployment, {"model": "m", **payload}, 0, uuid4(), operation="embeddings")


def test_azure_has_its_own_path_query_and_header(catalogue: Catalogue) -> None:
    azure = catalogue.deployments["azure"]
    base = "https://us.example/openai/deployments/our%20gpt"
    assert address(azure, "chat") == f"{base}/chat/completions?api-version=2024-10-21"
    assert address(azure, "embeddings") == f"{base}/embeddings?api-version=2024-10-21"
    headers = fixed_headers(azure)
    assert headers["api-key"] == "azure-key"
    assert "Authorization" not in headers


async def test_azure_answers_a_passthrough_with_all_that_it_asks_for(kit: SimpleNamespace) -> None:
    with FakeProvider() as provider:
        azure = kit.deployment(
            "azure",
            base_url=provider.base_url,
            model="ours",
            api_key="azure-key",
            dialect=Dialect(
                path="/openai/deployments/{model}/{operation}",
                query=(("api-version", "2024-10-21"),),
                auth="api-key",
            ),
        )
        upstream = OpenAIUpstream()
        reply = await upstream.complete(chat(azure))
        await upstream.complete(embed(azure, input="x"))
        await upstream.close()
    assert reply.document["choices"][0]["message"]["content"] == "echo: hello"
    assert [request.path.partition("?")[0] for request in provider.requests] == [
        "/openai/deployments/ours/chat/completions",
        "/openai/deployments/ours/embeddings",
    ]


def test_headers_and_the_manner_of_the_key_are_the_deployments(kit: SimpleNamespace) -> None:
    dialect = Dialect(headers=(("HTTP-Referer", "https://kairos.example"), ("X-Title", "Kairos")))
    headers = fixed_headers(kit.deployment("openrouter", api_key="k", dialect=dialect))
    assert (headers["X-Title"], headers["Authorization"]) == ("Kairos", "Bearer k")
    none = fixed_headers(kit.deployment("vllm", api_key="k", dialect=Dialect(auth="none")))
    assert not {"Authorization", "api-key"} & none.keys()


def test_a_field_the_provider_refuses_is_left_out_and_all_else_is_untouched(kit: SimpleNamespace) -> None:
    mistral = kit.deployment("mistral", dialect=Dialect(strip=frozenset({"stream_options", "logit_bias"})))
    call = chat(mistral, logit_bias={"1": 2}, safe_prompt=True, nested={"a": [1, None]})
    body = orjson.loads(encode(call, stream=True))
    assert not {"stream_options", "logit_bias"} & body.keys()
    assert (body["safe_prompt"], body["nested"]) == (True, {"a": [1, None]})


def test_no_header_and_no_option_of_a_deployment_is_shown(kit: SimpleNamespace) -> None:
    dialect = Dialect(headers=(("x-key", "hidden-1"),), options=(("aws_secret_access_key", "hidden-2"),))
    assert "hidden" not in repr(kit.deployment("one", dialect=dialect))


def test_providers_with_apis_of_their_own_are_present_with_their_keys(catalogue: Catalogue) -> None:
    assert {catalogue.deployments[name].kind for name in ("claude", "gemini")} == {"litellm"}
    assert "claude-key" not in repr(catalogue)
    without = load_catalogue(ROOT / "kairos.toml", {})
    assert not {"azure", "claude", "gemini", "openai-embedding"} & without.deployments.keys()


def test_a_route_for_embeddings_names_one_model_only(catalogue: Catalogue) -> None:
    models = {each.model for each in catalogue.candidates("embedding")}
    assert len(models) == 1
    assert all("embeddings" in each.capabilities for each in catalogue.candidates("embedding"))


async def test_the_local_model_embeds_and_counts_what_it_reads(kit: SimpleNamespace) -> None:
    embedder = MiniLM()
    deployment = kit.deployment("local-embedding", kind="local", model="all-minilm-l6-v2", price=(0, 0))
    local = LocalEmbeddings(embedder)
    reply = await local.complete(embed(deployment, input=["a cat sat", "a kitten sat", "stock market"]))
    near, far = (
        sum(a * b for a, b in zip(reply.document["data"][0]["embedding"], other["embedding"], strict=True))
        for other in reply.document["data"][1:]
    )
    assert near > far + 0.3
    assert reply.usage is not None
    assert reply.usage.input_tokens == reply.document["usage"]["prompt_tokens"] > 6
    packed = await local.complete(embed(deployment, input="a cat sat", encoding_format="base64"))
    assert isinstance(packed.document["data"][0]["embedding"], str)
    embedder.close()


class NoWeights:
    """An embedder whose weights are missing."""

    name, dimensions = "none", 384

    async def embed(self, texts: Any) -> list[list[float]]:
        raise EmbedderAbsent("missing")

    async def count(self, texts: Any) -> list[int]:
        raise EmbedderAbsent("missing")


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        ({"input": [[1, 2, 3]]}, Fault.INVALID_REQUEST),
        ({"input": "x", "dimensions": 5}, Fault.INVALID_REQUEST),
        ({"input": "x"}, Fault.MISCONFIGURED),
    ],
)
async def test_what_a_local_model_can_not_do_is_said(
    kit: SimpleNamespace, payload: dict[str, Any], fault: Fault
) -> None:
    deployment = kit.deployment("local-embedding", kind="local", price=(0, 0))
    with pytest.raises(ProviderFailed) as caught:
        await LocalEmbeddings(NoWeights()).complete(embed(deployment, **payload))
    assert caught.value.fault is fault
    assert not caught.value.may_have_run


async def test_the_simulators_embeddings_are_the_same_every_time_and_alike_for_like_texts(
    kit: SimpleNamespace,
) -> None:
    deployment = kit.deployment("simulator", kind="simulator")
    first = await Simulator().complete(embed(deployment, input=["red fish", "red boat", "tall tree"]))
    again = await Simulator().complete(embed(deployment, input=["red fish", "red boat", "tall tree"]))
    assert first.body == again.body
    one, two, three = (each["embedding"] for each in first.document["data"])
    assert sum(a * b for a, b in zip(one, two, strict=True)) > sum(
        a * b for a, b in zip(one, three, strict=True)
    )


def test_an_answer_that_is_no_embeddings_is_broken_and_may_have_run() -> None:
    for body in (b"", b"[]", b"{}", b'{"data": []}'):
        with pytest.raises(ProviderFailed) as caught:
            WIRES["embeddings"].reply(body)
        assert (caught.value.fault, caught.value.may_have_run) == (Fault.BROKEN, True)
    reply = WIRES["embeddings"].reply(json.dumps({"data": [{}], "usage": {"prompt_tokens": 9}}).encode())
    assert reply.usage == Usage(9, 0)
    assert WIRES["embeddings"].reply(b'{"data": [{}]}').usage is None
