from datetime import UTC, datetime, timedelta

import pytest

from kairos_ops.domain.health import Probe, ServiceState, observe, overall

AT = datetime(2026, 11, 22, tzinfo=UTC)
UP = Probe(reached=True, ok=True, detail="", latency_ms=2)
TROUBLED = Probe(reached=True, ok=False, detail="failing: postgres", latency_ms=2)
LOST = Probe(reached=False, ok=False, detail="connection refused", latency_ms=1)


def after(*probes: Probe) -> ServiceState:
    state: ServiceState | None = None
    for number, probe in enumerate(probes):
        state = observe(state, "llm-router", probe, AT + timedelta(seconds=2 * number))
    assert state
    return state


@pytest.mark.parametrize(
    ("probes", "health"),
    [
        ((UP,), "up"),
        ((LOST,), "down"),
        ((UP, LOST), "up"),
        ((UP, LOST, LOST), "down"),
        ((UP, TROUBLED), "degraded"),
        ((LOST, LOST, UP), "up"),
        ((UP, LOST, UP, LOST), "up"),
        ((TROUBLED, LOST), "degraded"),
    ],
)
def test_health_follows_what_was_seen(probes: tuple[Probe, ...], health: str) -> None:
    assert after(*probes).health == health


def test_since_is_the_time_of_the_last_change() -> None:
    assert after(UP, UP, UP).since == AT
    assert after(UP, LOST, LOST).since == AT + timedelta(seconds=4)


def test_the_suite_is_as_well_as_its_sickest_service() -> None:
    assert overall([]) == "up"
    assert overall([after(UP), after(TROUBLED)]) == "degraded"
    assert overall([after(UP), after(TROUBLED), after(LOST)]) == "down"
