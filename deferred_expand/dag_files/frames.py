"""What a trigger runner and its DAG file processes tell each other, over a socket."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import socket

_LENGTH = 4  # bytes


@dataclass(frozen=True)
class Frame:
    """
    :param kind: what is told.
    :param number: of the stream, or of the question.
    :param body: JSON, which carries what other forms do not: halves of surrogate pairs, numbers of any size.
    """

    kind: str
    number: int
    body: Any = None

    def to_bytes(self) -> bytes:
        content = json.dumps((self.kind, self.number, self.body)).encode()
        return len(content).to_bytes(_LENGTH, "big") + content


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """:raises EOFError: the other side is gone."""
    length = await reader.readexactly(_LENGTH)
    return Frame(*json.loads(await reader.readexactly(int.from_bytes(length, "big"))))


def receive_frame(connection: socket.socket) -> Frame:
    """The same where waiting may block."""
    length = int.from_bytes(_receive(connection, _LENGTH), "big")
    return Frame(*json.loads(_receive(connection, length)))


def _receive(connection: socket.socket, length: int) -> bytearray:
    received = bytearray(length)
    view = memoryview(received)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return received
