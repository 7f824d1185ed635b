"""Rollups tell what the rows tell, through the HTTP interface, on real PostgreSQL."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

from kairos_budget.application.ports import Usage

from .conftest import Bench, Caller  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)


def attempt(bench: Bench, moment: datetime, **changes: Any) -> Usage:
    usage = bench.usage(None, cost=changes.pop("cost", 10))
    message = usage.message.model_copy(update={"started_at": moment} | changes)
    return Usage(uuid4(), bench.organisation, message, None)


def day(moment: datetime) -> str:
    return moment.date().isoformat()


def around() -> str:
    return f"from={day(NOON)}&to={day(NOON + timedelta(days=1))}"


async def test_models_are_compared_by_everything_that_is_known_of_them(bench: Bench, admin: Caller) -> None:
    bot = uuid4()
    slow = [attempt(bench, NOON, model="slow", latency_ms=2_000, bot_id=bot) for _ in range(99)]
    slow.append(attempt(bench, NOON, model="slow", latency_ms=60_000, bot_id=bot))
    quick = [
        attempt(
            bench, NOON, model="quick", cost=1, latency_ms=100, time_to_first_token_ms=20, streaming=True
        ),
        attempt(bench, NOON, model="quick", cost=0, cache="exact", latency_ms=1),
        attempt(bench, NOON, model="quick", cost=0, outcome="released", error="rate_limited", status=429),
        attempt(bench, NOON, model="quick", cost=1, cached_input_tokens=4, reasoning_tokens=2),
    ]
    await bench.record(*slow, *quick)
    answer = await admin("GET", f"/analytics/models?{around()}")
    first, second = answer["items"]
    assert (first["key"], first["current"]["cost"]["nano_usd"]) == ({"model": "slow"}, 1_000)
    assert first["current"]["latency_ms"]["p50"] == pytest.approx(2_000, rel=0.05)
    assert first["current"]["latency_ms"]["p99"] == pytest.approx(2_000, rel=0.05)
    assert first["current"]["quality"] is None
    figures = second["current"]
    assert (figures["attempts"], figures["errors"], figures["cache_hits"]) == (4, 1, 1)
    assert (figures["error_rate"], figures["cache_hit_rate"]) == (0.25, 0.25)
    assert (figures["cached_input_tokens"], figures["reasoning_tokens"]) == (4, 2)
    assert figures["time_to_first_token_ms"]["p95"] == pytest.approx(20, rel=0.05)
    assert answer["total"]["cost"]["nano_usd"] == 1_002
    by_two = await admin("GET", f"/analytics/models?{around()}&group_by=model&group_by=bot&bot_id={bot}")
    assert [item["key"] for item in by_two["items"]] == [{"model": "slow", "bot": str(bot)}]


async def test_the_top_groups_are_named_and_the_rest_is_one(bench: Bench, admin: Caller) -> None:
    await bench.record(*(attempt(bench, NOON, model=f"m-{n}", cost=100 - n) for n in range(6)))
    answer = await admin("GET", f"/analytics/models?{around()}&top=2")
    assert [item["key"]["model"] for item in answer["items"]] == ["m-0", "m-1"]
    assert (answer["other"]["attempts"], answer["other"]["cost"]["nano_usd"]) == (4, 98 + 97 + 96 + 95)


async def test_a_span_is_compared_with_the_one_before_it(bench: Bench, admin: Caller) -> None:
    yesterday = NOON - timedelta(days=1)
    await bench.record(attempt(bench, NOON, cost=30), attempt(bench, yesterday, cost=20))
    answer = await admin("GET", f"/analytics/models?{around()}&compare=previous")
    (item,) = answer["items"]
    assert (item["previous"]["cost"]["nano_usd"], item["cost_change"]) == (20, 0.5)
    assert answer["previous_total"]["attempts"] == 1


async def test_a_series_follows_the_calendar_of_the_time_zone(bench: Bench, admin: Caller) -> None:
    # 22:30 in UTC is half past one of the next day in Istanbul.
    late = NOON.replace(hour=22, minute=30)
    await bench.record(attempt(bench, NOON, cost=1), attempt(bench, late, cost=2))

    async def days(zone: str) -> list[tuple[str, int]]:
        answer = await admin(
            "GET",
            f"/analytics/timeseries?from={day(NOON)}&to={day(NOON + timedelta(days=2))}&step=day&tz={zone}",
        )
        return [(item["starts_at"], item["figures"]["cost"]["nano_usd"]) for item in answer["items"]]

    assert [cost for _, cost in await days("UTC")] == [3]
    assert [cost for _, cost in await days("Europe/Istanbul")] == [1, 2]
    hours = await admin("GET", f"/analytics/timeseries?{around()}&step=hour&group_by=model")
    assert [item["figures"]["attempts"] for item in hours["items"]] == [1, 1]
    minutes = await admin("GET", f"/analytics/timeseries?{around()}&step=minute")
    assert [item["starts_at"][11:16] for item in minutes["items"]] == ["12:00", "22:30"]


async def test_days_of_any_zone_have_the_figures_of_their_own_hours_and_no_others(
    bench: Bench, admin: Caller
) -> None:
    models = ("slow", "quick", "rare")
    past = range(-30, 30, 3)
    told = [{"cost": at + 31, "model": models[at % 7 % 3], "latency_ms": 100 * (at + 31)} for at in past]
    moments = [NOON + timedelta(hours=at) for at in past]
    await bench.record(*(attempt(bench, moment, **each) for moment, each in zip(moments, told, strict=True)))
    for zone in ("America/New_York", "Asia/Kolkata", "Pacific/Auckland"):
        since, until = (NOON + timedelta(days=days) for days in (-3, 3))
        query = f"timeseries?from={day(since)}&to={day(until)}&tz={zone}&group_by=model"
        by_day = (await admin("GET", f"/analytics/{query}&step=day"))["items"]
        hours_of: dict[tuple[str, str], list[Any]] = {}
        for item in (await admin("GET", f"/analytics/{query}&step=hour"))["items"]:
            local = datetime.fromisoformat(item["starts_at"]).astimezone(ZoneInfo(zone))
            hours_of.setdefault((day(local), item["key"]["model"]), []).append(item["figures"])
        assert len(by_day) == len(hours_of)
        for item in by_day:
            local = datetime.fromisoformat(item["starts_at"]).astimezone(ZoneInfo(zone))
            hours_there = hours_of[day(local), item["key"]["model"]]
            assert item["figures"]["attempts"] == sum(each["attempts"] for each in hours_there)
            slowest = max(each["latency_ms"]["p99"] for each in hours_there)
            assert item["figures"]["latency_ms"]["p99"] == slowest
        plain = (await admin("GET", f"/analytics/{query}&step=day&percentiles=false&top=1"))["items"]
        assert {item["figures"]["latency_ms"]["p50"] for item in plain} == {None}
        spent: Counter[str] = Counter()
        for item in by_day:
            spent[item["key"]["model"]] += item["figures"]["cost"]["nano_usd"]
        assert {item["key"]["model"] for item in plain} == {spent.most_common(1)[0][0]}
        best = await admin("GET", f"/analytics/{query}&step=day&top=1")
        assert [item["figures"]["cost"] for item in best["items"]] == [
            item["figures"]["cost"] for item in plain
        ]
        assert best["items"][0]["figures"]["latency_ms"]["p50"] is not None


async def test_a_span_to_the_minute_counts_to_the_minute(bench: Bench, admin: Caller) -> None:
    for minute in (0, 29, 30, 59):
        await bench.record(attempt(bench, NOON.replace(minute=minute)))
    since, until = NOON.replace(minute=29), NOON.replace(minute=59)
    answer = await admin(
        "GET",
        f"/analytics/models?from={since:%Y-%m-%dT%H:%M:%SZ}&to={until:%Y-%m-%dT%H:%M:%SZ}",
    )
    assert answer["total"]["attempts"] == 2


async def test_an_event_of_weeks_ago_lands_in_its_hour_and_day(bench: Bench, admin: Caller) -> None:
    past = NOON - timedelta(days=40)
    await bench.record(attempt(bench, past, cost=7), attempt(bench, NOON, cost=1))
    answer = await admin("GET", f"/analytics/models?from={day(past)}&to={day(past + timedelta(days=1))}")
    assert answer["total"]["cost"]["nano_usd"] == 7
    spend = await admin("GET", f"/spend?from={day(past)}&to={day(past + timedelta(days=1))}")
    assert [row["key"] for row in spend["items"]] == [day(past)]


async def test_failures_are_counted_by_code_and_status(bench: Bench, admin: Caller) -> None:
    failed = [("rate_limited", 429)] * 3 + [("upstream_timeout", 504)]
    await bench.record(
        *(attempt(bench, NOON, cost=0, outcome="released", error=e, status=s) for e, s in failed),
        attempt(bench, NOON, cost=0, outcome="released", error=None, status=500),
        attempt(bench, NOON),
    )
    answer = await admin("GET", f"/analytics/errors?{around()}")
    assert [(row["error"], row["status"], row["attempts"]) for row in answer["items"]] == [
        ("rate_limited", 429, 3),
        ("http_500", 500, 1),
        ("upstream_timeout", 504, 1),
    ]
    assert (answer["total"], answer["items"][0]["share"]) == (5, 0.6)


async def test_an_unknown_attempt_is_counted_once_and_costs_what_it_turns_out_to(
    bench: Bench, admin: Caller
) -> None:
    unknown = attempt(bench, NOON, cost=0, outcome="unknown", hold_nano_usd=50)
    await bench.record(unknown)
    told = unknown.message.model_copy(update={"outcome": "settled", "cost_nano_usd": 40})
    await bench.record(Usage(uuid4(), bench.organisation, told, None))
    total = (await admin("GET", f"/analytics/models?{around()}"))["total"]
    assert (total["attempts"], total["unknown_attempts"], total["cost"]["nano_usd"]) == (1, 0, 40)


async def test_usage_is_paged_and_filtered(bench: Bench, admin: Caller) -> None:
    key = uuid4()
    await bench.record(*(attempt(bench, NOON, api_key_id=key, route="fast") for _ in range(5)))
    await bench.record(attempt(bench, NOON, error="upstream_timeout", status=504, contact_id=uuid4()))
    seen: list[UUID] = []
    cursor = ""
    while cursor is not None:
        page = await admin("GET", f"/usage?limit=2&api_key_id={key}{cursor and '&cursor=' + cursor}")
        seen += [UUID(item["attempt_id"]) for item in page["items"]]
        cursor = page["next_cursor"]
    assert (len(seen), len(set(seen))) == (5, 5)
    (failed,) = (await admin("GET", "/usage?error=upstream_timeout"))["items"]
    assert (failed["status"], failed["cost"]["nano_usd"]) == (504, 10)
    later = f"from={day(NOON + timedelta(days=1))}&to={day(NOON + timedelta(days=3))}"
    assert (await admin("GET", f"/usage?{later}"))["items"] == []
    await admin("GET", "/usage?cursor=bm9uc2Vuc2U", None, 400)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("models?from=2026-02-02&to=2026-02-01", "empty_range"),
        ("models?tz=Mars/Olympus", "unknown_time_zone"),
        ("models?from=soon", "invalid_moment"),
        ("models?group_by=colour", "invalid_request"),
        ("timeseries?from=2020-01-01&to=2026-01-01&step=hour", "too_many_points"),
        ("timeseries?from=2026-01-01&to=2026-01-02&step=minute", "no_longer_kept"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(admin: Caller, query: str, code: str) -> None:
    assert (await admin("GET", f"/analytics/{query}", None, 422))["code"] == code


async def test_another_tenants_usage_is_not_counted(bench: Bench, admin: Caller) -> None:
    stranger = Bench(bench.database, bench.cases)
    await stranger.record(attempt(stranger, NOON))
    assert (await admin("GET", f"/analytics/models?{around()}"))["items"] == []
    assert (await admin("GET", "/usage"))["items"] == []


async def test_rollups_are_kept_as_long_as_is_set_and_queries_prune_partitions(bench: Bench) -> None:
    old = NOON - timedelta(days=20)
    await bench.record(attempt(bench, old), attempt(bench, NOON))
    count = "SELECT count(*) FROM usage_minutes WHERE organisation_id = :organisation"
    assert await bench.scalar(count, organisation=bench.organisation) == 2
    # Older than seven days: the minute goes, the hour and the day stay.
    await bench.scalar("SELECT keep_rollups(7, 100, 1095)")
    assert await bench.scalar(count, organisation=bench.organisation) == 1
    assert await bench.scalar(count.replace("minutes", "hours"), organisation=bench.organisation) == 2
    plan = (
        "EXPLAIN (FORMAT JSON) SELECT sum(attempts) FROM usage_minutes"
        " WHERE organisation_id = :organisation AND"
    )
    found = str(
        await bench.scalar(
            f"{plan} starts_at >= :since AND starts_at < :until",
            organisation=bench.organisation,
            since=NOON,
            until=NOON + timedelta(hours=1),
        )
    )
    assert f"usage_minutes_{NOON:%Y%m%d}" in found
    assert f"usage_minutes_{NOON - timedelta(days=1):%Y%m%d}" not in found
