"""Requests that are made to hurt: refused as what they are, with nothing held and no error of ours."""

from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.servers

KEY = "key-of-a-developer"


def nested(depth: int) -> bytes:
    deep = b"[" * depth + b"]" * depth
    return b'{"model":"default","messages":[{"role":"user","content":"hi"}],"vendor_field":%b}' % deep


@pytest.mark.parametrize(
    ("depth", "status"), [(150, 200), (260, 400), (900, 400), (1_020, 400), (5_000, 400)]
)
async def test_a_document_nested_too_deeply_is_the_callers_fault(
    service_of: Any, depth: int, status: int
) -> None:
    async with service_of(limit=10**9) as service, aiohttp.ClientSession() as session:
        service.keys.add(KEY)
        async with session.post(
            f"{service.v1}/chat/completions",
            data=nested(depth),
            headers={"Authorization": f"Bearer {KEY}"},
        ) as response:
            told = await response.json()
            assert response.status == status, told
        assert all(lease.balance.held == 0 for lease in service.router.wallet.leases())
