"""The page's routes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from coordinator.client import Report
from coordinator.render.labels import Labels
from coordinator.render.page import TEMPLATES, environment
from coordinator.render.picture import load_preview
from coordinator.ui.access import REPORT_POLICY, Access, AccessGuard
from coordinator.ui.batches import Batches
from coordinator.ui.pictures import Pictures
from coordinator.ui.views import PictureCard, Row, comparison, item_rows
from serving.errors import MaifsError, Reason

_FOLDER = Path(__file__).parent
_ALIVE_S = 15.0
_NOT_FOUND = {Reason.UNKNOWN_BATCH, Reason.UNKNOWN_REPORT}
MOST_COMPARED = 4


@dataclass(frozen=True)
class Ui:
    """What the page works with."""

    pictures: Pictures
    batches: Batches
    labels: Labels
    max_image_bytes: int
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the page ends, so that open streams of events end too."""


def create_app(ui: Ui, access: Access) -> Starlette:
    """The ASGI application.

    Args:
        ui: what it shows.
        access: who may see it.
    """
    pages = Pages(ui)
    routes = [
        Route("/", pages.home),
        Route("/style.css", pages.style),
        Route("/events", pages.events),
        Route("/pictures", pages.add, methods=["POST"]),
        Route("/pictures/{id}", pages.remove, methods=["DELETE"]),
        Route("/pictures/{id}/thumbnail", pages.thumbnail),
        Route("/reports/{key:path}", pages.report),
        Route("/compare", pages.compare),
        Route("/batches", pages.batches),
        Route("/batches/{id}", pages.batch),
        Route("/batches/{id}/events", pages.batch_events),
        Mount("/static", StaticFiles(directory=_FOLDER / "static")),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(AccessGuard, access=access)],
        exception_handlers={MaifsError: pages.failed, HTTPException: pages.refused},
    )


class Pages:
    """Requests in, pages out."""

    def __init__(self, ui: Ui) -> None:
        self._ui, self._t = ui, ui.labels
        self._templates = environment((_FOLDER / "templates",))

    def _page(self, name: str, status_code: int = 200, **values: object) -> HTMLResponse:
        here = name.partition(".")[0]
        return HTMLResponse(self._templates.get_template(name).render(t=self._t, here=here, **values), status_code)

    async def home(self, request: Request) -> Response:
        """The pictures of this run."""
        cards = [PictureCard.of(picture, self._t) for picture in self._ui.pictures.newest_first()]
        return self._page("home.html.j2", cards=cards, max_image_bytes=self._ui.max_image_bytes)

    async def style(self, request: Request) -> Response:
        """The style of reports, and what the pages add to it."""
        sheets = (TEMPLATES / "style.css.j2", _FOLDER / "static" / "ui.css")
        return Response("\n".join(sheet.read_text("utf-8") for sheet in sheets), media_type="text/css")

    async def add(self, request: Request) -> Response:
        """Takes a file: the body as it is, its name percent-encoded in X-File-Name."""
        name = unquote(request.headers.get("x-file-name", ""))[:255]
        limit = self._ui.max_image_bytes
        picture = await self._ui.pictures.add(name or "picture", request.stream(), limit)
        return JSONResponse({"id": picture.id}, 201)

    async def remove(self, request: Request) -> Response:
        """Forgets a picture."""
        return Response(status_code=204 if self._ui.pictures.remove(request.path_params["id"]) else 404)

    async def thumbnail(self, request: Request) -> Response:
        """A small copy, once the report is there."""
        picture = self._ui.pictures.get(request.path_params["id"])
        if picture is None or picture.report is None:
            raise HTTPException(404)
        preview = await asyncio.to_thread(load_preview, picture.path, picture.report.message.image)
        if preview is None:
            raise HTTPException(404)
        return Response(preview.thumbnail, media_type="image/jpeg")

    async def events(self, request: Request) -> Response:
        """Server-sent events: a card, rendered anew, whenever something happens to its picture."""

        async def cards() -> AsyncGenerator[str, None]:
            async with aclosing(self._ui.pictures.changes()) as changes:
                async for picture in changes:
                    card = PictureCard.of(picture, self._t)
                    html = self._templates.get_template("card.html.j2").render(t=self._t, card=card)
                    yield json.dumps({"id": card.id, "ended": card.ended, "html": html})

        return _event_stream(cards(), self._ui.closing)

    async def report(self, request: Request) -> Response:
        """A report by its key, as a page or, with .json, as data."""
        key = request.path_params["key"]
        report = await self._find(key.removesuffix(".json"))
        if key.endswith(".json"):
            return Response(report.to_json(indent=1), media_type="application/json")
        page = await asyncio.to_thread(report.to_html, lang=self._t.lang)
        return HTMLResponse(page.encode("utf-8", errors="replace"), headers={"content-security-policy": REPORT_POLICY})

    async def _find(self, key: str) -> Report:
        """`picture/ID` or `batch/BATCH_ID/POSITION`."""
        match key.split("/"):
            case ["picture", picture_id]:
                picture = self._ui.pictures.get(picture_id)
                if picture and picture.report:
                    return picture.report
            case ["batch", batch_id, position] if position.isdecimal() and len(position) < 16:
                return await self._ui.batches.report(batch_id, int(position))
        raise HTTPException(404)

    async def compare(self, request: Request) -> Response:
        """Several reports side by side."""
        keys = list(dict.fromkeys(request.query_params.getlist("report")))[:MOST_COMPARED]
        if len(keys) < 2:
            return RedirectResponse("/", 303)
        reports = [(key, await self._find(key)) for key in keys]
        columns, rows = await asyncio.to_thread(comparison, reports, self._t)
        return self._page("compare.html.j2", columns=columns, rows=rows)

    async def batches(self, request: Request) -> Response:
        """All batches."""
        return self._page("batches.html.j2", batches=await self._ui.batches.all())

    async def batch(self, request: Request) -> Response:
        """One batch."""
        page = await self._ui.batches.page(request.path_params["id"], request.query_params.get("page", ""))
        rows: Sequence[Row] = item_rows(page, self._t)
        return self._page("batch.html.j2", batch=page.batch, rows=rows, next_page=page.next_page_token)

    async def batch_events(self, request: Request) -> Response:
        """Server-sent events: that the batch went on."""

        async def ticks() -> AsyncGenerator[str, None]:
            async with aclosing(self._ui.batches.changes(request.path_params["id"])) as changes:
                async for _ in changes:
                    yield "{}"
            yield '{"ended": true}'

        return _event_stream(ticks(), self._ui.closing)

    async def failed(self, request: Request, error: Exception) -> Response:
        """An error in words; for the page's script as JSON."""
        assert isinstance(error, MaifsError)
        status = 404 if error.reason in _NOT_FOUND else 400 if error.reason.exit_code == 1 else 502
        if request.method == "POST":
            body = {"reason": error.reason.name, "message": error.message, "advice": error.advice}
            return JSONResponse(body, status)
        return self._page("message.html.j2", status, title=error.reason.name, text=str(error))

    async def refused(self, request: Request, error: Exception) -> Response:
        """A page that is not there."""
        assert isinstance(error, HTTPException)
        return self._page("message.html.j2", error.status_code, title=str(error.status_code), text=error.detail)


def _event_stream(data: AsyncGenerator[str, None], closing: asyncio.Event) -> StreamingResponse:
    """Server-sent events until there are no more or the page ends."""

    async def lines() -> AsyncIterator[str]:
        ended = asyncio.ensure_future(closing.wait())
        following: asyncio.Future[str] | None = None
        yield ": open\n\n"
        try:
            while not ended.done():
                following = following or asyncio.ensure_future(anext(data))
                both: set[asyncio.Future[Any]] = {following, ended}
                await asyncio.wait(both, timeout=_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    line, following = following.result(), None
                    yield f"data: {line}\n\n"
                else:
                    yield ": alive\n\n"  # a browser that has gone is noticed by writing to it
        except StopAsyncIteration:
            return
        finally:
            waiting = {task for task in (following, ended) if task}
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await data.aclose()

    return StreamingResponse(lines(), media_type="text/event-stream")
