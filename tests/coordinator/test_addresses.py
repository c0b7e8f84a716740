"""Backends whose addresses stand in a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.backends import addresses
from coordinator.backends.addresses import read_addresses
from coordinator.backends.backend import Health
from serving.errors import MaifsError, Reason
from serving.item_stream import Item
from tests.coordinator.conftest import World, kinds
from tests.coordinator.test_backends import Extra, extra  # noqa: F401 - a fixture
from tests.coordinator.waiting import until


def test_addresses_are_read_one_a_line_each_once(tmp_path: Path) -> None:
    file = tmp_path / "addresses"
    file.write_text("# replicas\nunix:/run/a.sock\n\n 10.0.0.1:50051 \n10.0.0.1:50051\n[::1]:7\n")
    assert read_addresses(file) == ("unix:/run/a.sock", "10.0.0.1:50051", "[::1]:7")


@pytest.mark.parametrize("text", [b"10.0.0.1", b"unix:relative", b"a host:1", b"\xff\xfe", b"a:1\n" * 20_000])
def test_what_is_no_list_of_addresses_is_refused_with_the_files_name(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "addresses"
    file.write_bytes(text)
    with pytest.raises(MaifsError, match="addresses") as caught:
        read_addresses(file)
    assert caught.value.reason is Reason.INVALID_CONFIG


async def test_a_missing_file_stops_the_start(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(vision_addresses_file=tmp_path / "none")
    with pytest.raises(MaifsError, match="none cannot be read"):
        await world.start()


async def test_backends_come_and_go_with_the_file(
    extra: Callable[..., Extra],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(addresses, "LOOK_EVERY_S", 0.05)
    file = tmp_path / "addresses"
    file.write_text("")
    both = extra(visions=1, vision_addresses_file=file)
    await both.start_vision(0)
    world = both.world
    await world.start()
    first, second = world.config.vision_address
    pool = world.service.vision  # type: ignore[union-attr]
    assert pool is not None
    assert kinds(await world.analyze())[-1] == "error", "no address, no report, and no waiting"

    file.write_text(first)
    await until(lambda: [b.health for b in pool.backends] == [Health.SERVING])
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_: Item, attempt: int) -> None:
        begun.set()
        await go_on.wait()

    world.vision.before_tools = hold
    under_way = asyncio.ensure_future(world.analyze())
    await asyncio.wait_for(begun.wait(), 20)
    old = pool.backends[0]

    file.write_text(second)
    await until(lambda: [(b.address, b.health) for b in pool.backends] == [(second, Health.SERVING)])
    assert kinds(await world.analyze())[-1] == "report"
    assert len(both.visions[0].items) == 1
    assert old.open_calls == 1
    go_on.set()
    assert kinds(await under_way)[-1] == "report", "what was under way at the one that left is finished there"

    file.write_text("broken\n")
    await asyncio.sleep(0.3)
    assert [b.address for b in pool.backends] == [second], "a broken file changes nothing"
