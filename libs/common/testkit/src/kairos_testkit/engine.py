"""Whether a Docker engine answers. Standard library only: set-up asks before anything is installed."""

import os
import socket
import urllib.request
from typing import Final
from urllib.error import URLError

_DEFAULT: Final = "unix:///var/run/docker.sock"
_OK: Final = 200


def engine_answers(docker_host: str | None) -> bool:
    """A client program alone is not enough; the engine itself must answer a ping."""
    address = docker_host or _DEFAULT
    if address.startswith("unix://"):
        return _ping(address.removeprefix("unix://"))
    try:
        # S310: the address is the user's own engine.
        with urllib.request.urlopen(f"{address.replace('tcp://', 'http://', 1)}/_ping", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == _OK)
    except (URLError, OSError, ValueError):
        return False


def _ping(path: str) -> bool:
    if not os.access(path, os.R_OK | os.W_OK):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            connection.connect(path)
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            return b" 200 " in connection.recv(64)
    except OSError:
        return False
