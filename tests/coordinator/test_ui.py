"""The web page's answers, with a coordinator and its journal behind it."""

# ruff: noqa: ASYNC110, ASYNC240 - the page can only be asked again, and the folder is small and local

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from coordinator.client import AsyncClient
from coordinator.config import CoordinatorConfig
from coordinator.render.labels import Labels
from coordinator.ui.access import Access
from coordinator.ui.app import Ui, create_app
from coordinator.ui.batches import Batches
from coordinator.ui.pictures import Pictures
from serving.server import ServerConfig
from tests.coordinator.batches import submit
from tests.coordinator.conftest import World
from tests.processes import socket_folder

ORIGIN = "http://127.0.0.1:9"
EVIL = "<script>alert(1)</script>.jpg"
LIMIT = 1000


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with socket_folder() as folder:
        config = CoordinatorConfig(
            server=ServerConfig(f"unix:{folder}/c.sock"),
            vision_address=(f"unix:{folder}/v.sock",),
            llm_address=(),
            state_folder=folder / "state",
        )
        world = World(folder, config)
        await world.start(llm=False)
        yield world
        await world.close()


@pytest.fixture
async def page(world: World, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that has the cookie."""
    access = Access(9)
    assert world.channel is not None
    address = world.config.server.address
    async with AsyncClient(address) as client:
        pictures = Pictures(client, tmp_path)
        app = create_app(Ui(pictures, Batches(world.channel, address), Labels("en"), LIMIT), access)
        transport = httpx.ASGITransport(app=app)
        cookies = {access.cookie: access.session}
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, cookies=cookies) as browser:
            yield browser
        await pictures.close()


async def send(page: httpx.AsyncClient, data: bytes, name: str = "a.jpg") -> httpx.Response:
    headers = {"Origin": ORIGIN, "X-File-Name": quote(name)}
    return await page.post("/pictures", content=data, headers=headers)


async def until_reported(page: httpx.AsyncClient, picture_id: str) -> httpx.Response:
    async with asyncio.timeout(20):
        while (answer := await page.get(f"/reports/picture/{picture_id}")).status_code == 404:
            await asyncio.sleep(0.02)
    return answer


async def test_a_picture_becomes_a_report_as_page_and_as_data(page: httpx.AsyncClient) -> None:
    sent = await send(page, b"picture", EVIL)
    assert sent.status_code == 201
    report = await until_reported(page, sent.json()["id"])
    assert report.status_code == 200
    assert "<script>alert(1)" not in report.text
    document = (await page.get(f"/reports/picture/{sent.json()['id']}.json")).json()
    assert document["file_name"] == EVIL
    home = (await page.get("/")).text
    assert "&lt;script&gt;alert(1)" in home
    assert "<script>alert(1)" not in home
    assert EVIL in json.dumps(document)


@pytest.mark.parametrize(("size", "reason"), [(LIMIT + 1, "IMAGE_TOO_LARGE"), (0, "EMPTY_FILE")])
async def test_what_cannot_be_taken_is_refused_and_leaves_nothing(
    page: httpx.AsyncClient, tmp_path: Path, size: int, reason: str
) -> None:
    answer = await send(page, bytes(size))
    assert answer.status_code == 400
    assert answer.json()["reason"] == reason
    assert list(tmp_path.iterdir()) == []


async def test_a_removed_picture_is_gone_from_the_disk_too(page: httpx.AsyncClient, tmp_path: Path) -> None:
    picture_id = (await send(page, b"picture")).json()["id"]
    await until_reported(page, picture_id)
    assert len(list(tmp_path.iterdir())) == 1
    gone = [(await page.delete(f"/pictures/{picture_id}", headers={"Origin": ORIGIN})).status_code for _ in range(2)]
    assert gone == [204, 404]
    assert list(tmp_path.iterdir()) == []
    assert (await page.get(f"/reports/picture/{picture_id}")).status_code == 404


async def test_batches_of_the_journal_are_listed_and_their_reports_opened(
    page: httpx.AsyncClient, world: World
) -> None:
    assert "No batches yet" in (await page.get("/batches")).text
    await submit(world.channel, "b-1", {"x/a.jpg": b"one", EVIL: b"two"}, title="<i>Holiday</i>")
    async with asyncio.timeout(20):
        while "Done" not in (await page.get("/batches")).text:
            await asyncio.sleep(0.05)
    listed = (await page.get("/batches")).text
    assert "&lt;i&gt;Holiday" in listed
    assert "<i>Holiday" not in listed
    batch = (await page.get("/batches/b-1")).text
    assert "2 of 2 pictures have a report, 0 failed" in batch
    assert "data-watch" not in batch, "nothing more will come"
    assert "<script>alert(1)" not in batch
    assert (await page.get("/reports/batch/b-1/1")).status_code == 200
    assert (await page.get("/reports/batch/b-1/1.json")).json()["path"] == "x/a.jpg"
    compared = await page.get("/compare", params={"report": ["batch/b-1/1", "batch/b-1/2"]})
    assert compared.status_code == 200
    assert "&lt;script&gt;alert(1)" in compared.text


async def test_a_batch_that_goes_on_is_watched(page: httpx.AsyncClient, world: World) -> None:
    await submit(world.channel, "open", {"a.jpg": b"one"}, seal=False)
    assert 'data-watch="/batches/open/events"' in (await page.get("/batches/open")).text


@pytest.mark.parametrize(
    "path",
    ["/reports/picture/7", "/reports/batch/none/1", "/batches/none", "/reports/../../etc/passwd", "/static/../app.py"],
)
async def test_what_is_not_there_is_404(page: httpx.AsyncClient, path: str) -> None:
    assert (await page.get(path)).status_code == 404


async def test_pages_may_load_nothing_from_elsewhere_and_may_not_be_framed(page: httpx.AsyncClient) -> None:
    headers = (await page.get("/")).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
