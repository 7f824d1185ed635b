"""docs/benchmarks.md: what each benchmark writes stands between markers of its own."""

from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs/benchmarks.md"


def write(name: str, text: str) -> None:
    """Replace what stands between the markers of `name`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(begin) == page.count(end) == 1, f"{PAGE.name} needs the markers of {name}"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
