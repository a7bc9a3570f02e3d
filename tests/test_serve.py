"""The local page over a store: what it answers, whom it refuses, and what a real browser makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ncpl_cli.main import call
from ncpl_cli.store import open_store
from tests.studies import UNKIND, make_store

pytest.importorskip("starlette", reason="starlette is not here (ncpl[serve])")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not here (ncpl[serve])")

from ncpl_cli.serving import application  # noqa: E402
from ncpl_cli.serving.state import Reader, _short  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serve") / "ncpl.db"
    make_store(path)
    return path


def asked(app: Any, path: str, host: str = "localhost", cookie: str = "") -> tuple[int, dict[str, str], bytes]:
    """One GET of an application, without a server."""
    import asyncio

    path, _, query = path.partition("?")
    headers = [(b"host", host.encode()), *([(b"cookie", cookie.encode())] if cookie else [])]
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": headers, "http_version": "1.1", "scheme": "http", "server": (host, 80), "root_path": "",
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(one.get("body", b"") for one in sent[1:])


def test_what_is_answered_and_who_is_refused(made: Path) -> None:
    app = application(str(made))
    status, headers, body = asked(app, "/")
    assert status == 200 and b"<script src" in body and "default-src 'none'" in headers["content-security-policy"]
    assert asked(app, "/", host="evil.example")[0] == 400, "a page elsewhere cannot point its own name here"
    assert asked(app, "/api/curves?metric=nothing")[2].startswith(b'{"error"')
    assert asked(app, "/etc/passwd")[0] == 404 and asked(app, "/report?name=nobody")[0] == 404
    app = application(str(made), host="0.0.0.0", token="s" * 20)
    assert asked(app, "/api/state")[0] == 403 and asked(app, "/?token=wrong")[0] == 403
    status, headers, _ = asked(app, f"/?token={'s' * 20}", host="anywhere")
    assert status == 303 and headers["location"] == "/" and "HttpOnly" in headers["set-cookie"]
    assert asked(app, "/api/state", cookie=headers["set-cookie"].partition(";")[0])[0] == 200


def test_the_state_is_that_of_the_store_and_is_read_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_store(path)
    reader = Reader(str(path))
    first = reader.state()
    assert first is not None and reader.state(first["version"]) is None
    with open_store(path) as store:
        rows = [row for row in store.runs() if row.parent is None]
        curve = next(iter(store.curves([rows[0].id], ["nc1"]).values()))["nc1"]
    assert [run["id"] for run in first["runs"]] == [row.id for row in reversed(rows)]
    own = first["runs"][-1]["curves"]["nc1"]
    assert own == _short(curve) and own[0] == curve[0] and own[-1] == curve[-1]
    assert UNKIND in first["labels"] and any("diverged" in line for line in first["failures"])
    (group,) = [g for g in reader.curves("nc1", UNKIND)["groups"] if any(r["id"] == rows[0].id for r in g["runs"])]
    assert next(r for r in group["runs"] if r["id"] == rows[0].id)["values"] == curve
    with open_store(path) as store, store.run("mine", seed=0, name="new") as run:
        run.record(epoch=1, task=0, metrics={"online_accuracy": 0.5})
        during = reader.state(first["version"])
        assert during is not None and during["runs"][0]["status"] == "running"
    after = reader.state(during["version"])
    assert after is not None and after["runs"][0]["status"] == "finished" and after["labels"][0] == "new"


def test_curves_are_read_again_of_runs_that_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ncpl_cli.store import Store

    path = tmp_path / "a.db"
    make_store(path)
    reader = Reader(str(path))
    read: list[int] = []
    series = Store.series

    def counted(self: Store, addresses: Any, runs: Any) -> Any:
        read.append(len(runs))
        return series(self, addresses, runs)

    monkeypatch.setattr(Store, "series", counted)
    first = reader.curves("nc1", None)
    assert reader.curves("nc1", None) == first
    with open_store(path) as store, store.run("mine", seed=0, name="new") as run:
        for epoch in (1, 2):
            run.record(epoch=epoch, task=0, metrics={"nc1": 1 / epoch})
        during = {r["id"]: r["values"] for g in reader.curves("nc1", None)["groups"] for r in g["runs"]}
        assert during[run.id] == [1.0, 0.5]
    every = sum(len(g["runs"]) for g in first["groups"])
    assert read[0] >= every and read[-1] == 1 and len(read) <= 3
    fresh = Reader(str(path)).curves("nc1", None)
    assert reader.curves("nc1", None) == fresh


def test_the_command_serves_until_it_is_stopped(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", "--db", str(made), "--token", "short"]) == 2
    assert call(["serve", "--db", str(made.with_name("none.db"))]) == 4 and not made.with_name("none.db").exists()
    command = [sys.executable, "-m", "ncpl_cli", "serve", "--port", "0", "--db", str(made)]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # as a user's are
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=buffered, preexec_fn=unignored
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()


def unignored() -> None:
    """What runs beside a shell (&) has SIGINT ignored, and hands that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.browser
def test_the_page_in_a_browser(browser: Any, tmp_path: Path) -> None:
    """It shows what is stored and what is added, nothing is loaded from elsewhere, nothing complained about."""
    from axe_playwright_python.sync_playwright import Axe

    path = tmp_path / "a.db"
    make_store(path)
    server = uvicorn.Server(uvicorn.Config(application(str(path)), "127.0.0.1", 0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    requests: list[str] = []
    complaints: list[str] = []
    try:
        for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 28)")):
            context = browser.new_context(color_scheme=scheme, viewport={"width": 360, "height": 740})
            tab = context.new_page()
            tab.on("request", lambda request: requests.append(request.url))
            tab.on("console", lambda message: complaints.append(message.text))
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.goto(address)
            tab.wait_for_selector("#runs tr")
            tab.wait_for_selector("#figure path")
            for width in (360, 1280):
                tab.set_viewport_size({"width": width, "height": 800})
                wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert tab.evaluate(wide) == 0
                found = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
                assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == []
            assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == ground
            before = tab.locator("#runs tr").count()
            with open_store(path) as store, store.run("mine", seed=before, name=f"new {scheme}") as run:
                run.record(epoch=1, task=0, metrics={"online_accuracy": 0.5})
            tab.wait_for_selector(f"#runs tr:nth-child({before + 1})")
            tab.select_option("#label", UNKIND)
            tab.wait_for_selector(f"#runs tr:nth-child({before + 1})", state="detached")
            assert tab.locator("#failures li").count() >= 1 and "<script" not in tab.locator("#legend").inner_html()
            context.close()
    finally:
        server.should_exit = True
        thread.join(10)
    assert complaints == [] and all(url.startswith(address) or url == "data:," for url in requests)
