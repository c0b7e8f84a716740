"""The pages in a headless Chromium, with real clicks."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from serving.errors import ExitCode
from tests.conftest import ROOT
from tests.coordinator.cli_server import ServerThread
from tests.coordinator.pictures import write_picture
from tests.system.browser import Tab, chromium

SHOTS = ROOT / "build" / "screenshots"
"""Screenshots of the last run, to be looked at."""


@pytest.fixture(name="server")
def _server() -> Iterator[ServerThread]:
    folder = tempfile.mkdtemp(prefix="maifs-", dir="/tmp")
    thread = ServerThread(f"unix:{folder}/c.sock")
    yield thread
    thread.close()
    shutil.rmtree(folder)


@pytest.fixture(name="tab")
async def _tab() -> AsyncIterator[Tab]:
    SHOTS.mkdir(parents=True, exist_ok=True)
    async with chromium() as tab:
        yield tab
        await tab.screenshot(SHOTS / "last.png")
        await tab.close()


@contextlib.asynccontextmanager
async def ui_page(address: str) -> AsyncIterator[str]:
    """`coordinator-cli ui` on a running coordinator; the printed address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coordinator.cli", "ui", "--no-open", "--address", address,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        assert url.startswith("http://127.0.0.1:"), url
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == ExitCode.INTERRUPTED


async def test_pictures_dropped_on_the_page_are_analysed_opened_and_compared(
    server: ServerThread, tab: Tab, tmp_path: Path
) -> None:
    paths = [write_picture(tmp_path / name, seed) for seed, name in enumerate(("a.png", "b & <b>.png"))]
    (tmp_path / "fail.png").write_bytes(b"no picture")
    async with ui_page(server.address) as url:
        await tab.open(url)
        assert "token" not in await tab.evaluate("location.href"), "the token leaves the address bar"
        await tab.choose_files("#files", *paths, tmp_path / "fail.png")
        await tab.until("document.querySelectorAll('#cards > [data-ended]').length == 3")
        text = await tab.text("#cards")
        assert "b & <b>.png" in text
        assert "Manipulated 93 %" in text
        assert "Foreign JPEG grid" in text
        assert "The content is not an image." in text
        await tab.until("[...document.images].every((image) => image.complete && image.naturalWidth)")
        await tab.screenshot(SHOTS / "ui-home.png")
        await tab.click("#cards > li:nth-child(2) input[name=report]")
        await tab.click("#actions button")
        await tab.until("!document.querySelector('#problem').hidden")
        assert "two to four" in await tab.text("#problem")
        await tab.click("#cards > li:nth-child(3) input[name=report]")
        await tab.click("#actions button")
        await tab.until("location.pathname == '/compare' && document.querySelector('table.compare')")
        assert await tab.evaluate("document.querySelectorAll('table.compare img').length") == 2
        await tab.screenshot(SHOTS / "ui-compare.png", whole_page=True)
        await tab.open(url.partition("?")[0] + "reports/picture/1")
        assert "A region comes from another file." in await tab.text()
        await tab.click("[data-toggles=layer-1]")
        assert await tab.evaluate("document.querySelector('#layer-1').classList.contains('off')")
        await tab.open(url.partition("?")[0])
        await tab.click("#cards > li:nth-child(1) .remove")
        await tab.until("document.querySelectorAll('#cards > li').length == 2")
    assert not tab.dialogs
    assert not tab.errors
    assert all(request.startswith(url.partition("?")[0]) for request in tab.requests)


async def test_findings_arrive_while_the_picture_is_still_being_analysed(
    server: ServerThread, tab: Tab, tmp_path: Path
) -> None:
    async with ui_page(server.address) as url:
        await tab.open(url)
        await tab.choose_files("#files", write_picture(tmp_path / "pause.png"))
        await tab.until("document.querySelector('.chip.found')")
        assert await tab.evaluate("document.querySelectorAll('.chip.waiting').length") == 2
        assert await tab.evaluate("document.querySelectorAll('[data-ended]').length") == 0
        server.coordinator.go_on.set()
        await tab.until("document.querySelector('[data-ended] .open')")


async def test_nobody_without_the_token_sees_anything(server: ServerThread) -> None:
    async with ui_page(server.address) as url:
        port = int(url.split(":")[2].partition("/")[0])
        token = url.partition("=")[2]

        def get(path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.getheader("set-cookie") or ""

        paths = ("/", "/events", "/style.css", "/reports/picture/1", "/batches", "/static/ui.js", "/?token=wrong")
        for path in paths:
            assert (await asyncio.to_thread(get, path))[0] == 403, path
        status, cookie = await asyncio.to_thread(get, f"/?token={token}")
        assert status == 303
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert (await asyncio.to_thread(get, f"/?token={token}"))[0] == 403, "the token works once"
        own = cookie.partition(";")[0]
        assert (await asyncio.to_thread(partial(get, "/", Cookie=own)))[0] == 200
        for refused in ({"Host": f"evil.example:{port}"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
            status, _ = await asyncio.to_thread(partial(get, "/", Cookie=own, **refused))
            assert status in {403, 421}, refused
        for origin in ({}, {"Origin": f"http://127.0.0.1:{port + 1}"}):
            status, _ = await asyncio.to_thread(partial(get, "/pictures/1", "DELETE", Cookie=own, **origin))
            assert status == 403, "only the page itself may change anything"
