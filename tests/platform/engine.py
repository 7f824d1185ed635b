"""A Docker engine for tests: the one that answers already, or a private one started by hand.

Without an image registry the base images are made with debootstrap, and the three servers are built from the
distribution's own packages under the names docker-compose.yml uses; our Dockerfile builds unmodified.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).parent / "stand-ins"
SOCKET = "/run/kairos-docker.sock"
PACKAGES = ("docker.io", "debootstrap", "iptables", "runc")
# /usr/bin/docker of the distribution builds with BuildKit by itself; newer clients want a plug-in for that.
CLIENT = "/usr/bin/docker"
CA = "/etc/ssl/certs/ca-certificates.crt"
START_SECONDS = 60


class Engine:
    """Use as a context manager: starts what is needed, ends what it started, flushes its firewall rules."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.gettempdir()) / "kairos-platform"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.host = f"unix://{SOCKET}"

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise PermissionError("a private Docker engine needs root: sudo make platform")
        missing = [
            p
            for p, t in zip(PACKAGES, ("dockerd", "debootstrap", "iptables", "runc"), strict=True)
            if not shutil.which(t)
        ]
        if missing or not Path(CLIENT).exists():
            subprocess.run(["apt-get", "update", "-qq"], check=True)
            subprocess.run(
                ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES], check=True
            )
        if not self._answers():
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.daemon is None:
            return
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(30)
        for table in ("nat", "filter"):
            subprocess.run(["iptables", "--table", table, "--flush"], check=False)

    def _answers(self) -> bool:
        return self.run("version", check=False, quiet=True).returncode == 0

    def _start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        command = [
            "dockerd",
            f"--data-root={self.folder / 'data'}",
            f"--exec-root={self.folder / 'exec'}",
            f"--pidfile={self.folder / 'dockerd.pid'}",
            f"--host={self.host}",
            "--storage-driver=overlay2",
            "--default-ulimit=nofile=4096:4096",
            "--default-ulimit=nproc=4096:4096",
            "--bip=10.213.0.1/24",
        ]
        with (self.folder / "dockerd.log").open("wb") as log:
            self.daemon = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "dockerd.log").read_text(encoding="utf-8")[-2000:])
            time.sleep(0.2)

    def environment(self, **more: str) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")}  # noqa: TID251 - the client needs it
        return inherited | {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"} | more

    def run(
        self, *arguments: str, check: bool = True, quiet: bool = False, stdin: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [CLIENT, *arguments],
            env=self.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            stdin=stdin,
        )
        if check and done.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        if not quiet and done.stderr:
            print(done.stderr[-400:])
        return done

    def base_image(self, suite: str) -> str:
        """`debian:<suite>-slim`, made with debootstrap unless the engine has it."""
        tag = f"debian:{suite}-slim"
        if self.run("image", "inspect", tag, check=False, quiet=True).returncode == 0:
            return tag
        root = self.folder / suite
        self.folder.mkdir(exist_ok=True)
        if not (root / "etc/debian_version").exists():
            shutil.rmtree(root, ignore_errors=True)
            subprocess.run(
                ["debootstrap", "--variant=minbase", suite, str(root)], check=True, stdout=subprocess.DEVNULL
            )
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as packed:
            assert packed.stdout
            self.run("import", "-", tag, stdin=packed.stdout.fileno())
        return tag

    def build(self, tag: str, *arguments: str, context: str = ".") -> None:
        secret = ["--secret", f"id=ca,src={CA}"] if Path(CA).exists() else []
        self.run("build", *secret, "--tag", tag, *arguments, context)

    def stand_in(self, tag: str, name: str, base: str) -> None:
        file = STAND_INS / f"{name}.Dockerfile"
        self.build(tag, "--file", str(file), "--build-arg", f"BASE_IMAGE={base}", context=str(STAND_INS))
