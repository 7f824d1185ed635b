from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_contracts.audit import CRITICAL_OPERATIONS, AuditContext, UndeclaredOperation
from kairos_contracts.permissions import (
    ROLE_GRANTS,
    SERVICE_GRANTS,
    SERVICE_ONLY,
    Actor,
    Permission,
    Role,
    authorize,
)

OURS, THEIRS = uuid4(), uuid4()

permissions = st.sampled_from(list(Permission))
roles = st.sampled_from(list(Role))


def member(role: Role | None, scopes: frozenset[Permission] | None = None) -> Actor:
    return Actor(kind="member", id="m", organisation_id=OURS, role=role, scopes=scopes)


def test_roles_are_ordered_viewer_developer_admin() -> None:
    assert ROLE_GRANTS[Role.VIEWER] < ROLE_GRANTS[Role.DEVELOPER] < ROLE_GRANTS[Role.ADMIN]


def test_every_permission_is_granted_to_someone() -> None:
    granted = frozenset().union(*ROLE_GRANTS.values(), *SERVICE_GRANTS.values())
    assert granted == frozenset(Permission)


@given(roles, st.sampled_from(sorted(SERVICE_ONLY)))
def test_no_member_holds_what_only_services_hold(role: Role, permission: Permission) -> None:
    assert not authorize(member(role), permission)
    assert not authorize(member(role, frozenset(Permission)), permission)


@given(roles, permissions)
def test_another_tenants_resource_is_refused_to_every_role(role: Role, permission: Permission) -> None:
    assert not authorize(member(role), permission, organisation_id=THEIRS)


@given(roles, permissions, st.frozensets(permissions))
def test_scopes_only_ever_narrow(role: Role, permission: Permission, scopes: frozenset[Permission]) -> None:
    narrowed = authorize(member(role, scopes), permission)
    assert narrowed == (permission in scopes and authorize(member(role), permission))


@given(permissions)
def test_an_actor_without_a_role_or_an_unknown_service_is_refused(permission: Permission) -> None:
    assert not authorize(member(None), permission)
    assert not authorize(Actor(kind="service", id="stranger"), permission)
    assert not authorize(Actor(kind="member", id="m", role=Role.ADMIN), permission)


def test_only_the_router_manages_leases() -> None:
    holders = {name for name, grants in SERVICE_GRANTS.items() if Permission.LEASES_MANAGE in grants}
    assert holders == {"llm-router"}
    assert authorize(Actor(kind="service", id="llm-router"), Permission.LEASES_MANAGE)


def test_an_undeclared_operation_can_not_be_written() -> None:
    with pytest.raises(UndeclaredOperation, match=r"bot\.exploded"):
        AuditContext.system("bot-worker").entry("bot.exploded", "bot/1")


@pytest.mark.parametrize("action", sorted(CRITICAL_OPERATIONS))
def test_a_declared_operation_carries_who_did_it_and_through_what(action: str) -> None:
    context = AuditContext.of_actor(
        member(Role.ADMIN), via="rest", request_id="r", trace_id="t", ip="192.0.2.1"
    )
    entry = context.entry(action, "x/1", outcome="denied", reason="why")
    assert (entry.action, entry.actor.kind, entry.actor.id) == (action, "member", "m")
    assert (entry.request_id, entry.trace_id, entry.ip, entry.outcome) == ("r", "t", "192.0.2.1", "denied")
