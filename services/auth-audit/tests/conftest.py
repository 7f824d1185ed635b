import pytest

from kairos_telemetry.logs import configure_logs


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    # Unconfigured, structlog draws every frame's locals; a traceback then takes seconds.
    configure_logs(service="test", environment="test", version="0", log_level="INFO")
