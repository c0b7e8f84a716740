"""One call of SubmitBatch: steps in, one answer for each item out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from coordinator.journal.convert import to_batch, to_item
from coordinator.journal.journal import Journal
from coordinator.journal.ownership import callers_scope
from coordinator.journal.records import BatchRecord, BatchSettings, ItemKey, Retry
from coordinator.journal.spool import Upload
from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import batch_pb2, coordinator_pb2
from serving.access.caller import metered
from serving.channel import INLINE_BYTES
from serving.errors import MaifsError, Reason
from serving.item_stream import ItemLimits
from serving.status import to_status

Request = batch_pb2.SubmitBatchRequest
Response = batch_pb2.SubmitBatchResponse

LONGEST_TITLE = 512
LONGEST_NAME = 4096
_BATCH_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True)
class _Open:
    key: ItemKey
    upload: Upload


class Submission:
    """One call. It reads a step, answers it, and reads the next: a client that does not read is not read either."""

    def __init__(
        self, journal: Journal, limits: ItemLimits, check_options: Callable[[coordinator_pb2.AnalyzeOptions], object]
    ) -> None:
        """Takes the limits of images and of open items; `check_options` raises INVALID_REQUEST."""
        self._journal, self._limits, self._check_options = journal, limits, check_options
        self._room = metered()
        self._scope = callers_scope()
        self._batch_id = ""
        self._retry = Retry.NONE
        self._open: dict[str, _Open] = {}
        self._given_up: set[str] = set()

    async def run(self, requests: AsyncIterator[Request]) -> AsyncIterator[Response]:
        """Answers until the batch is sealed or the client has no more to say.

        Raises:
            MaifsError: INVALID_REQUEST, BATCH_MISMATCH: for what concerns the whole call.
        """
        try:
            async for request in requests:
                step = request.WhichOneof("step")
                if not self._batch_id:
                    yield Response(begun=await self._begin(request))
                elif step == "seal":
                    for item_id in list(self._open):
                        yield self._refused(item_id, _incomplete())
                    batch = await self._journal.seal(self._batch_id)
                    yield Response(sealed=self._to_batch(batch))
                    return
                else:
                    response = await self._answer(request, str(step))
                    if response is not None:
                        yield response
            for item_id in list(self._open):
                yield self._refused(item_id, _incomplete())
        finally:
            for item in self._open.values():
                self._journal.drop(item.upload)
                self._room.release(item.key.size_bytes)

    def _to_batch(self, batch: BatchRecord) -> batch_pb2.Batch:
        return to_batch(batch, self._journal.watches.problem, self._scope)

    async def _begin(self, request: Request) -> batch_pb2.Batch:
        begin = request.begin
        if request.WhichOneof("step") != "begin" or not _BATCH_ID.fullmatch(begin.batch_id):
            raise MaifsError(
                Reason.INVALID_REQUEST,
                "The first message must be `begin` with a batch_id of 1 to 128 characters of A-Z a-z 0-9 . _ -",
            )
        if begin.options.max_running_items_count < 0:
            raise MaifsError(Reason.INVALID_REQUEST, "options.max_running_items_count must be at least 0.")
        self._check_options(begin.options.analyze)
        stored = self._scope.stored(begin.batch_id)
        batch = await self._journal.begin(stored, begin.title[:LONGEST_TITLE], _settings(begin.options))
        self._batch_id, self._retry = stored, _retry(begin)
        return self._to_batch(batch)

    async def _answer(self, request: Request, step: str) -> Response | None:
        try:
            if step == "offer":
                return await self._offer(request.item_id, request.offer)
            if request.item_id in self._given_up:
                return None  # sent before the client could know that the item was refused
            if request.item_id not in self._open:
                raise MaifsError(Reason.UNKNOWN_ITEM, f"{step} came for an item that is not wanted.")
            if step == "chunk":
                await self._chunk(self._open[request.item_id], request.chunk)
                return None
            if step == "end":
                return await self._end(request.item_id)
            if step == "cancel":
                raise MaifsError(Reason.CANCELLED, "The client withdrew the item.")
            raise MaifsError(Reason.INVALID_REQUEST, "The message has no step that is allowed here.")
        except MaifsError as error:
            return self._refused(request.item_id, error)

    async def _offer(self, item_id: str, offer: batch_pb2.OfferItem) -> Response:
        if not 1 <= len(item_id) <= 128 or item_id in self._open:
            raise MaifsError(Reason.INVALID_REQUEST, "item_id must have 1 to 128 characters and not be open already.")
        key = self._key(offer)
        known = await self._journal.find(self._batch_id, key, self._retry)
        if known is not None:
            return Response(item_id=item_id, known=to_item(known))
        if len(self._open) >= self._limits.max_open_items:
            raise MaifsError(
                Reason.TOO_MANY_OPEN_ITEMS,
                f"{len(self._open)} items of this stream are wanted, the limit.",
                "End some before you offer more.",
                retry_after_s=0.5,
            )
        self._room.reserve(key.size_bytes)
        try:
            self._open[item_id] = _Open(key, await self._journal.open_upload(key))
        except BaseException:
            self._room.release(key.size_bytes)
            raise
        self._given_up.discard(item_id)
        return Response(item_id=item_id, wanted=batch_pb2.ItemWanted())

    def _key(self, offer: batch_pb2.OfferItem) -> ItemKey:
        if not 1 <= len(offer.name) <= LONGEST_NAME:
            raise MaifsError(
                Reason.INVALID_REQUEST, f"name has {len(offer.name)} characters; 1 to {LONGEST_NAME:,} are allowed."
            )
        if len(offer.sha256) != 32:
            raise MaifsError(
                Reason.INVALID_REQUEST, f"sha256 has {len(offer.sha256)} bytes; it must have 32 (binary, not hex)."
            )
        if offer.size_bytes < 1:
            raise MaifsError(Reason.EMPTY_FILE, f"size_bytes is {offer.size_bytes}; a picture has at least one byte.")
        if offer.size_bytes > self._limits.max_image_bytes:
            raise MaifsError(
                Reason.IMAGE_TOO_LARGE,
                f"The file has {offer.size_bytes:,} bytes; the limit is {self._limits.max_image_bytes:,}.",
            )
        return ItemKey(offer.name, offer.sha256, offer.size_bytes)

    async def _chunk(self, item: _Open, chunk: image_pb2.ItemChunk) -> None:
        received = item.upload.received_bytes
        if chunk.offset_bytes != received:
            raise MaifsError(
                Reason.CHUNK_OFFSET, f"A chunk for offset {chunk.offset_bytes:,} came when {received:,} was next."
            )
        if len(chunk.data) > INLINE_BYTES:
            raise MaifsError(
                Reason.INVALID_REQUEST, f"A message carries {len(chunk.data):,} bytes; at most {INLINE_BYTES:,}."
            )
        await asyncio.to_thread(item.upload.write, chunk.data)

    async def _end(self, item_id: str) -> Response:
        item = self._open[item_id]
        await asyncio.to_thread(item.upload.finish)
        del self._open[item_id]  # from here on the journal drops what it does not keep
        self._room.release(item.key.size_bytes)
        record = await self._journal.admit(self._batch_id, item.key, item.upload, self._retry)
        return Response(item_id=item_id, accepted=to_item(record))

    def _refused(self, item_id: str, error: MaifsError) -> Response:
        item = self._open.pop(item_id, None)
        if item is not None:
            self._journal.drop(item.upload)
            self._room.release(item.key.size_bytes)
            self._given_up.add(item_id)
        return Response(item_id=item_id, refused=to_status(error))


def _settings(options: batch_pb2.BatchOptions) -> BatchSettings:
    analyze = options.analyze
    fixed = coordinator_pb2.AnalyzeOptions(skip_llm=analyze.skip_llm, language=analyze.language)
    return BatchSettings(options.SerializeToString(), fixed.SerializeToString(deterministic=True))


def _retry(begin: batch_pb2.BeginBatch) -> Retry:
    if begin.retry_ended:
        return Retry.ALL
    return Retry.UNSETTLED if begin.retry_failed else Retry.NONE


def _incomplete() -> MaifsError:
    return MaifsError(Reason.ITEM_INCOMPLETE, "The submission ended before the item's `end`.")
