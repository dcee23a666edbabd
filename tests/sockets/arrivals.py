"""An HTTP server in its own process that notes when requests arrive: its clock waits for none of our threads.

`python arrivals.py BODY THINK [CERT KEY]` prints its port, and at the end of its standard
input the arrival times in seconds, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
import time


async def serve(body: bytes, think: float, tls: ssl.SSLContext | None) -> list[float]:
    times: list[float] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                times.append(time.monotonic())
                await asyncio.sleep(think)
                writer.write(answer)

    server = await asyncio.start_server(answer_all, "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    return times


def main(body: str, think: str, *certificate: str) -> None:
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate)
    print(json.dumps(asyncio.run(serve(body.encode(), float(think), tls))))


if __name__ == "__main__":
    main(*sys.argv[1:])
