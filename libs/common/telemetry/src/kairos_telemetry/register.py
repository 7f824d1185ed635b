"""Every metric of the suite, as data. A metric that is not here can't be made.

Labels hold bounded sets only: services, routes, queues, outcomes. Ids of users, chats, messages and
bots never are labels; they are fields of logs and attributes of spans.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
REQUEST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WORK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


@dataclass(frozen=True)
class Metric:
    """One metric: `name` as Prometheus shows it, `owner` the part that writes it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    owner: str = "every service"
    buckets: tuple[float, ...] = ()


REGISTER: tuple[Metric, ...] = (
    Metric(
        "bot_messages_processed_total",
        "counter",
        "Messages of contacts that reached an outcome.",
        ("service", "outcome"),
        "bot-worker",
    ),
    Metric("session_errors_total", "counter", "Errors inside a bot's session.", (), "bot-worker"),
    Metric("kairos_turns_open", "gauge", "Turns that wait for their reply.", (), "bot-worker"),
    Metric(
        "kairos_replies_sent_total",
        "counter",
        "Replies handed to a channel.",
        ("channel", "outcome"),
        "bot-worker",
    ),
    Metric(
        "api_response_time_seconds",
        "histogram",
        "Time from request to response, per route template.",
        ("service", "route", "method", "status"),
        buckets=REQUEST,
    ),
    Metric(
        "mcp_websocket_active_connections",
        "gauge",
        "WebSocket clients of the live feed now connected.",
        (),
        "observability",
    ),
    Metric(
        "mcp_websocket_events_published_total",
        "counter",
        "Events pushed to WebSocket clients.",
        (),
        "observability",
    ),
    Metric(
        "kairos_dead_letters_total",
        "counter",
        "Messages that went to the dead letters.",
        ("queue",),
        "observability",
    ),
    Metric(
        "kairos_service_up",
        "gauge",
        "1 when a service's readiness answers 200, else 0.",
        ("service",),
        "observability",
    ),
    Metric("kairos_outbox_pending", "gauge", "Outbox rows not published yet."),
    Metric("kairos_outbox_oldest_age_seconds", "gauge", "Age of the oldest outbox row not published yet."),
    Metric(
        "kairos_messages_consumed_total",
        "counter",
        "Deliveries that reached an outcome.",
        ("queue", "outcome"),
    ),
    Metric("kairos_consume_duration_seconds", "histogram", "Time a handler took.", ("queue",), buckets=WORK),
    Metric(
        "kairos_router_requests_total",
        "counter",
        "Completion requests that reached an outcome.",
        ("route", "outcome"),
        "llm-router",
    ),
    Metric(
        "kairos_router_overhead_seconds",
        "histogram",
        "Time of a completion that was not spent waiting for the provider.",
        (),
        "llm-router",
        FAST,
    ),
    Metric("kairos_hold_refused_total", "counter", "Holds a budget refused.", (), "llm-router"),
    Metric(
        "kairos_quota_refused_total",
        "counter",
        "Requests a quota refused.",
        ("scope", "metric"),
        "llm-router",
    ),
    Metric(
        "kairos_quota_authority_up",
        "gauge",
        "1 when the counts in Redis answered the last call, 0 while this process uses its share alone.",
        (),
        "llm-router",
    ),
    Metric(
        "kairos_cache_requests_total",
        "counter",
        "Requests to the answer cache: hit, semantic, miss or bypass (Redis away).",
        ("outcome",),
        "llm-router",
    ),
    Metric(
        "kairos_cache_saved_nano_usd_total",
        "counter",
        "What the answers served from the cache had cost when they were made.",
        (),
        "llm-router",
    ),
    Metric(
        "kairos_cache_seconds",
        "histogram",
        "Time a request spent on the cache, by step.",
        ("step",),
        "llm-router",
        FAST,
    ),
    Metric("kairos_leases_open", "gauge", "Leases open now.", (), "budget-analytics"),
    Metric(
        "kairos_ledger_imbalance",
        "gauge",
        "Nano-USD by which the ledger's accounts differ from its transfers; 0 when it balances.",
        (),
        "budget-analytics",
    ),
    Metric(
        "kairos_budget_overspend_total",
        "counter",
        "Settlements that passed a limit because the true cost was above its hold.",
        (),
        "budget-analytics",
    ),
    Metric(
        "kairos_attempt_above_hold_total",
        "counter",
        "Attempts that cost more than was held for them, with or without room in their budgets.",
        (),
        "budget-analytics",
    ),
    Metric("kairos_audit_entries_total", "counter", "Audit entries chained.", (), "auth-audit"),
    Metric(
        "kairos_background_crashes_total",
        "counter",
        "Crashes of supervised background tasks; each is started again.",
        ("task",),
    ),
    Metric("kairos_build_info", "gauge", "1; the version is in the label.", ("service", "version")),
    Metric(
        "kairos_database_connections",
        "gauge",
        "Connections of the pool now in use or idle.",
        ("service", "state"),
    ),
    Metric(
        "kairos_database_unavailable_total",
        "counter",
        "Units of work that ended because the database could not be used.",
        ("service",),
    ),
)

PROCESS_METRICS: tuple[tuple[str, str], ...] = (
    ("process_resident_memory_bytes", "Memory of the process in RAM."),
    ("process_virtual_memory_bytes", "Virtual memory of the process."),
    ("process_cpu_seconds_total", "Processor time the process used."),
    ("process_open_fds", "Open file descriptors."),
    ("process_max_fds", "The most file descriptors it may open."),
    ("process_start_time_seconds", "When the process started, as Unix time."),
    ("python_gc_collections_total", "Runs of the garbage collector, per generation."),
    ("python_gc_objects_collected_total", "Objects the garbage collector freed, per generation."),
    ("python_gc_objects_uncollectable_total", "Objects it could not free, per generation."),
    ("python_info", "Version of Python."),
)
"""What prometheus_client measures of the process; /proc must be readable for the process_* ones."""
