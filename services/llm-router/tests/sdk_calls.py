"""What tests of providers behind LiteLLM's SDK share: how a call is made, and what is seen of it."""

import json
from typing import Any
from uuid import uuid4

import pytest

from kairos_router.adapters.litellm_upstream import LiteLLMUpstream
from kairos_router.application.ports import ProviderCall, ProviderFailed
from kairos_router.domain.catalogue import Deployment

# The first test imports the SDK, which takes seconds on a busy machine.
SDK_MARKS = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # The SDK's own; what it warns of is not ours to mend.
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def asks(deployment: Deployment, text: str = "hello there", **more: Any) -> ProviderCall:
    include_usage = more.pop("include_usage", False)
    payload = {"model": "m", "messages": [{"role": "user", "content": text}]} | more
    return ProviderCall(deployment, payload, 50, uuid4(), include_usage)


async def pieces(upstream: Any, call: ProviderCall) -> tuple[list[Any], Any]:
    """The documents of a stream to its end, and the stream."""
    stream = await upstream.open_stream(call)
    events = b""
    while piece := await stream.next():
        events += piece
    data = [line[6:] for line in events.splitlines() if line.startswith(b"data: ")]
    assert data.pop() == b"[DONE]"
    stream.close()
    return [json.loads(each) for each in data], stream


async def failure(upstream: LiteLLMUpstream, call: ProviderCall) -> ProviderFailed:
    with pytest.raises(ProviderFailed) as caught:
        await upstream.complete(call)
    return caught.value
