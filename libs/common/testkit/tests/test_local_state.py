import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kairos_testkit.local_state import existing_state, forget_data, open_state, settle_ports, with_ports
from kairos_testkit.local_suite import local_suite
from kairos_testkit.ports import free_port
from kairos_testkit.settings import LocalSettings
from kairos_testkit.suite import BY_NAME, FRONT_DOOR, new_secrets, role_secrets, roles


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", free_port()))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.fixture(autouse=True)
def _cleaned(tmp_path: Path) -> Iterator[None]:
    yield
    state = existing_state(tmp_path)
    if state is not None:
        # Root's data lies elsewhere when the test's directory is closed to other users.
        forget_data(state)


def test_secrets_and_ports_are_chosen_once(tmp_path: Path) -> None:
    first, second = open_state(tmp_path, "native"), open_state(tmp_path, "containers")
    assert first == second
    assert second.kind == "native"
    assert existing_state(tmp_path) == first
    assert (first.home / "env").stat().st_mode & 0o077 == 0
    assert len(set(first.ports.values())) == len(first.ports)
    assert {FRONT_DOOR, *BY_NAME} <= set(first.ports)


def test_a_secret_that_is_new_is_added_and_old_ones_stay(tmp_path: Path) -> None:
    state = open_state(tmp_path, "native")
    env = state.home / "env"
    lines = [line for line in env.read_text().splitlines() if not line.startswith("KAIROS_DATA_KEY=")]
    env.write_text("\n".join(lines))
    again = open_state(tmp_path, "native")
    assert again.secrets["KAIROS_DATA_KEY"] != state.secrets["KAIROS_DATA_KEY"]
    assert again.secrets["KAIROS_SIGNING_KEY"] == state.secrets["KAIROS_SIGNING_KEY"]


def test_a_port_somebody_took_is_replaced_unless_it_is_ours(taken: int, tmp_path: Path) -> None:
    free = free_port()
    ports = {FRONT_DOOR: taken, "redis": free}
    settled = settle_ports(ports, running=set())
    assert settled["redis"] == free
    assert settled[FRONT_DOOR] not in (taken, free)
    assert settle_ports(ports, running={FRONT_DOOR}) == ports
    state = open_state(tmp_path, "native")
    moved = with_ports(state, {**state.ports, **settled})
    assert open_state(tmp_path, "native").ports == moved.ports


def test_forgetting_leaves_nothing(tmp_path: Path) -> None:
    state = open_state(tmp_path, "native")
    (state.data / "postgres").mkdir(parents=True)
    forget_data(state)
    assert not state.home.exists()
    assert not state.data.exists()


def test_roles_and_secrets_are_each_others_reverse() -> None:
    secrets = new_secrets()
    assert role_secrets(roles(secrets)).items() <= secrets.items()


def test_the_router_is_told_what_the_file_of_deployments_names_and_nobody_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kairos.toml").write_text(
        'base_url = "${MY_ENDPOINT}"\nmodel = "${MY_MODEL:-small}"\napi_key_env = "MY_SECRET"\n'
    )
    for name in ("MY_ENDPOINT", "MY_SECRET", "NOT_NAMED"):
        monkeypatch.setenv(name, "given")
    suite = local_suite(tmp_path, open_state(tmp_path, "native"), LocalSettings()).suite
    router, bots = (suite.environment(BY_NAME[name]) for name in ("llm-router", "bot-worker"))
    assert {name for name, value in router.items() if value == "given"} == {"MY_ENDPOINT", "MY_SECRET"}
    assert "given" not in bots.values()
    assert router["KAIROS_ROUTER_PRIVATE_PROVIDERS"] == "true"
