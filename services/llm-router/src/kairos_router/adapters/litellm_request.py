"""What LiteLLM's SDK is asked, from a caller's request: nothing else of the request reaches it.

The SDK takes its own controls (addresses, keys, fallbacks, mock answers) as arguments beside OpenAI's fields,
so only fields on a list pass. It also fetches pictures and files by address, from inside our network; those
are refused, as are its names for reading the process's environment.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from kairos_router.application.ports import Fault, ProviderCall, ProviderFailed
from kairos_router.domain import vertex
from kairos_router.domain.catalogue import Deployment
from kairos_router.domain.provider_rules import KEY_ONLY

# OpenAI's fields, and Anthropic's `thinking`. The output limit, model and streaming are ours.
_FIELDS = frozenset(
    {
        "messages",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "service_tier",
        "stop",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
# What a deployment may say in `options`.
OPTIONS = frozenset(
    {
        "api_version",
        "aws_access_key_id",
        "aws_bedrock_runtime_endpoint",
        "aws_region_name",
        "aws_role_name",
        "aws_secret_access_key",
        "aws_session_name",
        "aws_session_token",
        "organization",
        "vertex_credentials",
        "vertex_location",
        "vertex_project",
    }
)
# It finds credentials in the machine it runs on when none are given.
_AMBIENT = frozenset({"bedrock"})
# The SDK fails at their events after the provider has run: such a stream is not begun.
_NO_STREAM = frozenset({"cohere", "cohere_chat"})
_ENVIRONMENT = "os.environ/"
# Far beyond our own limits, which end a call.
_NEVER_S = 3_600.0


def arguments(call: ProviderCall) -> dict[str, Any]:
    """The SDK's arguments for a chat completion. Raises ProviderFailed."""
    require_embedded(call.payload)
    asked = {name: value for name, value in call.payload.items() if name in _FIELDS}
    asked = {name: value for name, value in asked.items() if name not in call.deployment.dialect.strip}
    return {**asked, **connection(call.deployment), "max_tokens": call.max_tokens}


def embedding_arguments(call: ProviderCall) -> dict[str, Any]:
    """The SDK's arguments for embeddings. Raises ProviderFailed."""
    if call.deployment.provider in vertex.NAMES:
        raise _misconfigured("embeddings of Vertex AI are not reached; use kind openai or local")
    asked = {
        name: call.payload[name] for name in ("input", "dimensions") if call.payload.get(name) is not None
    }
    return {**asked, "encoding_format": "float", **connection(call.deployment)}


def stream_arguments(call: ProviderCall) -> dict[str, Any]:
    """The SDK's arguments for a chat completion in pieces. Raises ProviderFailed."""
    asked = arguments(call)
    if call.deployment.provider in _NO_STREAM:
        raise _misconfigured("the SDK can't read this provider's stream; reach it by kind openai")
    return {**asked, "stream": True, "stream_options": {"include_usage": True}}


def connection(deployment: Deployment) -> dict[str, Any]:
    """Where to, as whom, and without retries: the router makes its own, each with a hold."""
    options = dict(deployment.dialect.options)
    provider = "vertex_ai" if deployment.provider in vertex.NAMES else deployment.provider
    known = provider in KEY_ONLY or provider == "vertex_ai"
    if deployment.owner is not None and (not known or deployment.base_url):
        # Others find our own credentials, and the SDK follows redirects: an address would lead anywhere.
        raise _misconfigured("an organisation's deployment can't be reached this way")
    headers = dict(deployment.dialect.headers)
    texts = [deployment.base_url, deployment.api_key or "", deployment.model]
    texts += [*options.values(), *headers.values()]
    if options.keys() - OPTIONS or any(_ENVIRONMENT in text for text in texts):
        raise _misconfigured("an option is not allowed")
    if provider != "vertex_ai" and any(name.startswith("vertex_") for name in options):
        raise _misconfigured("an option belongs to Vertex AI")
    named = deployment.api_key or options.keys() & {"aws_secret_access_key", "vertex_credentials"}
    ambient = provider in _AMBIENT and deployment.owner is None and not deployment.base_url
    if not named and not ambient:
        # The SDK would take a key of our own and send it to that address, or spend for somebody.
        raise _misconfigured("the deployment has no key")
    found: dict[str, Any] = {
        **({} if provider == "vertex_ai" else options),
        "model": f"{provider}/{deployment.model}",
        "timeout": _NEVER_S,
        "num_retries": 0,
        "max_retries": 0,
        "drop_params": True,
        # Its handler of remote tools wants a package that is not there, and would call them itself.
        "_skip_mcp_handler": True,
    }
    if deployment.base_url:
        found["api_base"] = deployment.base_url
    if provider == "vertex_ai":
        found = {**_vertex(deployment, options), **found}
    elif deployment.api_key:
        found["api_key"] = deployment.api_key
    elif provider == "bedrock" and "aws_secret_access_key" in options:
        # Unless told that there is none, the SDK takes these from the environment, beside or before the keys.
        found["api_key"] = ""
        found.setdefault("aws_session_token", "")
    if headers:
        found["extra_headers"] = headers
    return found


def _vertex(deployment: Deployment, options: Mapping[str, str]) -> dict[str, str]:
    """All that the SDK would otherwise take from the environment: key, project, location and address."""
    try:
        # Google's library asks the key's own server for a token and follows where it is led.
        account = vertex.service_account(vertex_key(deployment), anywhere=deployment.owner is None)
        place = vertex.place(options, deployment.model, account)
    except vertex.InvalidVertex as error:
        raise _misconfigured(str(error)) from None
    return {
        "vertex_credentials": account.document,
        "vertex_project": place.project,
        "vertex_location": place.location,
        "api_base": place.base_url,
    }


def vertex_key(deployment: Deployment) -> str:
    """The service account's JSON: the deployment's key, or an option of the file."""
    return deployment.api_key or dict(deployment.dialect.options).get("vertex_credentials", "")


def require_embedded(payload: Mapping[str, Any]) -> None:
    """Raises ProviderFailed for a picture or file by address, and for a tool that somebody else runs."""
    for part in _parts(payload.get("messages")):
        image, file = part.get("image_url"), part.get("file")
        address = image.get("url") if isinstance(image, dict) else image
        if address is not None and not str(address).startswith("data:"):
            raise refused("this deployment takes images as data: addresses only", "messages")
        if isinstance(file, dict) and (file.get("file_id") or file.get("format")):
            raise refused("this deployment takes files as file_data only", "messages")
        if part.get("type") not in {"text", "image_url", "file", "input_audio", "refusal", "thinking"}:
            raise refused("this deployment does not know that type of content", "messages")
    for tool in payload.get("tools") or ():
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise refused("this deployment takes function tools only", "tools")


def _parts(messages: Any) -> Iterator[Mapping[str, Any]]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        yield from (part for part in content if isinstance(part, dict)) if isinstance(content, list) else ()


def refused(message: str, param: str | None = None, code: str = "invalid_request") -> ProviderFailed:
    """The request is at fault; the caller gets OpenAI's error."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return ProviderFailed(Fault.INVALID_REQUEST, status=400, body=orjson.dumps({"error": error}))


def _misconfigured(detail: str) -> ProviderFailed:
    return ProviderFailed(Fault.MISCONFIGURED, detail=detail)
