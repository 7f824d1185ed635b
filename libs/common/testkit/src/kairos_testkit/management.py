"""The few calls of RabbitMQ's management API that tests and `make up` need.

rabbitmqctl boots an Erlang machine for each call, which takes seconds; this takes milliseconds.
"""

import base64
import http.client
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit


class ManagementError(Exception):
    """The management API refused a call."""


@dataclass(frozen=True, slots=True)
class Management:
    host: str
    port: int
    user: str
    password: str

    @classmethod
    def from_url(cls, url: str) -> Self:
        parts = urlsplit(url)
        return cls(
            parts.hostname or "127.0.0.1",
            parts.port or 15672,
            unquote(parts.username or "guest"),
            unquote(parts.password or "guest"),
        )

    @property
    def url(self) -> str:
        return f"http://{quote(self.user, safe='')}:{quote(self.password, safe='')}@{self.host}:{self.port}"

    def call(self, method: str, path: str, body: Any = None, timeout: float = 10.0) -> Any:
        """Status 2xx gives the parsed body (None when empty); anything else raises ManagementError."""
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            raise ManagementError(
                f"{method} {path}: {response.status} {content[:300].decode(errors='replace')}"
            )
        return json.loads(content) if content else None

    def listens(self, amqp_port: int) -> bool:
        return bool(self.call("GET", f"/api/health/checks/port-listener/{amqp_port}")["status"] == "ok")

    def create_vhost(self, name: str) -> None:
        vhost = quote(name, safe="")
        self.call("PUT", f"/api/vhosts/{vhost}", {})
        self.call(
            "PUT",
            f"/api/permissions/{vhost}/{quote(self.user, safe='')}",
            {"configure": ".*", "write": ".*", "read": ".*"},
        )

    def delete_vhost(self, name: str) -> None:
        self.call("DELETE", f"/api/vhosts/{quote(name, safe='')}")

    def queues(self, vhost: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", f"/api/queues/{quote(vhost, safe='')}")
        return found

    def close_connections(self, vhost: str) -> int:
        """Cuts every client connection of a virtual host, as a broker failover does. Gives the number cut."""
        found = self.call("GET", f"/api/vhosts/{quote(vhost, safe='')}/connections")
        for connection in found:
            self.call("DELETE", f"/api/connections/{quote(connection['name'], safe='')}")
        return len(found)
