"""Settings -> telemetry -> bootstrap -> run."""

import kairos_faults
from kairos_budget.bootstrap import SERVICE, VERSION, build_app
from kairos_budget.settings import Settings
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
            build_app(settings),
            host=settings.host,
            port=settings.port,
            grace=settings.shutdown_grace_s,
            forwarded_allow_ips=settings.forwarded_allow_ips,
        )
    finally:
        telemetry.shutdown()


if __name__ == "__main__":
    main()
