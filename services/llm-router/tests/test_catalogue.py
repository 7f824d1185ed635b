"""kairos.toml: what is present, what it costs, and that no key is ever shown."""

import tomllib
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kairos_router.adapters.toml_catalogue import (
    InvalidCatalogue,
    load_catalogue,
    read_catalogue,
    read_file,
)
from kairos_router.application.price_book import vendored_book
from kairos_router.domain.catalogue import Capability, Catalogue, Dialect, ModelNotFound

ROOT = Path(__file__).parents[3]


def names(catalogue: Catalogue, route: str) -> list[str]:
    return [deployment.name for deployment in catalogue.candidates(route)]


def test_without_any_key_the_simulator_stands_in() -> None:
    catalogue = load_catalogue(ROOT / "kairos.toml", {})
    assert names(catalogue, "default") == ["simulator"]
    assert not catalogue.deployments["simulator"].price.free


def test_a_key_switches_the_real_models_on_and_the_stand_in_off() -> None:
    catalogue = load_catalogue(ROOT / "kairos.toml", {"OPENAI_API_KEY": "sk-secret"})
    assert names(catalogue, "default") == ["openai-small"]
    assert names(catalogue, "best") == ["openai-large", "openai-small"]
    assert names(catalogue, "simulator") == ["simulator"]
    assert "sk-secret" not in repr(catalogue)


def test_a_local_model_comes_after_the_paid_ones_and_is_free() -> None:
    environment = {"OPENAI_API_KEY": "sk-secret", "OLLAMA_BASE_URL": "http://127.0.0.1:11434/v1"}
    catalogue = load_catalogue(ROOT / "kairos.toml", environment)
    assert names(catalogue, "best") == ["openai-large", "openai-small", "local"]
    assert catalogue.deployments["local"].price.free
    assert catalogue.deployments["local"].base_url == "http://127.0.0.1:11434/v1"


def document(**changes: Any) -> dict[str, Any]:
    text = (ROOT / "kairos.toml").read_text("utf-8")
    return tomllib.loads(text, parse_float=Decimal) | changes


def test_fractions_of_a_nano_dollar_are_exact() -> None:
    section = {
        "kind": "simulator",
        "model": "m",
        "price": {"input": Decimal("37.5"), "output": 150},
        "context_window": 10,
        "max_output_tokens": 10,
    }
    catalogue = read_catalogue({"price_version": "v", "deployments": {"one": section}}, {})
    assert catalogue.deployments["one"].price.input == 37_500_000
    assert catalogue.models() == ("one",)


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(ModelNotFound):
        load_catalogue(ROOT / "kairos.toml", {}).candidates("nobody")


@pytest.mark.parametrize(
    "changes",
    [
        {"routes": {"default": {"deployments": ["nobody"]}}},
        {"routes": {"default": {"deployments": []}}},
        {"prices": {"model": {"input": 1}}},
        {"unknown": {}},
        {"deployments": {"bad name": {}}},
        {"deployments": {"one": {"kind": "openai", "api_key": "sk-do-not-write-me"}}},
    ],
)
def test_a_mistake_is_named_and_a_key_written_by_mistake_is_not_repeated(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidCatalogue) as caught:
        read_catalogue(document(**changes), {})
    assert "sk-do-not-write-me" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"price": "gpt-4oo-mini"},
            "deployment one: the price book has no gpt-4oo-mini; near it are gpt-4o-mini",
        ),
        ({"price": {"input": 1}}, "deployments.one.price.output: Field required"),
        ({"price": {"input": -1, "output": 1}}, "deployments.one.price.input: Input should be greater"),
    ],
)
def test_a_wrong_price_is_named_as_it_was_written(changes: dict[str, Any], told: str) -> None:
    section = {"kind": "simulator", "model": "m", "context_window": 10, "max_output_tokens": 10, **changes}
    with pytest.raises(InvalidCatalogue) as caught:
        read_file({"price_version": "v", "deployments": {"one": section}}, {})
    assert str(caught.value).startswith(told)


def test_a_price_of_the_file_or_of_the_book_may_be_named() -> None:
    section = {"kind": "simulator", "model": "m", "context_window": 10, "max_output_tokens": 10}
    deployments = {"one": section | {"price": "mine"}, "two": section | {"price": "gpt-4o-mini"}}
    prices = {"mine": {"input": 1, "output": 2}}
    found = read_catalogue(
        {"price_version": "v", "deployments": deployments, "prices": prices}, {}, vendored_book()
    )
    assert found.deployments["one"].price.input == 1_000_000
    assert found.deployments["two"].price.known


def test_an_address_must_be_http() -> None:
    with pytest.raises(InvalidCatalogue):
        load_catalogue(ROOT / "kairos.toml", {"OLLAMA_BASE_URL": "file:///etc"})


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "kairos.toml"
    broken.write_text("[deployments")
    with pytest.raises(InvalidCatalogue):
        load_catalogue(broken, {})


def test_the_fingerprint_of_a_name_changes_with_who_answers_and_with_nothing_else() -> None:
    before = load_catalogue(ROOT / "kairos.toml", {"OPENAI_API_KEY": "sk-one"})
    small, best = before.deployments["openai-small"], before.choice("best").fingerprint

    def after(**changes: Any) -> str:
        deployments = {**before.deployments, "openai-small": replace(small, **changes)}
        return Catalogue(deployments, before.routes).choice("best").fingerprint

    assert after() == best, "every process says the same"
    assert after(api_key="sk-two", max_concurrency=3, price=before.deployments["simulator"].price) == best
    assert after(model="another") != best
    assert after(base_url="https://elsewhere.test/v1") != best
    assert after(dialect=Dialect(query=(("api-version", "2026-01-01"),))) != best
    fewer = {**before.routes, "best": replace(before.routes["best"], deployments=("openai-small",))}
    assert Catalogue(before.deployments, fewer).choice("best").fingerprint != best


def test_a_stream_grows_only_where_the_lead_is_named() -> None:
    text = (ROOT / "kairos.toml").read_text()
    document = tomllib.loads(text)
    simulator = document["deployments"]["simulator"]
    simulator["stream_lead_tokens"], simulator["stream_chunk_tokens"] = 120, 1_000
    found = read_catalogue(document, {}).deployments["simulator"]
    assert (found.stream_lead_tokens, found.stream_chunk_tokens) == (120, 1_000)
    assert all(
        each.stream_lead_tokens is None
        for each in load_catalogue(ROOT / "kairos.toml", {}).deployments.values()
    )


def test_a_document_is_stored_in_one_order_so_that_a_restart_changes_nothing() -> None:
    document = {
        "price_version": "1",
        "deployments": {
            "all": {
                "kind": "simulator",
                "model": "m",
                "context_window": 10,
                "max_output_tokens": 1,
                "price": {"input": 1, "output": 1},
                "capabilities": [each.value for each in Capability],
                "strip": ["f", "e", "d", "c", "b", "a"],
            }
        },
    }
    (stored,) = read_file(document, {}).entries
    assert stored.document["capabilities"] == sorted(Capability)
    assert stored.document["strip"] == ["a", "b", "c", "d", "e", "f"]
