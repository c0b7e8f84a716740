"""A headless Chromium, driven over its DevTools protocol: what a person sees and clicks."""

# ruff: noqa: ASYNC110, ASYNC240 - the browser can only be asked again, and the files are small and local

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TIMEOUT_S = 40.0


def find_chromium() -> str:
    """The browser's command; skips the test where there is none."""
    for name in (os.environ.get("CHROMIUM", ""), *_NAMES):
        if name and (found := shutil.which(name)):
            return found
    pytest.skip("no Chromium: install the package chromium, or set CHROMIUM")


class Tab:
    """One page."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self._reader = asyncio.ensure_future(self._read())
        self.requests: list[str] = []
        """Addresses that were asked for, data: left out."""
        self.dialogs: list[str] = []
        """Texts of alert() and its like."""
        self.errors: list[str] = []
        """Faults of scripts, and what the content security policy refused."""

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
                continue
            parameters = message["params"]
            match message["method"]:
                case "Page.loadEventFired":
                    self._loaded.set()
                case "Network.requestWillBeSent" if not parameters["request"]["url"].startswith("data:"):
                    self.requests.append(parameters["request"]["url"])
                case "Page.javascriptDialogOpening":
                    self.dialogs.append(parameters["message"])
                    asyncio.ensure_future(self.call("Page.handleJavaScriptDialog", accept=False))  # noqa: RUF006
                case "Runtime.exceptionThrown":
                    self.errors.append(str(parameters["exceptionDetails"]))
                case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                    self.errors.append(parameters["entry"]["text"])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        answer = await asyncio.wait_for(self._answers[number], _TIMEOUT_S)
        assert "error" not in answer, f"{method}: {answer}"
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str) -> None:
        """Goes to an address and waits until it has loaded."""
        self._loaded.clear()
        answer = await self.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        await asyncio.wait_for(self._loaded.wait(), _TIMEOUT_S)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression; a promise is awaited."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits until an expression is true."""
        async with asyncio.timeout(_TIMEOUT_S):
            while not await self.evaluate(f"!!({expression})"):
                await asyncio.sleep(0.05)

    async def text(self, selector: str = "body") -> str:
        """Visible text."""
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def click(self, selector: str) -> None:
        """Moves the mouse onto the middle of an element and clicks: what covers the element gets the click."""
        where = await self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)

    async def press(self, key: str, code: int) -> None:
        """A key, as from the keyboard."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text
            )

    async def choose_files(self, selector: str, *paths: Path) -> None:
        """Puts files into a file field."""
        document = await self.call("DOM.getDocument")
        node = await self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self.call("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(path) for path in paths])

    async def resize(self, width: int, height: int) -> None:
        """The window's inner size in CSS pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def screenshot(self, path: Path, *, whole_page: bool = False) -> None:
        """A PNG of what is seen, once the page has loaded and been laid out."""
        await self.until("document.readyState === 'complete' && document.documentElement.clientWidth")
        answer = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole_page)
        path.write_bytes(base64.b64decode(answer["data"]))

    async def close(self) -> None:
        """Ends the connection; the page goes with the browser."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Tab]:
    """A browser with a fresh profile and one page."""
    command = find_chromium()
    with tempfile.TemporaryDirectory(prefix="maifs-browser-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            command, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
            "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield await _first_tab(Path(profile, "DevToolsActivePort"))
        finally:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _first_tab(port_file: Path) -> Tab:
    async with asyncio.timeout(_TIMEOUT_S):
        while not (port_file.exists() and len(port_file.read_text().split()) == 2):
            await asyncio.sleep(0.05)
    port, path = port_file.read_text().split()
    async with websockets.connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as browser:
        target = ""
        while not target:
            await browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            targets = json.loads(await browser.recv())["result"]["targetInfos"]
            target = next((found["targetId"] for found in targets if found["type"] == "page"), "")
    tab = Tab(await websockets.connect(f"ws://127.0.0.1:{port}/devtools/page/{target}", max_size=None))
    for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
        await tab.call(f"{domain}.enable")
    await tab.resize(1280, 900)
    return tab
