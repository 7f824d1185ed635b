"""Lends numbered Redis databases so that tests of one run do not see each other's keys."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis

_COUNT: Final = 15  # Every Redis has 16 by default; 0 stays for people.
_next = itertools.count()


@contextmanager
def lend(base_url: str) -> Iterator[str]:
    number = 1 + next(_next) % _COUNT
    url = f"{base_url.rpartition('/')[0]}/{number}"
    _flush(url)
    yield url
    _flush(url)


def _flush(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        try:
            client.flushdb()
        except redis.ConnectionError:
            # A test may leave the server killed; the next user of the number flushes it first.
            return
