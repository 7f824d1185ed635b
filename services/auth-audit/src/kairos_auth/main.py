"""Run auth-audit."""

from kairos_auth.bootstrap import SERVICE, VERSION, build
from kairos_auth.settings import Settings
from kairos_web import run


def main() -> None:
    settings = Settings()
    run(SERVICE, VERSION, settings, lambda: build(settings).app)


if __name__ == "__main__":
    main()
