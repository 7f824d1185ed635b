"""Run budget-analytics."""

from kairos_budget.bootstrap import SERVICE, VERSION, build_app
from kairos_budget.settings import Settings
from kairos_web import run


def main() -> None:
    settings = Settings()
    run(SERVICE, VERSION, settings, lambda: build_app(settings))


if __name__ == "__main__":
    main()
