"""Open TensorBoard on the runs under logs/, on the first free port from 6006, for this machine only.

python scripts/open_tensorboard.py
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PORTS = range(6006, 6106)


def free_port(ports: range = PORTS) -> int:
    """Return the first port of localhost that nothing listens on.

    Raises:
        OSError: All of them are taken.
    """
    for port in ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise OSError(f"Ports {ports[0]}–{ports[-1]} of localhost are all taken; end a program that listens on one.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the address and serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Open TensorBoard on the first free port from 6006.")
    parser.add_argument("logs", type=Path, nargs="?", default=Path("logs"), help="folder of the runs (logs)")
    logs = parser.parse_args(arguments).logs
    if not logs.is_dir():
        sys.exit(f"open_tensorboard.py: error: there is no folder {logs}; give the one that holds your runs.")
    try:
        port = free_port()
    except OSError as error:
        sys.exit(f"open_tensorboard.py: error: {error}")
    print(f"TensorBoard on {logs}: http://localhost:{port}/ (Ctrl-C ends it)", flush=True)
    server = ["tensorboard.main", "--logdir", str(logs), "--host", "localhost", "--port", str(port)]
    try:
        code = subprocess.run([sys.executable, "-m", *server], check=False).returncode
    except KeyboardInterrupt:
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    main()
