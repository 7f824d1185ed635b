"""How long questions take over many usage rows, from rows and from rollups.

    python services/budget-analytics/tests/measure_analytics.py [--rows 10000000] [--days 30]

Fills a private PostgreSQL with usage of the last days, spread over 5 models, 20 bots, 4 projects and 10 keys,
makes the rollups of it in SQL, and prints milliseconds per question: by a scan of usage rows, as it would be
without rollups, and through the service's own readings. 10 million rows take some 5 GB of disk.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg

from kairos_budget.adapters.analytics import PostgresAnalytics
from kairos_budget.application.analytics import Question, UsageFilters
from kairos_budget.application.readings import Slice
from kairos_budget.bootstrap import SERVICE
from kairos_budget.domain.histogram import COUNT_BITS, RELATIVE_ERROR
from kairos_budget.domain.span import Grain, Span, widened
from kairos_persistence import Database, create_engine
from kairos_telemetry import configure
from kairos_testkit.databases import Provisioned
from kairos_testkit.servers import Servers, start_servers

SERIES = """
INSERT INTO usage_series SELECT gen_random_uuid(), %(org)s, 'model-' || m, 'deployment-' || m, 'simulator',
    bots[b], projects[1 + b %% 4], keys[1 + (b + m) %% 10], NULL
FROM generate_series(1, 5) m, generate_series(1, 20) b,
    (SELECT array_agg(gen_random_uuid()) AS bots FROM generate_series(1, 20)) x,
    (SELECT array_agg(gen_random_uuid()) AS projects FROM generate_series(1, 4)) y,
    (SELECT array_agg(gen_random_uuid()) AS keys FROM generate_series(1, 10)) z
"""
# Latencies around a second with a long tail; one attempt in fifty fails, one in ten streams.
TODAY = """
CREATE TEMP TABLE today AS
SELECT n, s.*, s.id AS series_id, %(from)s::timestamptz + random() * interval '1 day' AS at,
    (200 + 800 * -ln(1 - random()))::int AS latency_ms,
    CASE WHEN n %% 10 = 0 THEN (50 + 200 * random())::int END AS first_ms,
    CASE WHEN n %% 50 = 0 THEN 'upstream_error' END AS error,
    100 + n %% 900 AS input, 20 + n %% 400 AS output, 1000 + n %% 100000 AS cost
FROM generate_series(1, %(rows)s) n
JOIN (SELECT *, row_number() OVER (ORDER BY id) AS place FROM usage_series WHERE organisation_id = %(org)s) s
    ON s.place = 1 + (n::bigint * 7919) %% 100
"""
ROWS = """
INSERT INTO usage_records (recorded_at, attempt_id, organisation_id, completion_id, project_id, bot_id,
    api_key_id, model, deployment, provider, outcome, input_tokens, output_tokens, cost_nano, price_version,
    status, streaming, latency_ms, time_to_first_token_ms, started_at, error)
SELECT at + interval '2 s', gen_random_uuid(), organisation_id, gen_random_uuid(), project_id, bot_id,
    api_key_id, model, deployment, provider, 'settled', input, output, cost, 'bench',
    CASE WHEN error IS NULL THEN 200 ELSE 500 END, first_ms IS NOT NULL, latency_ms, first_ms, at, error
FROM today ORDER BY at
"""
BUCKET = (
    "CASE WHEN {0} <= 1 THEN 0 ELSE ceil(round((ln({0}) / ln(%(growth)s::float8))::numeric, 9))::bigint END"
)
ROLL = """
WITH rows AS MATERIALIZED (
    SELECT *, date_trunc('{unit}', at, 'UTC') AS starts_at FROM today
), latencies AS (
    SELECT starts_at, series_id, array_agg((b << {bits}) + n ORDER BY b) AS entries FROM (
        SELECT starts_at, series_id, {latency} AS b, count(*) AS n FROM rows
        WHERE error IS NULL GROUP BY 1, 2, 3
    ) x GROUP BY 1, 2
), firsts AS (
    SELECT starts_at, series_id, array_agg((b << {bits}) + n ORDER BY b) AS entries FROM (
        SELECT starts_at, series_id, {first} AS b, count(*) AS n FROM rows
        WHERE error IS NULL AND first_ms IS NOT NULL GROUP BY 1, 2, 3
    ) x GROUP BY 1, 2
), sums AS (
    SELECT starts_at, series_id, count(*) AS n, count(error) AS errors, sum(cost) AS cost,
        sum(input) AS input, sum(output) AS output
    FROM rows GROUP BY 1, 2
)
INSERT INTO {table}
SELECT %(org)s, starts_at, series_id, n, 0, errors, 0, cost, input, output, 0, 0, 0, 0, 0,
    coalesce(l.entries, '{{}}'), coalesce(f.entries, '{{}}')
FROM sums LEFT JOIN latencies l USING (starts_at, series_id)
LEFT JOIN firsts f USING (starts_at, series_id)
"""
SCAN = """
SELECT model, sum(cost_nano), count(*), count(error), percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms)
FROM usage_records WHERE organisation_id = %(org)s AND started_at >= %(from)s AND started_at < %(to)s
GROUP BY 1
"""


def fill(url: str, organisation: UUID, rows: int, first: datetime, days: int) -> None:
    """The owner's rights: partitions of the past are made, and rows written day by day."""
    growth = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET search_path = budget")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(SERIES, {"org": organisation})
        for number in range(days):
            start = first + timedelta(days=number)
            connection.execute("SELECT create_day('usage_records', 'recorded_at', %s::date)", (start,))
            given = {"org": organisation, "rows": rows // days, "from": start, "growth": growth}
            connection.execute(TODAY, given)
            connection.execute("ANALYZE today")
            connection.execute(ROWS)
            for unit, table in (("minute", "usage_minutes"), ("hour", "usage_hours"), ("day", "usage_days")):
                if unit == "minute" and number < days - 6:
                    continue
                query = ROLL.format(
                    unit=unit,
                    table=table,
                    bits=COUNT_BITS,
                    latency=BUCKET.format("latency_ms"),
                    first=BUCKET.format("first_ms"),
                )
                connection.execute(query, given)
            connection.execute("DROP TABLE today")
        connection.execute("VACUUM (ANALYZE) usage_records")
        connection.execute("ANALYZE")


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds, the median of five."""
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        await work()
        taken.append(1000 * (time.perf_counter() - began))
    return round(sorted(taken)[2], 1)


async def ask(url: str, organisation: UUID, first: datetime, days: int) -> dict[str, float]:
    database = Database(create_engine(url, application_name="bench"), service=SERVICE)
    analytics = PostgresAnalytics(database, minutes_days=7, hours_days=100)
    end = first + timedelta(days=days)
    kept = analytics.kept(datetime.now(UTC))
    month = Question(widened(Span(first, end), kept), ("model",))
    day = Span(end - timedelta(days=1), end)
    ragged = widened(Span(end - timedelta(days=3, hours=5, minutes=7), end - timedelta(minutes=11)), kept)
    found = {
        "models_of_all_days_ms": await timed(lambda: analytics.totals(organisation, month)),
        "models_by_bot_and_key_of_all_days_ms": await timed(
            lambda: analytics.totals(organisation, Question(month.span, ("model", "bot", "api_key")))
        ),
        "models_of_three_ragged_days_ms": await timed(
            lambda: analytics.totals(organisation, Question(ragged, ("model",)))
        ),
        "series_by_day_ms": await timed(
            lambda: analytics.series(organisation, month, step="day", time_zone="UTC", grain=Grain.DAY)
        ),
        **{
            f"series_by_day_in_{zone.partition('/')[2].lower()}_ms": await timed(
                lambda zone=zone: analytics.series(
                    organisation, month, step="day", time_zone=zone, grain=Grain.HOUR
                )
            )
            for zone in ("Europe/Istanbul", "Pacific/Auckland")
        },
        "series_by_hour_of_a_day_ms": await timed(
            lambda: analytics.series(
                organisation, Question(day, ("model",)), step="hour", time_zone="UTC", grain=Grain.HOUR
            )
        ),
        **{
            f"series_by_minute_of_a_day{name}_ms": await timed(
                lambda percentiles=percentiles: analytics.series(
                    organisation,
                    Question(day, (), percentiles=percentiles),
                    step="minute",
                    time_zone="UTC",
                    grain=Grain.MINUTE,
                )
            )
            for name, percentiles in (("", True), ("_without_percentiles", False))
        },
        "usage_page_of_50_ms": await timed(
            lambda: analytics.usage(organisation, Slice(50), UsageFilters(filters=month.filters, span=day))
        ),
    }
    await database.dispose()
    return found


def scan(url: str, organisation: UUID, first: datetime, days: int) -> float:
    with psycopg.connect(url) as connection:
        connection.execute("SELECT set_config('kairos.system', 'on', false)")
        # A request would be cut off here.
        connection.execute("SET statement_timeout = 0")
        began = time.perf_counter()
        given = {"org": organisation, "from": first, "to": first + timedelta(days=days)}
        connection.execute(SCAN, given).fetchall()
        return round(1000 * (time.perf_counter() - began), 1)


def measure(servers: Servers, rows: int, days: int) -> dict[str, object]:
    provisioned = Provisioned(servers.postgres_admin_url)
    provisioned.provision()
    cloned = provisioned.database("kairos_budget")
    organisation = uuid4()
    first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days)
    began = time.perf_counter()
    fill(cloned.admin_url, organisation, rows, first, days)
    filled = time.perf_counter() - began
    with psycopg.connect(cloned.admin_url) as connection:
        kept = {
            table: connection.execute(
                "SELECT sum(pg_total_relation_size(inhrelid))::bigint / 1000000 FROM pg_inherits"
                " WHERE inhparent = %s::regclass",
                (f"budget.{table}",),
            ).fetchone()
            for table in ("usage_records", "usage_minutes", "usage_hours", "usage_days")
        }
    return {
        "rows": rows // days * days,
        "filled_in_s": round(filled),
        "megabytes": {table: row[0] if row else 0 for table, row in kept.items()},
        "scan_of_rows_ms": scan(cloned.urls["budget"], organisation, first, days),
        **asyncio.run(ask(cloned.urls["budget"], organisation, first, days)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=30)
    given = parser.parse_args()
    telemetry = configure("bench", otlp_endpoint=None, log_level="ERROR")
    servers = start_servers()
    try:
        print(json.dumps(measure(servers, given.rows, given.days)))
    finally:
        servers.close()
        telemetry.shutdown()


if __name__ == "__main__":
    main()
