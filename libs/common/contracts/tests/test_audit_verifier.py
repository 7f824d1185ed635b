"""Every way to tamper, at every position, is found and located."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from kairos_contracts.audit_chain import (
    EXPORT_FORMAT,
    Checkpoint,
    Link,
    MerkleTree,
    genesis,
    to_base64url,
)
from kairos_contracts.audit_verifier import Finding, Report, read_anchors, verify_export

STREAM = "0b0f9d1c-1111-4222-8333-444455556666"
OURS = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
THEIRS = Ed25519PrivateKey.from_private_bytes(b"\2" * 32)
SIZE = 12
EVERY = 4


def check(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def signed(tree: MerkleTree, head: str, at: int, key: Ed25519PrivateKey = OURS) -> Checkpoint:
    public = key.public_key().public_bytes_raw()
    draft = Checkpoint(
        stream=STREAM,
        size=tree.size,
        root=tree.root().hex(),
        head_hash=head,
        signed_at=f"2026-01-02T00:00:{at:02d}.000000Z",
        key_id=hashlib.sha256(public).hexdigest()[:16],
        public_key=to_base64url(public),
    )
    return replace(draft, signature=to_base64url(key.sign(draft.message())))


def content(number: int) -> dict[str, Any]:
    return {"action": "bot.updated", "target": f"bot:{number}", "after": {"cost": number / 7}}


def chained(contents: list[dict[str, Any]]) -> list[Link]:
    links, previous = [], genesis(STREAM)
    for seq, entry in enumerate(contents, 1):
        at = f"2026-01-01T00:00:{seq:02d}.000000Z"
        links.append(Link.after(STREAM, seq, previous, recorded_at=at, entry=entry))
        previous = links[-1].hash
    return links


def statements(links: list[Link], key: Ed25519PrivateKey = OURS) -> tuple[list[Checkpoint], Checkpoint]:
    tree, checkpoints = MerkleTree(), []
    for link in links:
        tree.append(bytes.fromhex(link.hash))
        if tree.size % EVERY == 0:
            checkpoints.append(signed(tree, link.hash, tree.size, key))
    return checkpoints, signed(tree, links[-1].hash if links else genesis(STREAM), 59, key)


LINKS = chained([content(number) for number in range(1, SIZE + 1)])
CHECKPOINTS, SEAL = statements(LINKS)


def export(links: list[Link], checkpoints: list[Checkpoint], seal: Checkpoint | None) -> list[str]:
    documents: list[dict[str, Any]] = [{"kind": "header", "format": EXPORT_FORMAT, "stream": STREAM}]
    documents += [checkpoint.document() for checkpoint in checkpoints]
    documents += [link.document() for link in links]
    if seal is not None:
        documents.append(seal.document("seal"))
    return [json.dumps(document) for document in documents]


def report_on(links: list[Link], *, seal: Checkpoint | None = SEAL, anchored: bool = True) -> Report:
    lines = export(links, CHECKPOINTS, seal)
    return verify_export(lines, check, anchors=CHECKPOINTS if anchored else [])


def rechained(links: list[Link], start: int) -> list[Link]:
    """What a careful forger does: number and hash everything from `start` (an index) anew."""
    made = links[:start]
    for link in links[start:]:
        previous = made[-1].hash if made else genesis(STREAM)
        made.append(
            Link.after(STREAM, len(made) + 1, previous, recorded_at=link.recorded_at, entry=link.entry)
        )
    return made


def edited(link: Link) -> Link:
    return replace(link, entry={**link.entry, "target": "bot:somebody else's"})


def rehashed(link: Link) -> Link:
    return replace(link, hash=link.computed_hash())


def test_an_untouched_export_is_intact() -> None:
    report = report_on(LINKS)
    assert report.findings == ()
    assert report.intact
    assert report.pinned
    assert (report.entries, report.head_hash) == (SIZE, LINKS[-1].hash)


def test_an_empty_stream_is_intact() -> None:
    _, seal = statements([])
    report = verify_export(export([], [], seal), check)
    assert report.intact
    assert not report.pinned


Forgery = Callable[[list[Link], int], list[Link]]


def put(links: list[Link], index: int, link: Link) -> list[Link]:
    return [*links[:index], link, *links[index + 1 :]]


def insertion(links: list[Link], index: int) -> list[Link]:
    """A well-formed entry that claims the place behind `index`."""
    at = links[index]
    forged = Link.after(STREAM, at.seq + 1, at.hash, recorded_at=at.recorded_at, entry=content(99))
    return [*links[: index + 1], forged, *links[index + 1 :]]


# What a forger does who does not rewrite the chain: located to the entry itself.
CARELESS: dict[str, tuple[str, Forgery]] = {
    "content edited": ("edited", lambda links, i: put(links, i, edited(links[i]))),
    "content edited and hashed": ("edited", lambda links, i: put(links, i, rehashed(edited(links[i])))),
    "time edited": (
        "edited",
        lambda links, i: put(links, i, replace(links[i], recorded_at="2026-01-01T00:00:30Z")),
    ),
    "hash edited": ("edited", lambda links, i: put(links, i, replace(links[i], hash="0" * 64))),
    "predecessor edited": ("edited", lambda links, i: put(links, i, replace(links[i], prev_hash="0" * 64))),
    "number edited": ("edited", lambda links, i: put(links, i, replace(links[i], seq=links[i].seq + 50))),
    "number edited and hashed": (
        "edited",
        lambda links, i: put(links, i, rehashed(replace(links[i], seq=links[i].seq + 50))),
    ),
    "stream edited": ("edited", lambda links, i: put(links, i, replace(links[i], stream="another"))),
}


@pytest.mark.parametrize("position", range(SIZE))
@pytest.mark.parametrize("forgery", CARELESS)
def test_a_careless_edit_is_located_to_the_entry(forgery: str, position: int) -> None:
    kind, forge = CARELESS[forgery]
    report = report_on(forge(LINKS, position))
    seq = position + 1
    first = report.findings[0]
    assert first.first_seq <= seq <= first.last_seq
    if forgery == "content edited and hashed" and seq == SIZE:
        # No entry follows that would name the true hash; checkpoint and seal still tell.
        assert first.kind == "rewritten"
    else:
        assert first.kind == kind
        assert first.last_seq - first.first_seq <= 1


@pytest.mark.parametrize("position", range(SIZE - 1))
def test_a_deleted_entry_is_located(position: int) -> None:
    report = report_on([*LINKS[:position], *LINKS[position + 1 :]])
    assert report.findings[0] == Finding("deleted", position + 1, position + 1)


@pytest.mark.parametrize("position", range(SIZE))
def test_an_inserted_entry_is_located(position: int) -> None:
    findings = report_on(insertion(LINKS, position)).findings
    assert any(found.kind == "inserted" and found.first_seq == position + 2 for found in findings) or (
        position == SIZE - 1 and findings[0].kind == "inserted" and findings[0].first_seq == SIZE + 1
    )


@pytest.mark.parametrize("position", range(SIZE))
def test_a_repeated_entry_is_located(position: int) -> None:
    report = report_on([*LINKS[: position + 1], LINKS[position], *LINKS[position + 1 :]])
    assert [(found.kind, found.first_seq) for found in report.findings] == [("inserted", position + 1)]


@pytest.mark.parametrize("second", range(1, SIZE))
@pytest.mark.parametrize("first", range(SIZE - 1))
def test_swapped_entries_are_located(first: int, second: int) -> None:
    if first >= second:
        return
    links = list(LINKS)
    links[first], links[second] = links[second], links[first]
    found = {each.first_seq for each in report_on(links).findings if each.kind in {"swapped", "inserted"}}
    assert found & set(range(first + 1, second + 2))


@pytest.mark.parametrize("kept", range(SIZE))
@pytest.mark.parametrize("keep_seal", [True, False])
def test_a_cut_end_is_located(kept: int, keep_seal: bool) -> None:
    report = report_on(LINKS[:kept], seal=SEAL if keep_seal else None)
    assert ("truncated", kept + 1, SIZE) in [(f.kind, f.first_seq, f.last_seq) for f in report.findings]
    without_anchor = report_on(LINKS[:kept], seal=SEAL if keep_seal else None, anchored=False)
    assert any(found.kind == "truncated" for found in without_anchor.findings)


# What a forger does who rewrites every hash but has no key: located between two checkpoints.
CAREFUL: dict[str, Forgery] = {
    "edited": lambda links, i: rechained(put(links, i, edited(links[i])), i),
    "deleted": lambda links, i: rechained([*links[:i], *links[i + 1 :]], i),
    "inserted": lambda links, i: rechained([*links[:i], edited(links[i]), *links[i:]], i),
    "swapped": lambda links, i: rechained(
        [*links[: i - 1], links[i], links[i - 1], *links[i + 1 :]] if i else links[1:], max(i - 1, 0)
    ),
}


@pytest.mark.parametrize("position", range(SIZE))
@pytest.mark.parametrize("forgery", CAREFUL)
def test_a_rewritten_chain_is_located_between_two_checkpoints(forgery: str, position: int) -> None:
    report = report_on(CAREFUL[forgery](LINKS, position))
    seq = position + 1
    if forgery == "deleted" and position >= SIZE - EVERY:
        # Behind the last checkpoint that agrees, one entry less looks like a cut end.
        (found,) = report.findings
        assert (found.kind, found.first_seq) == ("truncated", SIZE)
        assert f"up to {SIZE - EVERY} only" in found.detail
        return
    around = [
        found
        for found in report.findings
        if found.kind in {"rewritten", "truncated", "inserted"}
        and found.first_seq - 1 <= seq <= found.last_seq + 1
        and found.last_seq - found.first_seq < EVERY
    ]
    assert around, report.findings


def test_a_rewritten_export_with_a_foreign_key_is_found_by_the_anchor() -> None:
    links = rechained(put(LINKS, 2, edited(LINKS[2])), 2)
    checkpoints, seal = statements(links, THEIRS)
    lines = export(links, checkpoints, seal)
    pinned = verify_export(lines, check, anchors=CHECKPOINTS)
    assert {"foreign_signature", "rewritten"} <= {found.kind for found in pinned.findings}
    by_key = verify_export(lines, check, trusted_keys={SEAL.public_key})
    assert "foreign_signature" in {found.kind for found in by_key.findings}
    # Without anything to hold on to, the report says that it trusts whoever signed.
    assert verify_export(lines, check).pinned is False


def test_a_fork_is_found() -> None:
    links = rechained(put(LINKS, 6, edited(LINKS[6])), 6)
    checkpoints, seal = statements(links)
    report = verify_export(export(links, checkpoints, seal), check, anchors=CHECKPOINTS)
    assert "fork" in {found.kind for found in report.findings}


def test_an_old_export_is_told_from_a_cut_one() -> None:
    checkpoints, early = statements(LINKS[:EVERY])
    early = replace(early, signed_at="2026-01-02T00:00:05.000000Z", signature="")
    early = replace(early, signature=to_base64url(OURS.sign(early.message())))
    report = verify_export(export(LINKS[:EVERY], checkpoints, early), check, anchors=CHECKPOINTS)
    assert [(found.kind, found.first_seq) for found in report.findings] == [("stale_export", EVERY + 1)]


@pytest.mark.parametrize("changed", ["size", "root", "head_hash", "signed_at", "signature", "public_key"])
def test_an_edited_checkpoint_is_found(changed: str) -> None:
    values: dict[str, Any] = {"size": 5, "signed_at": "2026-01-02T00:00:07.000000Z", "public_key": "AAAA"}
    spoiled = replace(CHECKPOINTS[1], **{changed: values.get(changed, "00" * 32)})
    lines = export(LINKS, [CHECKPOINTS[0], spoiled, CHECKPOINTS[2]], SEAL)
    report = verify_export(lines, check, anchors=CHECKPOINTS)
    assert report.findings[0].kind == "edited_checkpoint"
    assert report.findings[0].last_seq == spoiled.size


def test_a_clock_turned_back_is_found() -> None:
    early = "2025-01-01T00:00:00.000000Z"
    links = rechained([*LINKS[:5], replace(LINKS[5], recorded_at=early), *LINKS[6:]], 5)
    checkpoints, seal = statements(links)
    report = verify_export(export(links, checkpoints, seal), check)
    assert [(found.kind, found.first_seq) for found in report.findings] == [("clock_turned_back", 6)]
    older = replace(CHECKPOINTS[2], signed_at="2026-01-01T00:00:00.000000Z", signature="")
    older = replace(older, signature=to_base64url(OURS.sign(older.message())))
    report = verify_export(export(LINKS, [CHECKPOINTS[1], older], SEAL), check)
    assert "clock_turned_back" in {found.kind for found in report.findings}


@pytest.mark.parametrize(
    "line", ["{", "[]", "null", '{"kind": "entry"}', '{"kind": "what"}', '{"kind": "header", "format": "x"}']
)
def test_an_unreadable_line_is_found(line: str) -> None:
    lines = export(LINKS, CHECKPOINTS, SEAL)
    report = verify_export([*lines[:-3], line, *lines[-3:]], check)
    assert report.findings[0].kind == "unreadable"


def test_a_huge_forged_number_does_not_stop_the_verifier() -> None:
    gap = replace(LINKS[3], seq=10**15, prev_hash="0" * 64)
    report = report_on([*LINKS[:3], rehashed(gap)])
    assert not report.intact


def test_an_anchor_file_with_a_bad_line_names_it() -> None:
    good = json.dumps(CHECKPOINTS[0].document("anchor"))
    assert read_anchors([good, "", good]) == [CHECKPOINTS[0]] * 2
    with pytest.raises(ValueError, match="line 2"):
        read_anchors([good, "{"])


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, as written there."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\1" + naive_root(leaves[:half]) + naive_root(leaves[half:])).digest()


@given(st.lists(st.binary(max_size=4), max_size=70), st.integers(0, 70))
def test_the_growing_tree_agrees_with_the_definition_also_when_resumed(leaves: list[bytes], cut: int) -> None:
    tree = MerkleTree()
    for leaf in leaves[:cut]:
        tree.append(leaf)
    resumed = MerkleTree(tree.size, tree.frontier)
    for leaf in leaves[cut:]:
        resumed.append(leaf)
    assert resumed.root() == naive_root(leaves)


@settings(max_examples=200)
@given(st.data())
def test_any_change_of_any_character_of_an_export_is_found(data: st.DataObject) -> None:
    lines = export(LINKS, CHECKPOINTS, SEAL)
    number = data.draw(st.integers(len(CHECKPOINTS) + 1, len(lines) - 2))
    document = json.loads(lines[number])
    name = data.draw(st.sampled_from(["seq", "prev_hash", "hash", "recorded_at", "entry", "stream"]))
    old = document[name]
    new = data.draw(st.integers(-5, 50) if name == "seq" else st.text(max_size=8))
    if new == old:
        return
    document[name] = {"action": new} if name == "entry" else new
    lines[number] = json.dumps(document)
    report = verify_export(lines, check, anchors=CHECKPOINTS)
    assert not report.intact
    seq = number - len(CHECKPOINTS)
    assert any(found.first_seq <= seq <= found.last_seq for found in report.findings), report.findings
