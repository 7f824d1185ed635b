"""REST client of a Kairos installation.

Errors of the API become `KairosError` with the problem's code and what to do; 429 and 503 are repeated
after the time the server names, for calls that may be repeated (GET, PUT, DELETE, or an idempotency key).
"""

import random
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from kairos_sdk.profile import Profile

REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
REPEAT_AFTER = frozenset({429, 503})
DENIED = frozenset({401, 403})
WRONG = frozenset({400, 422})


class KairosError(Exception):
    """The installation refused a request; `code` is stable, `detail` says what to do."""

    def __init__(self, status: int, code: str, title: str, detail: str = "", request_id: str = "") -> None:
        super().__init__(f"{title}{': ' + detail if detail else ''}")
        self.status, self.code, self.title, self.detail = status, code, title, detail
        self.request_id = request_id

    @property
    def denied(self) -> bool:
        return self.status in DENIED

    @property
    def wrong_usage(self) -> bool:
        """What was asked for can't be asked for like that, however often it is tried."""
        return self.status in WRONG


class Unreachable(Exception):  # noqa: N818 - reads as the fact it states
    """Nothing answers at the installation's address; is it up?"""


def error_of(response: httpx.Response) -> KairosError:
    """The problem of a response, whether it is problem+json, OpenAI's envelope or neither."""
    request_id = response.headers.get("x-request-id", "")
    try:
        body = response.json()
    except ValueError:
        body = {}
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        error = body["error"]
        code = str(error.get("code") or error.get("type") or response.status_code)
        return KairosError(response.status_code, code, str(error.get("message", "")), "", request_id)
    if not isinstance(body, dict) or "title" not in body:
        return KairosError(
            response.status_code, str(response.status_code), response.reason_phrase, "", request_id
        )
    code = str(body.get("code") or str(body.get("type", "")).rpartition(":")[2])
    detail = "; ".join(filter(None, [str(body.get("detail") or ""), *_findings(body.get("errors"))]))
    return KairosError(response.status_code, code, str(body["title"]), detail, request_id)


def _findings(errors: object) -> list[str]:
    """What is wrong with which field, as the services list it."""
    listed = errors if isinstance(errors, list) else []
    found = [each for each in listed if isinstance(each, dict)]
    return [f"{each.get('at', '')}: {each.get('problem', '')}" for each in found]


def _document(response: httpx.Response) -> Any:
    """Raises KairosError when something else than Kairos has answered."""
    try:
        return response.json() if response.content else None
    except ValueError as error:
        title = "The answer is no JSON; is this the address of Kairos' front door?"
        raise KairosError(response.status_code, "no_json", title) from error


class Client:
    """A session with one installation. Use as a context manager."""

    def __init__(
        self,
        profile: Profile,
        *,
        timeout: float = 30.0,
        attempts: int = 4,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.profile = profile
        self._attempts, self._sleep = attempts, sleep
        self._http = httpx.Client(
            base_url=profile.front_door,
            timeout=timeout,
            transport=transport,
            headers={
                "Authorization": f"Bearer {profile.api_key.get_secret_value()}",
                "User-Agent": "kairos-sdk",
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def text(self, path: str) -> str:
        """The body of a download as text. Raises KairosError, Unreachable."""
        try:
            response = self._http.get(path)
        except httpx.TransportError as error:
            raise Unreachable(f"{self.profile.front_door} does not answer ({error})") from error
        if not response.is_success:
            raise error_of(response)
        return response.text

    def call(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """One request; its JSON body, or None for an empty one. Raises KairosError, Unreachable."""
        repeatable = method in REPEATABLE or "Idempotency-Key" in (headers or {})
        for attempt in range(1, self._attempts + 1):
            try:
                response = self._http.request(method, path, json=json, params=params, headers=headers)
            except httpx.TransportError as error:
                raise Unreachable(f"{self.profile.front_door} does not answer ({error})") from error
            if response.is_success:
                return _document(response)
            if not repeatable or response.status_code not in REPEAT_AFTER or attempt == self._attempts:
                break
            self._sleep(self._pause(response, attempt))
        raise error_of(response)

    @staticmethod
    def _pause(response: httpx.Response, attempt: int) -> float:
        """Seconds the server asks for, else doubling with jitter; at most 30."""
        named = response.headers.get("retry-after", "")
        wait = float(named) if named.isdigit() else 0.25 * 2**attempt * (0.5 + random.random())
        return min(wait, 30.0)

    def get(self, path: str, **params: object) -> Any:
        return self.call(
            "GET", path, params={name: value for name, value in params.items() if value is not None}
        )

    def items(self, path: str, *, limit: int | None = None, **params: object) -> Iterator[dict[str, Any]]:
        """Every item of a list, page after page, up to `limit`."""
        cursor, left = None, limit
        while True:
            page = self.get(path, cursor=cursor, limit=min(left, 200) if left else None, **params)
            for item in page["items"]:
                yield item
                if left is not None:
                    left -= 1
                    if left == 0:
                        return
            cursor = page.get("next_cursor")
            if not cursor:
                return
