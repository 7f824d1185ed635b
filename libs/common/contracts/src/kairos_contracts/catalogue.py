"""The catalogue of messages: who owns, makes and reads each type. Read from `catalogue.toml`."""

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files


@dataclass(frozen=True)
class CatalogueEntry:
    """One message type. `queues` are durable; every replica of a service in `replicas` gets a copy."""

    type: str
    owner: str
    producers: tuple[str, ...]
    queues: tuple[str, ...]
    replicas: tuple[str, ...]
    personal_data: bool


@lru_cache(maxsize=1)
def catalogue() -> dict[str, CatalogueEntry]:
    """Every entry by message type."""
    text = files("kairos_contracts").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return {
        type_name: CatalogueEntry(
            type=type_name,
            owner=row["owner"],
            producers=tuple(row["producers"]),
            queues=tuple(row["queues"]),
            replicas=tuple(row.get("replicas", ())),
            personal_data=row["personal_data"],
        )
        for type_name, row in tomllib.loads(text).items()
    }


def queues() -> dict[str, tuple[str, ...]]:
    """Durable queue name -> the message types it receives."""
    bound: dict[str, list[str]] = {}
    for entry in catalogue().values():
        for queue in entry.queues:
            bound.setdefault(queue, []).append(entry.type)
    return {name: tuple(sorted(types)) for name, types in sorted(bound.items())}
