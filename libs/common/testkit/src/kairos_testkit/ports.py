"""Free TCP ports on the loopback interface, and waiting until something answers there."""

import random
import socket
import time
from collections.abc import Callable, Collection
from typing import Final

# Below the kernel's range for outgoing connections (32768 and up), so that no client socket takes a
# port between our look and the server's bind, nor while a killed server is away.
LOWEST: Final = 15_000
HIGHEST: Final = 32_000
_given: set[int] = set()


class NotReadyError(Exception):
    """A server or service did not answer before its deadline."""


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(avoid: Collection[int] = ()) -> int:
    """A port nobody listens on and that this process has not handed out before."""
    for _ in range(1_000):
        port = random.randrange(LOWEST, HIGHEST)
        if port not in _given and port not in avoid and is_free(port):
            _given.add(port)
            return port
    raise NotReadyError("no free port on the loopback interface")


def answers(port: int, host: str = "127.0.0.1", timeout: float = 1.0) -> bool:
    try:
        with socket.create_connection((host, port), timeout=timeout):
            return True
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], *, timeout: float, what: str, pause: float = 0.05) -> None:
    """Poll until the condition holds; the last error is the reason given when it never does."""
    deadline = time.monotonic() + timeout
    reason = ""
    while time.monotonic() < deadline:
        try:
            if condition():
                return
            reason = ""
        except Exception as error:  # noqa: BLE001 - a probe may fail in any way while its server boots
            reason = f": {type(error).__name__}: {error}"
        time.sleep(pause)
    raise NotReadyError(f"{what} was not ready within {timeout:g} s{reason}")
