"""Ports for servers that are stopped and started again."""

from __future__ import annotations

import random
import socket

BELOW_EPHEMERAL = range(20_000, 32_000)
HOST = "127.0.0.1"


def free_port() -> int:
    """A port that no connection's own end is given by the system while the server is down."""
    while True:
        port = random.choice(BELOW_EPHEMERAL)
        with socket.socket() as sock:
            try:
                sock.bind((HOST, port))
            except OSError:
                continue
        return port
