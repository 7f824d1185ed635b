"""A few lines of JSON over HTTP: enough to set an installation up and to ask it things in tests."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlencode


class ApiError(Exception):
    """An answer other than 2xx. `body` is the parsed problem, or text."""

    def __init__(self, method: str, url: str, status: int, body: Any) -> None:
        super().__init__(f"{method} {url}: {status} {body}")
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class ApiClient:
    """Speaks to one address with fixed headers."""

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 15.0

    def with_headers(self, **headers: str) -> Self:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return type(self)(self.base_url, {**self.headers, **named}, self.timeout)

    def with_key(self, api_key: str) -> Self:
        return self.with_headers(Authorization=f"Bearer {api_key}")

    def get(self, path: str, **query: str | int) -> Any:
        return self.call("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, path: str, body: Any = None) -> Any:
        return self.call("POST", path, body)

    def items(self, path: str, **query: str | int) -> Iterator[dict[str, Any]]:
        """Every item of a paged list."""
        more: dict[str, str | int] = {}
        while True:
            page = self.get(path, **{**query, **more})
            yield from page["items"]
            if not page.get("next_cursor"):
                return
            more = {"cursor": page["next_cursor"]}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        parsed, _ = self.exchange(method, path, body)
        return parsed

    def exchange(self, method: str, path: str, body: Any = None) -> tuple[Any, Mapping[str, str]]:
        """The parsed answer and its headers. Raises ApiError for any status but 2xx."""
        url = f"{self.base_url}{path}"
        content = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", **self.headers}
        if content is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, content, headers, method=method)  # noqa: S310 - addresses of our own
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310 - as above
                return _parsed(answer.read()), dict(answer.headers)
        except urllib.error.HTTPError as error:
            raise ApiError(method, url, error.code, _parsed(error.read())) from error
        except (urllib.error.URLError, OSError) as error:
            raise ApiError(method, url, 0, str(error)) from error


def is_refusal(error: ApiError) -> bool:
    """The credential is not known (any more)."""
    return error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def _parsed(content: bytes) -> Any:
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")
