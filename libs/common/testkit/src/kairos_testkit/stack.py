"""The whole suite for one test session: own ports, own database, own virtual host, fakes in this process.

The same service descriptions as `make up`. Every process can be killed, paused and restarted by name.
"""

import logging
import shutil
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from kairos_testkit import native
from kairos_testkit.api_client import ApiClient
from kairos_testkit.compiled import FOLDER, make
from kairos_testkit.databases import Provisioned
from kairos_testkit.fake_provider import FakeProvider
from kairos_testkit.fake_telegram import FakeTelegram
from kairos_testkit.front_door import front_door
from kairos_testkit.guardian import Guardian
from kairos_testkit.native import ProgramMissingError
from kairos_testkit.otlp_receiver import OtlpReceiver
from kairos_testkit.ports import free_port
from kairos_testkit.processes import Process, ServerSpec
from kairos_testkit.seed import TELEGRAM_BOT_ID, Seeded, SeedPlan, seed
from kairos_testkit.servers import Servers
from kairos_testkit.suite import BY_NAME, FRONT_DOOR, SERVICES, TELEGRAM, Suite, new_secrets, role_secrets

_log = logging.getLogger(__name__)
# Deployments at the fake provider for what tests look at: the usual one, a dear one with a free one to fall
# back to, and two that differ in how much they can read.
CONFIG: Final = """\
price_version = "test"

[deployments.simulator]
kind = "simulator"
provider = "kairos"
model = "simulator-1"
price = {{ input = 100, output = 400 }}
context_window = 128_000
max_output_tokens = 4_096
capabilities = ["streaming", "tools", "json"]

[deployments.fake]
kind = "openai"
provider = "fake"
model = "fake-echo"
base_url = "{provider_url}"
api_key_env = "FAKE_PROVIDER_API_KEY"
price = {{ input = 150, output = 600 }}
context_window = 128_000
max_output_tokens = 4_096
capabilities = ["streaming", "tools", "json", "json_schema", "vision"]

[deployments.fake-native]
kind = "openai"
provider = "fake"
model = "fake-echo"
base_url = "{provider_url}"
api_key_env = "FAKE_PROVIDER_API_KEY"
price = {{ input = 150, output = 600 }}
context_window = 128_000
max_output_tokens = 4_096
capabilities = ["streaming", "tools", "json", "json_schema", "vision", "responses"]

[deployments.fake-embedding]
kind = "openai"
provider = "fake"
model = "fake-embedding"
base_url = "{provider_url}"
api_key_env = "FAKE_PROVIDER_API_KEY"
price = {{ input = 20, output = 0 }}
context_window = 8_192
max_output_tokens = 1
capabilities = ["embeddings"]

[deployments.dear]
kind = "openai"
provider = "fake"
model = "fake-dear"
base_url = "{provider_url}"
api_key_env = "FAKE_PROVIDER_API_KEY"
price = {{ input = 4_000_000, output = 8_000_000 }}
context_window = 128_000
max_output_tokens = 4_096
capabilities = ["streaming", "tools", "json"]

[deployments.local]
kind = "openai"
provider = "ollama"
model = "fake-local"
base_url = "{provider_url}"
price = {{ input = 0, output = 0 }}
context_window = 32_000
max_output_tokens = 4_096
capabilities = ["streaming", "tools", "json"]

[deployments.short]
kind = "openai"
provider = "fake"
model = "fake-short"
base_url = "{provider_url}"
api_key_env = "FAKE_PROVIDER_API_KEY"
price = {{ input = 50, output = 200 }}
context_window = 32_000
max_output_tokens = 4_096
capabilities = ["streaming"]

[deployments.long]
kind = "openai"
provider = "fake"
model = "fake-long"
base_url = "{provider_url}"
api_key_env = "FAKE_PROVIDER_API_KEY"
price = {{ input = 150, output = 600 }}
context_window = 200_000
max_output_tokens = 4_096
capabilities = ["streaming"]

[routes.default]
deployments = ["fake"]

[routes.offline]
deployments = ["simulator"]

[routes.frugal]
deployments = ["dear", "local"]

[routes.fitting]
deployments = ["short", "long"]
"""

# Deployments that a test may hurt: one that failed rests for a while, and nobody else should notice.
_HURT: Final = """
[deployments.{name}]
kind = "openai"
provider = "fake"
model = "fake-echo"
base_url = "{provider_url}"
api_key_env = "FAKE_PROVIDER_API_KEY"
price = {{ input = 150, output = 600 }}
context_window = 128_000
max_output_tokens = 4_096
capabilities = ["streaming", "tools", "json", "json_schema", "vision"{more}]
"""
TO_HURT: Final = {"limited": "", "retried": "", "broken": "", "cut": "", "cut-native": ', "responses"'}


def default_config(provider_url: str) -> str:
    """kairos.toml of a stack, over a fake provider at this address."""
    hurt = (
        _HURT.format(name=f"fake-{name}", provider_url=provider_url, more=more)
        for name, more in TO_HURT.items()
    )
    return CONFIG.format(provider_url=provider_url) + "".join(hurt)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """What a suite of tests may want different. Defaults are quick and deterministic."""

    # Service name -> number of processes. Replicas share the queues; the first one has the front door.
    replicas: Mapping[str, int] = field(default_factory=dict)
    # Service name -> environment.
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    quiet_window_ms: int = 50
    # Telegram's own limits (one message a second and chat) would make tests wait.
    telegram_chat_per_s: float = 1_000.0
    log_level: str = "INFO"
    with_front_door: bool = True
    # False: coverage leaves the services alone, which then take half the time for what they do.
    measured: bool = True
    # True: llm-router as images have it, see compiled.py. Always so where this process imports it so, too.
    compiled: bool = False
    keep: bool = False
    # None: FakeProvider in this process, and the configuration above.
    config: str | None = None
    provider_url: str | None = None
    telegram_api_base: str | None = None
    otlp_endpoint: str | None = None


@dataclass(slots=True)
class Stack:
    """A running suite. `seeded` has keys and ids; `telegram`, `provider` and `otlp` are the outside world."""

    servers: Servers
    suite: Suite
    options: StackOptions
    telegram: FakeTelegram
    provider: FakeProvider
    otlp: OtlpReceiver
    guardian: Guardian
    processes: dict[str, Process] = field(default_factory=dict)
    _seeded: Seeded | None = None

    @property
    def seeded(self) -> Seeded:
        assert self._seeded is not None, "the stack has not started"
        return self._seeded

    @property
    def front_door(self) -> str:
        return self.suite.url(FRONT_DOOR)

    def url(self, service: str) -> str:
        return self.suite.url(service)

    def client(self, service: str, *, api_key: str | None = None) -> ApiClient:
        """REST of one service, as the seeded admin key (or another)."""
        return ApiClient(self.url(service)).with_key(api_key or self.seeded.api_key)

    def say(self, chat_id: int, text: str, **more: Any) -> int:
        """A person writes to the demo bot on Telegram."""
        return self.telegram.say(TELEGRAM_BOT_ID, chat_id, text, **more)

    def kill(self, name: str) -> int:
        """SIGKILL a process by name ("bot-worker", "bot-worker-1"); gives the number it had."""
        pid = self.processes[name].pid
        self.processes[name].kill()
        return pid

    def start(self, name: str) -> None:
        self.processes[name].start()

    def restart(self, name: str) -> None:
        self.processes[name].restart()

    def log(self, name: str) -> str:
        return self.processes[name].log.read_text(errors="replace")

    def wait_ready(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Process.wait_ready, self.processes.values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything politely, services before their front door's absence could matter."""
        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(Process.stop, self.processes.values()))
        self.guardian.close()
        for fake in (self.telegram, self.provider, self.otlp):
            fake.stop()
        if not self.options.keep:
            shutil.rmtree(self.suite.state, ignore_errors=True)


def start_stack(servers: Servers, root: Path, options: StackOptions | None = None) -> Stack:
    """Start the suite on these servers and seed it. Raises NotReadyError with the end of a log."""
    options = options or StackOptions()
    stack = _build(servers, root, options)
    try:
        stack.suite.prepare_database()
        for name, spec in _specs(stack):
            stack.processes[name] = Process(spec, stack.suite.state / "logs" / f"{name}.log", stack.guardian)
        for process in stack.processes.values():
            process.start(wait=False)
        stack.wait_ready()
        token = f"{TELEGRAM_BOT_ID}:{stack.suite.secrets['KAIROS_TELEGRAM_TOKEN_SECRET']}"
        plan = SeedPlan(telegram_token=token, embedding_model="fake-embedding")
        stack._seeded = seed(stack.suite, plan, {})  # noqa: SLF001 - its builder
    except BaseException:
        stack.close()
        raise
    return stack


def _build(servers: Servers, root: Path, options: StackOptions) -> Stack:
    state = Path(tempfile.mkdtemp(prefix="kairos-stack-"))
    state.chmod(0o711)
    guardian = Guardian()
    if not options.keep:
        guardian.remove_at_end(state)
    telegram, provider, otlp = FakeTelegram().start(), FakeProvider().start(), OtlpReceiver().start()
    provider_url = options.provider_url or provider.url
    config_file = state / "kairos.toml"
    config_file.write_text(options.config or default_config(provider_url))
    names = [service.name for service in SERVICES]
    ports = {name: free_port() for name in (*names, FRONT_DOOR, TELEGRAM)}
    vhost = state.name
    servers.management.create_vhost(vhost)
    entrance = FRONT_DOOR if options.with_front_door else "bot-worker"
    suite = Suite(
        root=root,
        state=state,
        ports=ports,
        amqp_url=servers.amqp(vhost),
        postgres_admin_url=servers.postgres_admin_url,
        redis_url=f"{servers.redis_url.rpartition('/')[0]}/15",
        # Roles belong to the whole server, and the database fixtures use them in the same run.
        secrets=new_secrets() | role_secrets(Provisioned(servers.postgres_admin_url).passwords),
        database=vhost.replace("-", "_"),
        config_file=config_file,
        telegram_api_base=options.telegram_api_base or telegram.base_url,
        public_url=f"http://127.0.0.1:{ports[entrance]}",
        otlp_endpoint=options.otlp_endpoint or otlp.endpoint,
        log_level=options.log_level,
        overrides=_overrides(options),
        measured=options.measured,
        compiled=make(root) if options.compiled or str(root / FOLDER) in sys.path else None,
    )
    return Stack(servers, suite, options, telegram, provider, otlp, guardian)


def _overrides(options: StackOptions) -> dict[str, dict[str, str]]:
    quick = {
        "bot-worker": {
            "KAIROS_BOTS_QUIET_WINDOW_MS": str(options.quiet_window_ms),
            "KAIROS_BOTS_TELEGRAM_CHAT_PER_S": str(options.telegram_chat_per_s),
        },
        "llm-router": {"FAKE_PROVIDER_API_KEY": "fake-provider-key"},
    }
    return {name: {**quick.get(name, {}), **options.env.get(name, {})} for name in BY_NAME}


def _specs(stack: Stack) -> list[tuple[str, ServerSpec]]:
    found: list[tuple[str, ServerSpec]] = []
    for service in SERVICES:
        for replica in range(stack.options.replicas.get(service.name, 1)):
            port = None if replica == 0 else free_port()
            spec = stack.suite.service_spec(service, replica, port)
            found.append((spec.name, spec))
    if stack.options.with_front_door:
        suite = stack.suite
        try:
            found.append(
                (FRONT_DOOR, front_door(suite.root, suite.state, suite.ports, native.unprivileged_user()))
            )
        except ProgramMissingError:
            raise ProgramMissingError(
                "the front door needs nginx; run: apt-get install -y nginx-light"
            ) from None
    return found
