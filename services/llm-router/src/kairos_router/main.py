"""Run llm-router."""

from kairos_router.bootstrap import SERVICE, VERSION, Router, build_app
from kairos_router.entrypoints.hot_http import HotProtocol
from kairos_router.settings import Settings
from kairos_web import run


def main() -> None:
    settings = Settings()
    run(SERVICE, VERSION, settings, lambda: build_app(Router(settings)), http=HotProtocol)


if __name__ == "__main__":
    main()
