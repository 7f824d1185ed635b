"""What an exception of LiteLLM's SDK tells about the request that caused it. The SDK is not imported here."""

from collections.abc import Iterator

from kairos_router.adapters.litellm_request import refused
from kairos_router.application.ports import Fault, ProviderFailed

# Raised before anything was sent, by whichever HTTP library the SDK uses for the provider.
_NOT_SENT = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "ClientConnectorError",
        "ClientConnectorDNSError",
        "ConnectionTimeoutError",
        "EndpointConnectionError",
        "NoCredentialsError",
    }
)
_NO_TOKEN = {"TransportError": Fault.UNREACHABLE, "RefreshError": Fault.MISCONFIGURED}
_UNREADABLE_KEY = ("Could not deserialize key data", "Unable to load PEM file")
_FAULTS = {
    "AuthenticationError": Fault.MISCONFIGURED,
    "PermissionDeniedError": Fault.MISCONFIGURED,
    "NotFoundError": Fault.MISCONFIGURED,
    "PaymentRequiredError": Fault.MISCONFIGURED,
    "LiteLLMUnknownProvider": Fault.MISCONFIGURED,
    "RateLimitError": Fault.RATE_LIMITED,
    "ContextWindowExceededError": Fault.TOO_LONG,
    "BadRequestError": Fault.INVALID_REQUEST,
    "UnprocessableEntityError": Fault.INVALID_REQUEST,
    "Timeout": Fault.TIMEOUT,
    "APIConnectionError": Fault.BROKEN,
    "ServiceUnavailableError": Fault.FAILED,
    "BadGatewayError": Fault.FAILED,
    "InternalServerError": Fault.FAILED,
    "APIError": Fault.FAILED,
}
# These come from something between us and the model, which may have run and may charge.
_IN_BETWEEN = frozenset({408, 502, 504, 520, 521, 522, 523, 524})
_MISCONFIGURED = frozenset({401, 402, 403, 404})
_LONGEST_MESSAGE = 1_000


def failure_of(error: Exception, *, secrets: Iterator[str], began: bool = False) -> ProviderFailed:
    """`began`: the provider has sent a part of the answer. `secrets` never leave in a message."""
    names = {each.__name__ for each in type(error).__mro__}
    if not began and any(type(cause).__name__ in _NOT_SENT for cause in _causes(error)):
        return ProviderFailed(Fault.UNREACHABLE, detail=type(error).__name__)
    if not began:
        untold = _without_token(error)
        if untold is not None:
            return ProviderFailed(untold, detail="no token for the service account")
        if type(error).__name__ == "MidStreamFallbackError":
            # The SDK begins some streams at their first event, and wraps what refused them.
            original = getattr(error, "original_exception", None)
            error = original if isinstance(original, Exception) else error
            names = {each.__name__ for each in type(error).__mro__}
    fault = next((_FAULTS[each.__name__] for each in type(error).__mro__ if each.__name__ in _FAULTS), None)
    given = getattr(error, "status_code", None)
    status = int(given) if isinstance(given, int | str) and str(given).isdigit() else 0
    if fault is None:
        # The SDK itself failed; nobody knows how far it had come.
        return ProviderFailed(Fault.BROKEN, may_have_run=True, detail=type(error).__name__)
    if fault is Fault.INVALID_REQUEST and status in _MISCONFIGURED:
        fault = Fault.MISCONFIGURED  # The SDK calls some providers' 403 a bad request.
    if fault is Fault.INVALID_REQUEST and not began:
        return refused(_message(error, secrets))
    sent = fault in {Fault.TIMEOUT, Fault.BROKEN} or status in _IN_BETWEEN or "BadGatewayError" in names
    return ProviderFailed(
        Fault.FAILED if began and fault.callers else fault,
        status=0 if fault in {Fault.TIMEOUT, Fault.BROKEN} else status,
        may_have_run=began or sent,
        retry_after=_retry_after(error),
        detail=type(error).__name__,
    )


def _without_token(error: Exception) -> Fault | None:
    """What kept Google's library from getting the token that the request to the model needs."""
    for each in _causes(error):
        if type(each).__name__ in _NO_TOKEN:
            again = getattr(each, "retryable", False)
            return Fault.FAILED if again else _NO_TOKEN[type(each).__name__]
        if isinstance(each, ValueError) and str(each).startswith(_UNREADABLE_KEY):
            return Fault.MISCONFIGURED
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, with a bound against circles."""
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__ or getattr(found, "original_exception", None)


def _message(error: Exception, secrets: Iterator[str]) -> str:
    message = str(getattr(error, "message", "") or "the provider refused the request")
    for secret in secrets:
        message = message.replace(secret, "***")
    return message[:_LONGEST_MESSAGE]


def _retry_after(error: Exception) -> str | None:
    for holder in (getattr(error, "response", None), error):
        headers = getattr(holder, "headers", None) or getattr(holder, "litellm_response_headers", None)
        value = headers.get("retry-after") if headers else None
        if value:
            return str(value)
    return None
