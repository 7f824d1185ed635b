"""Settings -> telemetry -> bootstrap -> run."""

import gc
from typing import Final

import kairos_faults
from kairos_router.bootstrap import SERVICE, VERSION, Router, build_app
from kairos_router.entrypoints.hot_http import HotProtocol
from kairos_router.settings import Settings
from kairos_telemetry import configure
from kairos_web import serve

# Hot requests leave no reference cycles, so the collector may look more rarely than every 700 objects.
GARBAGE_THRESHOLDS: Final = (20_000, 20, 20)


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
    app = build_app(Router(settings))
    # What is there now stays for good. Looked through again and again, it would stop requests for
    # tens of milliseconds at a time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    try:
        serve(
            app,
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
