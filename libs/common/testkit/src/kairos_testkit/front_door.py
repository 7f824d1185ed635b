"""nginx in front of everything, as one local process.

The routes are those of deploy/nginx/container.conf, which the image and the chart use too; only host
names, ports and paths are replaced here, so the three can't drift apart.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kairos_testkit import native
from kairos_testkit.processes import ServerSpec
from kairos_testkit.suite import BY_NAME, FRONT_DOOR, healthy

TEMPLATE: Final = Path("deploy/nginx/container.conf")
_PLACEHOLDER: Final = """<!doctype html>
<html lang="en"><title>Kairos</title><h1>Kairos</h1>
<p>The suite runs. The console has not been built on this machine; the API is below
<code>/api/</code>.</p></html>
"""


class TemplateChangedError(Exception):
    """The front door's template no longer has a line that must be replaced."""


def render(template: str, *, home: Path, ports: Mapping[str, int], mime_types: Path) -> str:
    """The local configuration. Every replacement must be used, or the template has moved on."""
    replacements = {
        r"listen 5000;": f"listen 127.0.0.1:{ports[FRONT_DOOR]};",
        r"root [^;]+;": f'root "{home}/console";',
        r"pid [^;]+;": f'daemon off;\npid "{home}/nginx.pid";',
        r"error_log [^;]+;": "error_log stderr warn;",
        # Services log and count their requests themselves.
        r"access_log /dev/stdout json;": "access_log off;",
        r"include /etc/nginx/mime.types;": f'include "{mime_types}";',
        r"_temp_path /tmp/(\w+);": rf'_temp_path "{home}/\1";',
    }
    for service in BY_NAME.values():
        replacements[rf"http://{service.name}:{service.port}\b"] = f"http://127.0.0.1:{ports[service.name]}"
    for pattern, replacement in replacements.items():
        template, count = re.subn(pattern, replacement, template)
        if count == 0:
            raise TemplateChangedError(f"{TEMPLATE} has nothing like {pattern}")
    return template


def front_door(root: Path, state: Path, ports: Mapping[str, int], user: str | None) -> ServerSpec:
    home = state / "nginx"
    port = ports[FRONT_DOOR]

    def prepare() -> None:
        home.mkdir(parents=True, exist_ok=True)
        publish_console(root, home / "console")
        mime_types = Path("/etc/nginx/mime.types")
        config = render((root / TEMPLATE).read_text(), home=home, ports=ports, mime_types=mime_types)
        (home / "nginx.conf").write_text(config)
        if user:
            for path in (home, *home.rglob("*")):
                shutil.chown(path, user)

    return ServerSpec(
        name=FRONT_DOOR,
        argv=(native.find_program("nginx"), "-p", str(home), "-e", "stderr", "-c", str(home / "nginx.conf")),
        env={"PATH": native.PATH},
        cwd=home.parent,
        user=user,
        prepare=prepare,
        ready=lambda: healthy(f"http://127.0.0.1:{port}/healthz"),
        priority=300,
    )


def publish_console(root: Path, target: Path) -> None:
    """Copy the built console to where nginx may read it; nginx need not have rights in the repository."""
    built = root / "services" / "console" / "dist"
    if _same(built / "index.html", target / "index.html"):
        return
    shutil.rmtree(target, ignore_errors=True)
    if (built / "index.html").exists():
        shutil.copytree(built, target)
    else:
        target.mkdir(parents=True)
        (target / "index.html").write_text(_PLACEHOLDER)


def _same(built: Path, published: Path) -> bool:
    """Copying keeps the time of a file."""
    if not (built.exists() and published.exists()):
        return False
    return built.stat().st_mtime_ns == published.stat().st_mtime_ns
