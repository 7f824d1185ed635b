"""Every time and limit of this library, as data. Tests hand in smaller ones."""

from dataclasses import dataclass

SECOND = 1.0
MINUTE = 60.0


@dataclass(frozen=True)
class Tuning:
    """All values in seconds.

    `retry_delays` become queue names, so different delays never clash with queues already declared.
    `hold_longest` stays below the broker's own consumer timeout (30 minutes): a message held longer
    than that would cost a delivery each time the broker takes it back. `renew_after` is how long a bus
    may be incomplete before its connections are made anew; it doubles up to `renew_longest`.
    """

    heartbeat: int = 10
    connect_timeout: float = 10.0
    reconnect_interval: float = 1.0
    publish_timeout: float = 10.0
    retry_delays: tuple[float, ...] = (5 * SECOND, 30 * SECOND, 5 * MINUTE, 30 * MINUTE)
    pause_first: float = 0.5
    pause_longest: float = 15.0
    hold_longest: float = 20 * MINUTE
    start_backoff_longest: float = 10.0
    guard_interval: float = 10.0
    check_timeout: float = 5.0
    renew_after: float = 30.0
    renew_longest: float = 5 * MINUTE


PRODUCTION = Tuning()
