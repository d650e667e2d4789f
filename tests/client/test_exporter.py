"""Metrics over HTTP, as a Prometheus asks for them."""

from __future__ import annotations

import socket
import sys
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from cvqd.cli import main, parser
from cvqd.client.exporter import Exporter
from cvqd.testing.daemon import DaemonProcess, simulator_config
from cvqd.verbs import failure, instances, metrics
from kit.verb_process import running

GREETING = "cvqd: listening on http://"


class Answer(NamedTuple):
    kind: str
    text: str


def asked(address: str, accept: str) -> Answer:
    connection = HTTPConnection(address, timeout=20)
    try:
        connection.request("GET", "/metrics", headers={"Accept": accept})
        answer = connection.getresponse()
        assert answer.status == 200
        return Answer(answer.headers["Content-Type"], answer.read().decode())
    finally:
        connection.close()


def found(families) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


async def test_a_scraper_has_its_choice_of_formats_and_hears_of_an_instance_that_went(tmp_path: Path):
    content = simulator_config(tmp_path)
    async with DaemonProcess.start(tmp_path, content) as daemon:
        words = ("metrics", "--config", str(daemon.config), "--listen", "127.0.0.1:0")
        async with running(*words, greeting=GREETING) as verb:
            address = verb.greeting.removeprefix(GREETING).removesuffix("/metrics")
            ask = partial(trio.to_thread.run_sync, asked, address)
            newer = await ask("application/openmetrics-text; version=1.0.0")
            assert newer.kind.startswith("application/openmetrics-text")
            older = await ask("text/plain")
            assert older.kind.startswith("text/plain")
            own = (await daemon.request("metrics"))["text"]
            for families in (parse_openmetrics(newer.text), parse_prometheus(older.text)):
                assert found(families) == found(parse_openmetrics(own))
            assert await daemon.stop() == 0
            name = Path(content["control"]["socket"]).name.removesuffix(".control")
            down = {("cvqd_up", frozenset({("name", name)})): 0}
            for _ in range(2):
                assert found(parse_prometheus((await ask("text/plain")).text)) == down
            verb.interrupt()
            assert await verb.wait() == 0
            (line,) = (await verb.err()).decode().splitlines()
            assert line == f"cvqd: {content['control']['socket']}: no instance is running here"


def test_without_an_instance_a_scrape_is_empty_and_whoever_comes_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(instances, "DIRECTORY", str(tmp_path))
    options = parser().parse_args(["metrics", "--listen", "127.0.0.1:0"])
    exporter = Exporter(metrics._asked_anew(options), failure.report)
    assert list(exporter.collect()) == list(exporter.collect()) == []
    assert capsys.readouterr().err == ""
    (tmp_path / "vm0.control").touch()
    for _ in range(2):
        assert found(exporter.collect()) == {("cvqd_up", frozenset({("name", "vm0")})): 0}
    assert capsys.readouterr().err == f"cvqd: {tmp_path}/vm0.control: no instance is running here\n"


def test_an_address_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["metrics", "--listen", address]) == 71
    assert capsys.readouterr().err == f"cvqd: {address}: Address already in use\n"


def test_without_the_library_it_is_said_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delitem(sys.modules, "cvqd.client.exporter", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["metrics", "--listen", "127.0.0.1:0"]) == 69
    assert capsys.readouterr().err == (
        "cvqd: --listen needs prometheus-client: pip install 'cvqd[prometheus]'\n"
    )


@pytest.mark.parametrize("address", ["9713", ":9713", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1"])
def test_what_is_no_address_is_refused(address: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="64"):
        main(["metrics", "--listen", address])
    assert f"{address!r} is not HOST:PORT" in capsys.readouterr().err
