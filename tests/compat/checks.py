"""Run by a client's own interpreter: every check of a suite, one JSON line each.

`python checks.py <JSON of Context> <suite file>...`. It imports the standard library and the suite only.
"""

import asyncio
import importlib.util
import inspect
import json
import sys
import traceback
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Context:
    """The running router, two keys of it (one whose budget is used up), and the provider behind it."""

    base_url: str
    api_key: str
    poor_key: str
    provider: str

    def script(self, **fault: Any) -> None:
        """Make the provider misbehave at the next request that matches."""
        request = urllib.request.Request(  # noqa: S310 - the fake provider of this test
            f"{self.provider}/_script", json.dumps(fault).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - as above

    def received(self, text: str) -> dict[str, Any]:
        """The last request the provider got that has this text in it."""
        with urllib.request.urlopen(f"{self.provider}/_requests", timeout=10) as answer:  # noqa: S310 - as above
            requests = json.load(answer)["requests"]
        return next(request for request in reversed(requests) if text in json.dumps(request["body"]))


def main() -> None:
    context = Context(**json.loads(sys.argv[1]))
    for file in sys.argv[2:]:
        run(Path(file), context)


def run(file: Path, context: Context) -> None:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    suite = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(suite)
    for name, check in vars(suite).items():
        if not name.startswith("check_"):
            continue
        error = None
        try:
            found = check(context)
            if inspect.isawaitable(found):
                asyncio.run(asyncio.wait_for(found, 60))
        except Exception:  # noqa: BLE001 - whatever it is, it is the check's result
            error = traceback.format_exc()
        print(json.dumps({"name": name, "error": error}), flush=True)


if __name__ == "__main__":
    main()
