"""Every time and limit of this library, as data. Tests hand in smaller ones."""

from dataclasses import dataclass

SECOND = 1.0
MINUTE = 60.0


@dataclass(frozen=True)
class Tuning:
    """All values in seconds.

    `retry_delays` become queue names, so different delays never clash with queues already declared.
    `hold_longest` stays below the broker's own consumer timeout (30 minutes): a message held longer
    than that would cost a delivery each time the broker takes it back. `start_timeout` bounds each of the
    two long steps of a connection (declaring the topology, registering the consumers). A closed connection
    is made anew at once; what `check` alone finds, every `guard_interval`, is looked at again after
    `check_again` first, and repairs that change nothing wait longer and longer, up to `renew_longest`.
    """

    heartbeat: int = 10
    connect_timeout: float = 10.0
    start_timeout: float = 60.0
    connect_pause_first: float = 0.2
    connect_pause_longest: float = 3.0
    publish_timeout: float = 10.0
    retry_delays: tuple[float, ...] = (5 * SECOND, 30 * SECOND, 5 * MINUTE, 30 * MINUTE)
    pause_first: float = 0.5
    pause_longest: float = 15.0
    hold_longest: float = 20 * MINUTE
    guard_interval: float = 10.0
    check_timeout: float = 5.0
    check_again: float = 2.0
    renew_longest: float = 5 * MINUTE


PRODUCTION = Tuning()
