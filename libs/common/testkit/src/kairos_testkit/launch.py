"""Becomes the program a spec file describes: its environment, its directory, its user.

supervisord starts this instead of the program itself, so that secrets stand in a private file and not in
supervisord's configuration or on a command line, and so that every start leaves a note of its process
number. It imports the standard library only and ends in execve: the process keeps its number, signals
reach the program directly.
"""

import json
import os
import pwd
import sys
from pathlib import Path


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    note = Path(spec["note"])
    # Number and start time: a later process with the same number is somebody else.
    stat = Path("/proc/self/stat")
    started = stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else ""
    note.write_text(f"{os.getpid()} {started}")
    os.chdir(spec["cwd"])
    if spec["user"] is not None and os.geteuid() == 0:
        entry = pwd.getpwnam(spec["user"])
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    os.execve(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - the whole point


if __name__ == "__main__":
    main()
