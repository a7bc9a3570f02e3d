"""`ncpl serve`: a store as a local page while it trains. Only reads; loads nothing from elsewhere.

page.html, page.css, page.js   what a browser gets: no library, no address but this one
/api/state                     runs with their curves in short, failures; 204 where nothing has changed since
/api/curves                    one metric of chosen runs, by group
/report                        the report of everything, or of a label, made when it is asked for
"""

from __future__ import annotations

import hmac
import json
import math
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ncpl_cli.errors import NcplError
from ncpl_cli.serving.state import Reader

HERE = Path(__file__).parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "ncpl_token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}  # fmt: skip
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}

Answer = Callable[[Request], Awaitable[Response]]


def application(url: str, *, host: str = LOOPBACK[0], token: str | None = None) -> Starlette:
    """The application over a store; with a token every request needs it, as `?token=` once and then as a cookie."""
    reader = Reader(url)

    def guarded(answer: Answer) -> Answer:
        async def call(request: Request) -> Response:
            given = request.query_params.get("token")
            if token is not None and not _same(given or request.cookies.get(COOKIE, ""), token):
                return Response("a token is needed: the address that ncpl serve printed has it\n", 403)
            if token is not None and given is not None:  # not to stay in the address, its history and its copies
                response: Response = RedirectResponse(request.url.path, 303)
                response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
                return response
            return await answer(request)

        return call

    def file(name: str) -> Answer:
        async def answer(_: Request) -> Response:
            text = (HERE / name).read_text(encoding="utf-8")
            return Response(text, headers=HEADERS, media_type=KINDS[name.rpartition(".")[2]])

        return answer

    async def state(request: Request) -> Response:
        return await _json(reader.state, request.query_params.get("since"))

    async def curves(request: Request) -> Response:
        given = request.query_params
        return await _json(reader.curves, given.get("metric", "nc1"), given.get("name") or None)

    async def report(request: Request) -> Response:
        try:
            page = await run_in_threadpool(_report, url, request.query_params.get("name") or None)
        except NcplError as error:
            return Response(f"{error}\n", 404, headers=HEADERS, media_type="text/plain")
        return HTMLResponse(page)  # it brings a policy of its own

    routes = {
        "/": file("page.html"), "/page.css": file("page.css"), "/page.js": file("page.js"), "/api/state": state,
        "/api/curves": curves, "/report": report,
    }  # fmt: skip
    names = sorted({*LOOPBACK, "[::1]", host})
    guard = [] if token is not None else [Middleware(TrustedHostMiddleware, allowed_hosts=names)]
    return Starlette(
        routes=[Route(path, guarded(answer), methods=["GET"]) for path, answer in routes.items()], middleware=guard
    )


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


async def _json(read: Callable[..., Any], *given: Any) -> Response:
    try:
        found = await run_in_threadpool(read, *given)
    except NcplError as error:
        found = {"error": str(error), "hint": error.hint}
    if found is None:
        return Response(status_code=204, headers=HEADERS)
    return Response(json.dumps(_plain(found), allow_nan=False), headers=HEADERS, media_type="application/json")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _report(url: str, name: str | None) -> str:
    from ncpl_cli.metrics.catalogue import METRICS
    from ncpl_cli.report.material import gather
    from ncpl_cli.report.report import build, write
    from ncpl_cli.store import open_store, shown

    formulas = {m.id: (m.formula, m.direction, m.source) for m in METRICS.values()}
    with open_store(url, readonly=True) as store:
        chosen = f"--name {name}" if name else ""
        material = gather(store, formulas, names=[name] if name else (), selection=chosen)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write(build(material, store=shown(url)), str(path), "html")
        return path.read_text(encoding="utf-8")


def run(url: str, host: str, port: int, token: str | None, ready: Callable[[str], None]) -> None:
    """Serve until a signal; `ready` is told the address once it answers."""
    import uvicorn

    settings = uvicorn.Config(application(url, host=host, token=token), host, port, log_level="warning", ws="none",
                              lifespan="off", timeout_graceful_shutdown=2)  # fmt: skip
    server = uvicorn.Server(settings)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    began = time.monotonic()

    async def main() -> None:
        import asyncio

        serving = asyncio.ensure_future(server.serve())
        while not server.started and not serving.done() and time.monotonic() - began < 30:
            await asyncio.sleep(0.02)
        if server.started:
            used = server.servers[0].sockets[0].getsockname()[1]
            named = f"[{host}]" if ":" in host else host
            ready(f"http://{named}:{used}/" + (f"?token={token}" if token else ""))
        await serving

    import asyncio

    asyncio.run(main())
    if server.started:  # only a signal ends it, and may come too late to be raised again
        raise KeyboardInterrupt
