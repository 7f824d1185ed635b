import asyncio
import base64
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from kairos_auth.adapters.anchor_file import AnchorFile
from kairos_auth.adapters.hashing import Argon2Hasher
from kairos_auth.adapters.key_ring import KeyRing, check_signature
from kairos_auth.bootstrap import key_ring
from kairos_auth.domain.errors import AuthError, Busy
from kairos_auth.entrypoints.failures import problem_of
from kairos_auth.settings import Settings
from kairos_contracts.audit_chain import Checkpoint, from_base64url

CHECKPOINT = Checkpoint("system", 1, "00", "11", "2026-01-01T00:00:00.000000Z", "kid", "AAAA", "BBBB")


async def test_hashing_leaves_the_event_loop_free_and_is_capped() -> None:
    hasher = Argon2Hasher(at_once=2, waiting=1, memory_kib=64, passes=1)
    gate, running, most = threading.Event(), 0, 0
    lock = threading.Lock()

    def work() -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(5)
        with lock:
            running -= 1
        return True

    tasks = [asyncio.create_task(hasher._run(work)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await hasher.hash("one too many")
    gate.set()
    assert await asyncio.gather(*tasks) == [True] * 3
    assert most <= 2
    assert await hasher.verify("secret", await hasher.hash("secret"))
    hasher.close()


async def test_only_the_right_password_verifies_and_nobody_never_does() -> None:
    hasher = Argon2Hasher(memory_kib=64, passes=1)
    stored = await hasher.hash("right")
    assert stored.startswith("$argon2id$")
    assert await hasher.verify("right", stored) is True
    assert await hasher.verify("wrong", stored) is False
    assert await hasher.verify("right", "no hash at all") is False
    assert await hasher.verify("the password of nobody", None) is False
    hasher.close()


async def test_the_default_cost_is_what_owasp_asks_for() -> None:
    hasher = Argon2Hasher()
    parameters = (await hasher.hash("x")).split("$")[3]
    assert parameters == "m=19456,t=2,p=1"
    hasher.close()


async def test_anchors_are_appended_and_read_back(tmp_path: Path) -> None:
    anchor = AnchorFile(tmp_path / "deep" / "anchor.ndjson")
    assert await anchor.read() == []
    await anchor.check()
    second = replace(CHECKPOINT, size=2)
    await anchor.write([CHECKPOINT])
    await anchor.write([second])
    assert await anchor.read() == [CHECKPOINT, second]


async def test_a_torn_line_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "anchor.ndjson"
    path.write_text('{"kind": "anc')
    await AnchorFile(path).write([CHECKPOINT])
    assert json.loads(path.read_text().splitlines()[1])["size"] == 1
    with pytest.raises(ValueError, match="line 1"):
        await AnchorFile(path).read()


def test_a_key_ring_signs_what_others_can_check() -> None:
    ring = KeyRing(b"\1" * 32, others=[b"\2" * 32])
    signature = ring.sign(b"message")
    public = from_base64url(ring.public_key)
    assert check_signature(public, signature, b"message")
    assert not check_signature(public, signature, b"another")
    assert not check_signature(b"short", signature, b"message")
    assert ring.public_key in ring.public_keys
    assert len(ring.public_keys) == 2
    (current, other) = ring.jwks()["keys"]
    assert current["kid"] == ring.key_id != other["kid"]
    assert "d" not in current


SETTINGS = {
    "postgres_url": "postgresql://u:postgres-pw@h/d",
    "amqp_url": "amqp://u:amqp-pw@h",
    "redis_url": "redis://h",
    "auth_url": "http://h",
    "service_secret": "service-pw",
    "signing_key": base64.b64encode(b"\1" * 32).decode(),
    "key_pepper": "pepper-pw",
    "service_secrets": {"bot-worker": "bots-pw"},
    "anchor_file": "anchor.ndjson",
}


def test_settings_show_no_secret() -> None:
    settings = Settings.model_validate(SETTINGS)
    shown = repr(settings) + settings.model_dump_json()
    assert "-pw" not in shown
    assert SETTINGS["signing_key"] not in shown
    assert key_ring(settings).key_id


@pytest.mark.parametrize("key", ["not base64!", base64.b64encode(b"short").decode()])
def test_a_malformed_signing_key_is_refused(key: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(SETTINGS | {"signing_key": key})


def test_every_refusal_of_a_use_case_has_its_problem() -> None:
    answers = set()
    for kind in AuthError.__subclasses__():
        if kind.__name__ in {"TooManyAttempts", "BrokenChain"}:
            continue
        answers.add(problem_of(kind()).status)
    assert answers <= {401, 403, 404, 409, 422, 503}
