"""The journal's files: what is there after a crash between any two steps, migrations, faults."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.journal import schema
from coordinator.journal.journal import Journal, JournalSettings
from coordinator.journal.queries import Reader
from coordinator.journal.records import BatchSettings, BatchState, ItemKey, ItemState, Outcome, Retry
from coordinator.journal.schema import DATABASE_NAME, open_stored
from coordinator.journal.spool import Spool
from coordinator.journal.store import Store
from serving.errors import MaifsError, Reason

OPTIONS = BatchSettings(all=b"all", fixed=b"fixed")
REPORTED = Outcome(ItemState.REPORTED, verdict=1, probability=0.9, report=b"report")
FAILED = Outcome(ItemState.FAILED, reason="BACKEND_FAILED", error=b"error")


def key(number: int) -> ItemKey:
    data = b"picture %d" % number
    return ItemKey(f"{number}.jpg", hashlib.sha256(data).digest(), len(data))


def journal_at(folder: Path, **fields: float) -> Journal:
    values = {"max_spool_bytes": 10_000, "retention_s": 0.0} | fields
    return Journal(JournalSettings(folder, int(values["max_spool_bytes"]), values["retention_s"]))


async def admit(journal: Journal, batch_id: str, number: int) -> None:
    upload = await journal.open_upload(key(number))
    upload.write(b"picture %d" % number)
    upload.finish()
    await journal.admit(batch_id, key(number), upload)


class Steps:
    """Random work on a store beside a plain model of what it must hold."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / DATABASE_NAME
        self.store = Store(self.path)
        self.store.begin("b", "", OPTIONS, 1)
        self.states: dict[int, ItemState] = {}
        self.ended: dict[int, int] = {}
        """Sequence by item, of those that have ended."""
        self.last = 0

    def do(self, step: str, number: int) -> None:
        queued = [n for n, state in self.states.items() if state is ItemState.QUEUED]
        if step == "admit":
            self.store.admit("b", key(number))
            if self.states.get(number) is not ItemState.REPORTED:
                self.states[number] = ItemState.QUEUED
                self.ended.pop(number, None)
        elif step in {"report", "fail"} and number in self.states:
            self._end(number, REPORTED if step == "report" else FAILED)
        elif step == "cancel":
            self.store.cancel("b", Outcome(ItemState.CANCELLED, reason="CANCELLED"), 2)
            for one in queued:
                self._mark(one, ItemState.CANCELLED)
        elif step == "seal":
            self.store.seal("b")

    def _end(self, number: int, outcome: Outcome) -> None:
        item = self.store.find("b", key(number), Retry.NONE)
        assert item
        done = self.store.end(item.number, outcome, 2)
        assert bool(done) == (self.states[number] is ItemState.QUEUED), "an end is given once"
        if done:
            self._mark(number, outcome.state)

    def _mark(self, number: int, state: ItemState) -> None:
        self.last += 1
        self.states[number], self.ended[number] = state, self.last

    def crash(self, folder: Path) -> None:
        """What a machine that lost its power would find: the files as they are, without an orderly close."""
        folder.mkdir()
        for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal"):
            if (self.path.parent / name).exists():
                shutil.copy(self.path.parent / name, folder / name)
        self.check(folder / DATABASE_NAME)
        self.store.close()
        self.path = folder / DATABASE_NAME
        self.store = Store(self.path)

    def check(self, path: Path) -> None:
        store, reader = Store(path), Reader(open_stored(path))
        try:
            items = {item.key.name: item for item in reader.items("b", 0, 1000)}
            assert {name: item.state for name, item in items.items()} == {
                key(number).name: state for number, state in self.states.items()
            }
            sequences = {name: item.sequence for name, item in items.items() if item.sequence}
            assert sequences == {key(number).name: sequence for number, sequence in self.ended.items()}
            with_report = {item.key.name for item in items.values() if reader.report(item.number)}
            assert with_report == {name for name, item in items.items() if item.state is ItemState.REPORTED}
            assert sorted(item.position for item in items.values()) == list(range(1, len(items) + 1))
            ended = reader.ended_after(next(iter(items.values())).batch_number, 0, 1000) if items else []
            assert [item.sequence for item in ended] == sorted(sequences.values())
        finally:
            reader.close()
            store.close()


STEPS = st.lists(
    st.tuples(st.sampled_from(["admit", "admit", "report", "report", "fail", "cancel", "seal", "crash"]),
              st.integers(0, 4)),
    max_size=25,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_a_crash_between_any_two_steps_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    work = Steps(folder)
    for number, (step, item) in enumerate(steps):
        if step == "crash":
            work.crash(folder / str(number))
        else:
            work.do(step, item)
    work.crash(folder / "last")
    work.store.close()


async def test_what_was_accepted_is_there_after_a_crash_and_what_was_not_is_cleaned_up(tmp_path: Path) -> None:
    journal = journal_at(tmp_path / "a")
    await journal.open()
    await journal.begin("b", "", OPTIONS)
    await admit(journal, "b", 1)
    half = await journal.open_upload(key(2))
    half.write(b"pict")
    shutil.copytree(tmp_path / "a", tmp_path / "crashed")
    await journal.close()
    after = journal_at(tmp_path / "crashed")
    await after.open()
    item = await after.next_queued(1, [])
    assert item
    assert await after.read_picture(item) == b"picture 1"
    assert [path.name for path in (tmp_path / "crashed" / "spool").iterdir()] == [key(1).sha256.hex()]
    assert after.spooled_bytes == key(1).size_bytes
    await after.close()


async def test_content_that_two_items_share_stays_until_both_have_ended(tmp_path: Path) -> None:
    journal = journal_at(tmp_path)
    await journal.open()
    await journal.begin("a", "", OPTIONS)
    await journal.begin("b", "", OPTIONS)
    await admit(journal, "a", 1)
    await admit(journal, "b", 1)
    first, second = await journal.next_queued(1, []), await journal.next_queued(2, [])
    assert first
    assert second
    await journal.end("a", first, REPORTED)
    assert await journal.read_picture(second) == b"picture 1"
    await journal.end("b", second, REPORTED)
    assert not list((tmp_path / "spool").iterdir())
    assert journal.spooled_bytes == 0
    await journal.close()


async def test_two_clients_that_send_the_same_item_at_a_time_make_one(tmp_path: Path) -> None:
    journal = journal_at(tmp_path)
    await journal.open()
    await journal.begin("b", "", OPTIONS)
    uploads = [await journal.open_upload(key(1)) for _ in range(2)]
    for upload in uploads:
        upload.write(b"picture 1")
        upload.finish()
    items = [await journal.admit("b", key(1), upload) for upload in uploads]
    assert items[0] == items[1]
    assert journal.spooled_bytes == key(1).size_bytes
    await journal.close()


def test_a_disk_without_room_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    upload = spool.open(key(1).sha256, key(1).size_bytes)

    class Full:
        def write(self, data: memoryview) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(upload, "_file", Full())
    with pytest.raises(MaifsError, match="No space left") as caught:
        upload.write(b"picture 1")
    assert caught.value.reason is Reason.STORAGE_FULL
    assert caught.value.retry_after_s > 0
    upload.discard()
    assert not list(tmp_path.iterdir())


def test_old_batches_are_forgotten_and_others_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path / DATABASE_NAME)
    for name in ("old", "unfinished", "empty"):
        store.begin(name, "", OPTIONS, 1)
    old, _ = store.admit("old", key(1))
    store.admit("unfinished", key(2))
    store.end(old.number, REPORTED, 5)
    store.begin("new", "", OPTIONS, 1)
    new, _ = store.admit("new", key(3))
    store.end(new.number, REPORTED, 50)
    assert sorted(store.prune(10)) == ["empty", "old"]
    reader = Reader(open_stored(tmp_path / DATABASE_NAME))
    assert [batch.batch_id for batch in reader.batches(2**62, 10)] == ["new", "unfinished"]
    assert reader.report(old.number) == b""
    reader.close()
    store.close()


def test_states_of_a_batch(tmp_path: Path) -> None:
    store = Store(tmp_path / DATABASE_NAME)
    assert store.begin("b", "", OPTIONS, 1).state is BatchState.OPEN
    item, _ = store.admit("b", key(1))
    assert store.seal("b").state is BatchState.RUNNING
    store.end(item.number, REPORTED, 2)
    assert store.seal("b").state is BatchState.DONE
    store.cancel("b", Outcome(ItemState.CANCELLED), 3)
    assert store.begin("b", "", OPTIONS, 4).state is BatchState.OPEN
    store.close()


def test_an_older_database_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / DATABASE_NAME
    store = Store(path)
    store.begin("b", "", OPTIONS, 1)
    store.close()
    newer = (*schema.MIGRATIONS, "ALTER TABLE batches ADD COLUMN colour TEXT;")
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    Store(path).close()
    database = sqlite3.connect(path)
    assert database.execute("SELECT batch_id, colour FROM batches").fetchall() == [("b", None)]
    assert database.execute("PRAGMA user_version").fetchone() == (len(newer),)
    database.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / DATABASE_NAME
    Store(path).close()
    broken = (*schema.MIGRATIONS, "ALTER TABLE batches ADD COLUMN colour TEXT; ALTER TABLE none ADD COLUMN x;")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", broken)
        with pytest.raises(MaifsError, match="no such table"):
            Store(path)
    store = Store(path)
    assert store.begin("b", "", OPTIONS, 1)
    store.close()


def content(path: Path, fault: str) -> object:
    """What a database says, or the bytes of a file that is none."""
    if fault != "newer":
        return path.read_bytes() if path.exists() else b""
    database = sqlite3.connect(path)
    found = [*database.iterdump(), database.execute("PRAGMA user_version").fetchone()]
    database.close()
    return found


@pytest.mark.parametrize("fault", ["newer", "damaged", "folder"])
async def test_a_journal_that_cannot_be_used_is_left_alone_and_said(tmp_path: Path, fault: str) -> None:
    path = tmp_path / DATABASE_NAME
    if fault == "newer":
        Store(path).close()
        database = sqlite3.connect(path)
        database.execute("PRAGMA user_version = 99")
        database.close()
    elif fault == "damaged":
        path.write_bytes(b"no database" * 1000)
    else:
        (tmp_path / "file").touch()
    before = content(path, fault)
    journal = journal_at(tmp_path / "file" if fault == "folder" else tmp_path)
    with pytest.raises(MaifsError) as caught:
        await journal.open()
    assert caught.value.reason is Reason.JOURNAL_UNUSABLE
    assert content(path, fault) == before
    await journal.close()


async def test_retention_is_counted_from_the_end_of_the_last_item(tmp_path: Path) -> None:
    journal = journal_at(tmp_path, retention_s=60.0)
    await journal.open()
    await journal.begin("b", "", OPTIONS)
    await admit(journal, "b", 1)
    item = await journal.next_queued(1, [])
    assert item
    await journal.end("b", item, REPORTED)
    await journal.prune()
    assert (await journal.read(lambda queries: queries.batch("b"))).end_time_ns
    journal.store._db.execute("UPDATE batches SET create_time_ns = 1")
    journal.store._db.execute("UPDATE items SET end_time_ns = ?", (time.time_ns() - 61 * 10**9,))
    await journal.prune()
    with pytest.raises(MaifsError):
        await journal.read(lambda queries: queries.batch("b"))
    await journal.close()
