"""Whether a Docker engine can run our servers.

Standard library only: set-up asks before anything is installed.
"""

import http.client
import json
import os
import socket
from contextlib import closing
from typing import Final
from urllib.parse import quote, urlsplit

# The images of docker-compose.yml; a test holds the two together.
IMAGES: Final = {"rabbitmq": "rabbitmq:4.1-management", "postgres": "postgres:17", "redis": "redis:7"}
_DEFAULT: Final = "unix:///var/run/docker.sock"
_OK: Final = 200
_PING_S: Final = 2.0
_PULL_S: Final = 120.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def engine_answers(docker_host: str | None) -> bool:
    """A client program alone is not enough; the engine itself must answer a ping."""
    status, _ = _call(docker_host, "GET", "/_ping", _PING_S)
    return status == _OK


def engine_usable(docker_host: str | None) -> bool:
    """Whether the engine answers and has our images, or can fetch them."""
    return engine_answers(docker_host) and all(_has(docker_host, image) for image in IMAGES.values())


def _has(docker_host: str | None, image: str) -> bool:
    if _call(docker_host, "GET", f"/images/{quote(image, safe=':')}/json", _PING_S)[0] == _OK:
        return True
    name, _, tag = image.partition(":")
    pull = f"/images/create?fromImage={quote(name)}&tag={quote(tag)}"
    status, progress = _call(docker_host, "POST", pull, _PULL_S)
    # A pull that fails half-way has told 200 already; its last line says so.
    return status == _OK and '"error"' not in progress


def _call(docker_host: str | None, method: str, path: str, timeout: float) -> tuple[int, str]:
    """Status and text; status 0 when there is no engine to talk to."""
    address = docker_host or _DEFAULT
    try:
        with closing(_connection(address, timeout)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException, ValueError):
        return 0, json.dumps({"error": "no engine"})


def _connection(address: str, timeout: float) -> http.client.HTTPConnection:
    if address.startswith("unix://"):
        path = address.removeprefix("unix://")
        if not os.access(path, os.R_OK | os.W_OK):
            raise OSError(f"{path} can't be used")
        return _UnixConnection(path, timeout)
    parts = urlsplit(address)
    return http.client.HTTPConnection(parts.hostname or "localhost", parts.port or 2375, timeout=timeout)
