"""Which database errors mean "not now", and the one class callers see for them."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import exc

UNAVAILABLE_CLASSES = ("08", "53", "57P")
"""SQLSTATE prefixes: connection trouble, no resources (too many connections, disk full), shutdown."""
UNAVAILABLE_STATES = frozenset(
    {
        "25006",  # A write reached a standby: a failover is under way.
        "25P03",  # The server ended an idle transaction.
        "40001",  # Serialisation failure: the transaction did not happen.
        "40P01",  # Deadlock: the transaction did not happen.
        "55P03",  # A lock was not to be had in time.
        "57014",  # The statement took longer than statement_timeout.
    }
)


class DatabaseUnavailable(Exception):  # noqa: N818 - reads as the fact it states
    """The database can't be used now; the same work may be tried again later.

    Nothing of the unit of work was kept, unless `outcome_unknown`: then the connection was lost while
    the commit was under way, and only the inbox or another idempotency key tells whether it happened.
    """

    def __init__(self, reason: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(reason)
        self.outcome_unknown = outcome_unknown


def is_unavailable(error: BaseException) -> bool:
    """Whether an error means that the database can't be used now, rather than that the work is wrong."""
    if isinstance(error, exc.TimeoutError):
        return True  # The pool had no connection in time.
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_unavailable(error.orig))
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        # The server never answered: errors of connecting carry no SQLSTATE.
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate in UNAVAILABLE_STATES or error.sqlstate.startswith(UNAVAILABLE_CLASSES)


def lost_connection(error: BaseException) -> bool:
    """Whether the connection itself is gone, so that a fresh one may still work."""
    return isinstance(error, exc.DBAPIError) and error.connection_invalidated


@contextmanager
def translated(*, committing: bool = False) -> Iterator[None]:
    """Raise DatabaseUnavailable in place of the driver's errors of that kind."""
    try:
        yield
    except (exc.SQLAlchemyError, psycopg.Error) as error:
        if not is_unavailable(error):
            raise
        raise DatabaseUnavailable(
            _first_line(error), outcome_unknown=committing and lost_connection(error)
        ) from error


def _first_line(error: BaseException) -> str:
    # SQLAlchemy appends the statement and its parameters, which are payload.
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    return str(cause).strip().partition("\n")[0] or type(cause).__name__
