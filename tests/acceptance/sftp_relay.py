"""Stands between sshd and a real SFTP server, and does wrong exactly what a test asks for.

``sftp_relay.py FAULT… -- COMMAND…`` runs COMMAND and passes the packets of both sides on
(draft-ietf-secsh-filexfer-02). KIND is a request's name below, or an extension's; N counts from 1.

====================  ==========================================================================
``fail:KIND:N``       the Nth such request is not passed on, and answered with SSH_FX_FAILURE
``deny:KIND:N``       likewise, with SSH_FX_PERMISSION_DENIED
``corrupt:KIND:N``    the Nth such request's last byte is changed: a write of other bytes
``mute:KIND:N``       from the Nth such request on nothing is passed on or answered
``hangup:KIND:N``     the Nth such request is carried out, and instead of its answer the session ends
``hide:EXTENSION``    the server does not announce this extension
``delay:SECONDS``     every answer comes that much later
``shuffle``           answers that come close together are passed on in the wrong order
``shorten``           every read gets half of what it asks for
``once:FILE``         the counted faults strike only when FILE is not there, and then make it
====================  ==========================================================================

It uses the standard library only and starts in isolated mode, as a subsystem of sshd.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

KINDS = {1: "init", 3: "open", 4: "close", 5: "read", 6: "write", 9: "setstat", 13: "remove", 18: "rename"}
VERSION, STATUS, READ, EXTENDED = 2, 101, 5, 200
STATUS_CODES = {"fail": (4, b"Failure"), "deny": (3, b"Permission denied")}
CLOSE_TOGETHER = 0.01


def read_packet(descriptor: int) -> bytes:
    """One packet's type and payload; ends the process when there is no more."""
    (length,) = struct.unpack(">I", read_exactly(descriptor, 4))
    return read_exactly(descriptor, length)


def read_exactly(descriptor: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = os.read(descriptor, count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def write_packet(descriptor: int, packet: bytes) -> None:
    data = string(packet)
    while data:
        data = data[os.write(descriptor, data) :]


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def request_kind(packet: bytes) -> str:
    if packet[0] != EXTENDED:
        return KINDS.get(packet[0], "")
    (length,) = struct.unpack_from(">I", packet, 5)
    return packet[9 : 9 + length].decode()


class Relay:
    def __init__(self, faults: list[str], command: list[str]) -> None:
        parts = [fault.split(":", 1) for fault in faults]
        self.options = {name: rest[0] if rest else "" for name, *rest in parts}
        self.hidden = [rest[0].encode() for name, *rest in parts if name == "hide"]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.seen: Counter[str] = Counter()
        self.output = threading.Lock()
        self.fatal: bytes | None = None

    def run(self) -> None:
        threading.Thread(target=self.pass_requests, daemon=True).start()
        try:
            self.pass_answers()
        except EOFError:
            self.server.wait()

    # --- requests ---

    def pass_requests(self) -> None:
        assert self.server.stdin is not None
        target = self.server.stdin.fileno()
        try:
            while True:
                packet = self.spoiled(read_packet(0))
                if packet is not None:
                    write_packet(target, packet)
        except (EOFError, BrokenPipeError):
            self.server.stdin.close()

    def spoiled(self, packet: bytes) -> bytes | None:
        """The packet to pass on, None for none."""
        kind = request_kind(packet)
        self.seen[kind] += 1
        fault = self.due(f"{kind}:{self.seen[kind]}")
        if fault in STATUS_CODES:
            code, text = STATUS_CODES[fault]
            answer = bytes([STATUS]) + packet[1:5] + struct.pack(">I", code) + string(text) + string(b"")
            with self.output:
                write_packet(1, answer)
            return None
        if fault == "mute":
            threading.Event().wait()
        if fault == "hangup":
            self.fatal = packet[1:5]
        if fault == "corrupt":
            return packet[:-1] + bytes([packet[-1] ^ 1])
        if packet[0] == READ and "shorten" in self.options:
            (length,) = struct.unpack(">I", packet[-4:])
            return packet[:-4] + struct.pack(">I", max(length // 2, 1))
        return packet

    def due(self, request: str) -> str:
        """The counted fault that strikes at this request, if any."""
        for fault in ("fail", "deny", "corrupt", "mute", "hangup"):
            if self.options.get(fault) == request:
                marker = self.options.get("once")
                if marker is None:
                    return fault
                if not Path(marker).exists():
                    Path(marker).touch()
                    return fault
        return ""

    # --- answers ---

    def pass_answers(self) -> None:
        assert self.server.stdout is not None
        source = self.server.stdout.fileno()
        while True:
            answers = [read_packet(source)]
            while "shuffle" in self.options and select.select([source], [], [], CLOSE_TOGETHER)[0]:
                answers.append(read_packet(source))
                if len(answers) == 4:
                    break
            for answer in reversed(answers):
                self.pass_answer(answer)

    def pass_answer(self, answer: bytes) -> None:
        if self.fatal is not None and answer[1:5] == self.fatal:
            os._exit(0)
        time.sleep(float(self.options.get("delay", 0)))
        with self.output:
            write_packet(1, self.announcement(answer) if answer[0] == VERSION else answer)

    def announcement(self, answer: bytes) -> bytes:
        """The VERSION packet without the extensions to hide."""
        kept, rest = answer[:5], answer[5:]
        while rest:
            fields = []
            for _ in range(2):
                (length,) = struct.unpack_from(">I", rest)
                fields.append(rest[4 : 4 + length])
                rest = rest[4 + length :]
            if fields[0] not in self.hidden:
                kept += b"".join(map(string, fields))
        return kept


if __name__ == "__main__":
    border = sys.argv.index("--")
    Relay(sys.argv[1:border], sys.argv[border + 1 :]).run()
