"""How long sessions live and how coarsely their use is noted."""

from datetime import datetime, timedelta

SESSION_IDLE = timedelta(hours=12)
SESSION_ABSOLUTE = timedelta(days=7)
SESSION_SEEN_STEP = timedelta(minutes=5)


def session_alive(*, last_seen_at: datetime, expires_at: datetime, now: datetime) -> bool:
    return now < expires_at and now - last_seen_at < SESSION_IDLE


def session_deadline(*, last_seen_at: datetime, expires_at: datetime) -> datetime:
    """When the session ends unless it is used again."""
    return min(expires_at, last_seen_at + SESSION_IDLE)


def coarse_use(now: datetime) -> datetime:
    """Last use of an API key to the hour: enough to find idle keys, too coarse to follow a person."""
    return now.replace(minute=0, second=0, microsecond=0)
