import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

from kairos_contracts.catalogue import catalogue, queues
from kairos_contracts.document import documents, schema_of
from kairos_contracts.message import Envelope, Message
from kairos_contracts.registry import MESSAGES, UnknownMessageType, model_for

ROOT = Path(__file__).parents[4]
EXAMPLES = ROOT / "libs/common/contracts/examples"
SERVICES = {"bot-worker", "llm-router", "budget-analytics", "auth-audit", "observability"}


def example_of(type_name: str) -> dict[str, object]:
    document = json.loads((EXAMPLES / f"{type_name}.json").read_text(encoding="utf-8"))
    body: dict[str, object] = document["body"]
    return body


def all_models() -> list[type[Message]]:
    found: list[type[Message]] = []
    pending: list[type[Message]] = [Message]
    while pending:
        for child in pending.pop().__subclasses__():
            pending.append(child)
            if child.__module__.endswith(".v1"):
                found.append(child)
    return found


def test_every_message_model_is_registered_and_catalogued() -> None:
    declared = {model.TYPE for model in all_models() if model.__module__.startswith("kairos_contracts.")}
    assert declared == set(MESSAGES) == set(catalogue())


def test_the_examples_are_exactly_the_types() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.json")} == set(MESSAGES)


def test_the_catalogue_names_known_services_and_queues_of_them() -> None:
    for entry in catalogue().values():
        assert {entry.owner, *entry.producers, *entry.replicas} <= SERVICES
        assert entry.queues, f"{entry.type} has no queue: it would be unroutable"
        assert {queue.split(".")[0] for queue in entry.queues} <= SERVICES


def test_a_command_has_exactly_one_queue_and_it_is_its_owners() -> None:
    for type_name, model in MESSAGES.items():
        if model.KIND == "command":
            assert [queue.split(".")[0] for queue in catalogue()[type_name].queues] == [
                catalogue()[type_name].owner
            ]


def test_observability_reads_every_event() -> None:
    events = {name for name, model in MESSAGES.items() if model.KIND == "event"}
    assert set(queues()["observability.events"]) == events


@pytest.mark.parametrize("type_name", sorted(MESSAGES))
def test_an_example_round_trips_and_fits_its_golden_schema(type_name: str) -> None:
    message = MESSAGES[type_name].model_validate(example_of(type_name))
    written = json.loads(message.model_dump_json())
    assert MESSAGES[type_name].model_validate(written) == message
    jsonschema.validate(written, schema_of(MESSAGES[type_name]))
    assert message.aggregate_id()


@pytest.mark.parametrize("type_name", sorted(MESSAGES))
def test_a_newer_producers_extra_field_is_ignored(type_name: str) -> None:
    body = example_of(type_name) | {"a_field_of_the_next_version": {"nested": [1]}}
    assert MESSAGES[type_name].model_validate(body) == MESSAGES[type_name].model_validate(
        example_of(type_name)
    )


@pytest.mark.parametrize("type_name", sorted(MESSAGES))
def test_an_older_producers_body_without_optional_fields_is_accepted(type_name: str) -> None:
    fields = MESSAGES[type_name].model_fields
    body = {name: value for name, value in example_of(type_name).items() if fields[name].is_required()}
    assert type_name == MESSAGES[type_name].model_validate(body).TYPE


@pytest.mark.parametrize("type_name", sorted(MESSAGES))
def test_a_body_without_a_required_field_is_refused(type_name: str) -> None:
    required = next(name for name, field in MESSAGES[type_name].model_fields.items() if field.is_required())
    body = {name: value for name, value in example_of(type_name).items() if name != required}
    with pytest.raises(ValidationError):
        MESSAGES[type_name].model_validate(body)


def models_within(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        for part in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(part, type) and issubclass(part, BaseModel) and part not in found:
                found |= models_within(part)
    return found


def test_no_money_field_is_a_float_and_every_model_is_frozen() -> None:
    for root in MESSAGES.values():
        for model in models_within(root):
            assert model.model_config.get("frozen"), model
            for name, field in model.model_fields.items():
                assert "nano" not in name or field.annotation is int, (model, name)


def test_the_generated_documents_are_what_the_models_say() -> None:
    for path, content in documents(ROOT).items():
        assert path.read_text(encoding="utf-8") == content, f"{path} is stale: run make docs"


def test_an_envelope_survives_the_trip_through_headers() -> None:
    type_name = "llm.usage.recorded.v1"
    message = MESSAGES[type_name].model_validate(example_of(type_name))
    envelope = Envelope.of(
        message,
        source="llm-router",
        organisation_id=uuid4(),
        causation_id=uuid4(),
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        time=datetime(2026, 11, 22, 9, 0, tzinfo=UTC),
    )
    assert Envelope.from_headers(dict(envelope.headers())) == envelope


def test_an_envelope_without_an_id_or_with_a_naive_time_is_refused() -> None:
    headers: dict[str, object] = {
        "cloudEvents_id": str(UUID(int=1)),
        "cloudEvents_source": "x",
        "cloudEvents_type": "t",
        "cloudEvents_subject": "s",
        "cloudEvents_time": "2026-11-22T09:00:00+00:00",
    }
    assert Envelope.from_headers(headers).type == "t"
    with pytest.raises(ValidationError):
        Envelope.from_headers({k: v for k, v in headers.items() if k != "cloudEvents_id"})
    with pytest.raises(ValidationError):
        Envelope.from_headers(headers | {"cloudEvents_time": "2026-11-22T09:00:00"})


def test_an_unknown_type_says_its_name() -> None:
    with pytest.raises(UnknownMessageType, match=r"no\.such\.thing\.v1"):
        model_for("no.such.thing.v1")
