"""Metrics of this machine's instances over HTTP, for Prometheus to scrape.

The server and both text formats come from prometheus-client, the optional
extra ``prometheus``; nothing else imports that library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from cvqd.errors import CvqdError
from cvqd.text import metrics_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from threading import Thread

    from prometheus_client import Metric

    from cvqd.client.control import ControlError

    #: asks every instance once: the texts of those that gave one, and the errors of the others
    Gather = Callable[[], tuple[list[str], list[ControlError]]]


class ListenError(CvqdError):
    """The address cannot be listened on."""

    exit_code = 71


class Exporter(Collector):
    """Asks the instances at each scrape; a repeated error is reported only the first time."""

    def __init__(self, gather: Gather, tell: Callable[[ControlError], object]) -> None:
        self._gather = gather
        self._tell = tell
        self._told: set[str] = set()

    def collect(self) -> Iterable[Metric]:
        """The families of all instances."""
        texts, errors = self._gather()
        for error in errors:
            if str(error) not in self._told:
                self._tell(error)
        self._told = {str(error) for error in errors}
        together = metrics_text.openmetrics(metrics_text.families(texts))
        found: Iterable[Metric] = text_string_to_metric_families(together)  # type: ignore[no-untyped-call]
        return found

    def listen(self, host: str, port: int) -> tuple[str, Thread]:
        """Answer scrapes in a thread: its URL, and the thread to join; ListenError if it cannot listen."""
        registry = CollectorRegistry()
        registry.register(self)
        shown = f"[{host}]" if ":" in host else host
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ListenError(f"{shown}:{port}: {error.strerror}") from error
        return f"http://{shown}:{server.server_port}/metrics", thread
