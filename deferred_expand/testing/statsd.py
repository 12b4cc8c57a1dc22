"""What Airflow's components send to statsd."""

from __future__ import annotations

import socket
import threading
import time
from collections import defaultdict


class StatsdListener:
    """
    Listens on a free UDP port of loopback; sums counters and keeps timings.

    :attr:`config` makes a :class:`~deferred_expand.testing.local_airflow.LocalAirflow` send here.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.timings: dict[str, list[float]] = defaultdict(list)
        """In milliseconds."""
        self.counts: dict[str, float] = defaultdict(float)
        self.counted: dict[str, list[tuple[float, float]]] = defaultdict(list)
        """When, in seconds since the epoch, and by how much."""
        self.gauges: dict[str, float] = {}
        self.config = {
            "metrics.statsd_on": "True",
            "metrics.statsd_host": "127.0.0.1",
            "metrics.statsd_port": str(self._socket.getsockname()[1]),
        }
        threading.Thread(target=self._listen, name="statsd", daemon=True).start()

    def _listen(self) -> None:
        while True:
            for line in self._socket.recv(65536).decode().splitlines():
                name, _, rest = line.partition(":")
                value, _, kind = rest.partition("|")
                if kind.startswith("ms"):
                    self.timings[name].append(float(value))
                elif kind.startswith("c"):
                    self.counts[name] += float(value)
                    self.counted[name].append((time.time(), float(value)))
                elif kind.startswith("g"):
                    self.gauges[name] = float(value)
