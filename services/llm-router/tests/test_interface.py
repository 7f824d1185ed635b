"""What /openapi.json says about this service."""

from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.servers


async def test_the_interface_holds_v1_and_management_and_says_what_each_needs(service_of: Any) -> None:
    async with service_of() as service, aiohttp.ClientSession() as session:
        address = f"{service.v1.removesuffix('/v1')}/openapi.json"
        async with session.get(address) as response:
            document = await response.json()
    chat = document["paths"]["/v1/chat/completions"]
    # The front door serves /v1 at its root and management below /api/llm-router.
    assert chat["servers"] == [{"url": "/"}]
    assert document["servers"][0]["url"] == "/api/llm-router"
    assert chat["post"]["x-kairos-permission"] == "completions.create"
    assert {"400", "401", "402", "404", "429"} <= chat["post"]["responses"].keys()
    assert "x-kairos-degraded" in chat["post"]["responses"]["200"]["headers"]
    offered = {path for path in document["paths"] if path.startswith("/v1")}
    assert offered == {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{model}",
    }
    operations = [
        operation
        for path in document["paths"].values()
        for method, operation in path.items()
        if method != "servers"
    ]
    assert all(operation["security"] == [{"bearer": []}] for operation in operations)
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
