"""Settings -> telemetry -> bootstrap -> run."""

import kairos_faults
from kairos_router.bootstrap import SERVICE, VERSION, Router, build_app
from kairos_router.entrypoints.hot_http import HotProtocol
from kairos_router.settings import Settings
from kairos_telemetry import configure
from kairos_web import serve


def main() -> None:
    settings = Settings()
    telemetry = configure(
        SERVICE,
        version=VERSION,
        otlp_endpoint=settings.otlp_endpoint,
        log_level=settings.log_level,
        environment=settings.environment,
    )
    kairos_faults.arm_all(settings.faults)
    try:
        serve(
            build_app(Router(settings)),
            host=settings.host,
            port=settings.port,
            grace=settings.shutdown_grace_s,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            http=HotProtocol,
        )
    finally:
        telemetry.shutdown()


if __name__ == "__main__":
    main()
