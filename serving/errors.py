"""The error model: one base error with a stable reason that gRPC, the CLI, logs and metrics share."""

from __future__ import annotations

import enum

import grpc


class ExitCode(enum.IntEnum):
    """Exit codes of every command of the project."""

    OK = 0
    ITEMS_FAILED = 1
    """The run ended, but some items have an error instead of a report."""
    USAGE = 2
    """Wrong arguments or configuration."""
    UNREACHABLE = 3
    """A service that is needed does not answer."""
    INTERNAL = 4
    """A fault of the program."""
    INTERRUPTED = 130
    """Ctrl-C."""


class Reason(enum.StrEnum):
    """Stable reasons. The name travels as google.rpc.ErrorInfo.reason with domain "maifs"."""

    EMPTY_FILE = "EMPTY_FILE"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    CORRUPT_IMAGE = "CORRUPT_IMAGE"
    DECODER_FAILED = "DECODER_FAILED"
    IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"
    TOO_MANY_PIXELS = "TOO_MANY_PIXELS"
    SHA256_MISMATCH = "SHA256_MISMATCH"
    SIZE_MISMATCH = "SIZE_MISMATCH"
    CHUNK_OFFSET = "CHUNK_OFFSET"
    CHUNK_AFTER_END = "CHUNK_AFTER_END"
    DUPLICATE_ITEM = "DUPLICATE_ITEM"
    UNKNOWN_ITEM = "UNKNOWN_ITEM"
    ITEM_INCOMPLETE = "ITEM_INCOMPLETE"
    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_JSON_SCHEMA = "INVALID_JSON_SCHEMA"
    INVALID_CONSTRAINT = "INVALID_CONSTRAINT"
    IMAGES_NOT_SUPPORTED = "IMAGES_NOT_SUPPORTED"
    UNKNOWN_ADAPTER = "UNKNOWN_ADAPTER"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    CANCELLED = "CANCELLED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    QUEUE_FULL = "QUEUE_FULL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    EXCEEDS_MEMORY_BUDGET = "EXCEEDS_MEMORY_BUDGET"
    TOO_MANY_OPEN_ITEMS = "TOO_MANY_OPEN_ITEMS"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    BACKEND_UNAVAILABLE = "BACKEND_UNAVAILABLE"
    BACKEND_FAILED = "BACKEND_FAILED"
    ENGINE_DEAD = "ENGINE_DEAD"
    PREFIX_CACHING_OFF = "PREFIX_CACHING_OFF"
    LLM_BAD_ANSWER = "LLM_BAD_ANSWER"
    INVALID_CONFIG = "INVALID_CONFIG"
    ADDRESS_IN_USE = "ADDRESS_IN_USE"
    MODEL_UNUSABLE = "MODEL_UNUSABLE"
    FILE_UNREADABLE = "FILE_UNREADABLE"
    NO_IMAGES = "NO_IMAGES"
    OUTPUT_UNWRITABLE = "OUTPUT_UNWRITABLE"
    NO_JOURNAL = "NO_JOURNAL"
    JOURNAL_UNUSABLE = "JOURNAL_UNUSABLE"
    STORAGE_FULL = "STORAGE_FULL"
    UNKNOWN_BATCH = "UNKNOWN_BATCH"
    BATCH_MISMATCH = "BATCH_MISMATCH"
    UNKNOWN_REPORT = "UNKNOWN_REPORT"
    INTERNAL = "INTERNAL"

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code that carries this reason."""
        return _SURFACES[self][0]

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command that ends for this reason."""
        return _SURFACES[self][1]


_SURFACES: dict[Reason, tuple[grpc.StatusCode, ExitCode]] = {
    Reason.EMPTY_FILE: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.ITEMS_FAILED),
    Reason.NOT_AN_IMAGE: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.ITEMS_FAILED),
    Reason.CORRUPT_IMAGE: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.ITEMS_FAILED),
    Reason.DECODER_FAILED: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.ITEMS_FAILED),
    Reason.IMAGE_TOO_LARGE: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.ITEMS_FAILED),
    Reason.TOO_MANY_PIXELS: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.ITEMS_FAILED),
    Reason.SHA256_MISMATCH: (grpc.StatusCode.DATA_LOSS, ExitCode.ITEMS_FAILED),
    Reason.SIZE_MISMATCH: (grpc.StatusCode.DATA_LOSS, ExitCode.ITEMS_FAILED),
    Reason.CHUNK_OFFSET: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.ITEMS_FAILED),
    Reason.CHUNK_AFTER_END: (grpc.StatusCode.FAILED_PRECONDITION, ExitCode.ITEMS_FAILED),
    Reason.DUPLICATE_ITEM: (grpc.StatusCode.ALREADY_EXISTS, ExitCode.ITEMS_FAILED),
    Reason.UNKNOWN_ITEM: (grpc.StatusCode.NOT_FOUND, ExitCode.ITEMS_FAILED),
    Reason.ITEM_INCOMPLETE: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.ITEMS_FAILED),
    Reason.INVALID_REQUEST: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.USAGE),
    Reason.INVALID_JSON_SCHEMA: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.USAGE),
    Reason.INVALID_CONSTRAINT: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.USAGE),
    Reason.IMAGES_NOT_SUPPORTED: (grpc.StatusCode.FAILED_PRECONDITION, ExitCode.USAGE),
    Reason.UNKNOWN_ADAPTER: (grpc.StatusCode.NOT_FOUND, ExitCode.USAGE),
    Reason.PROMPT_TOO_LONG: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.ITEMS_FAILED),
    Reason.CANCELLED: (grpc.StatusCode.CANCELLED, ExitCode.ITEMS_FAILED),
    Reason.DEADLINE_EXCEEDED: (grpc.StatusCode.DEADLINE_EXCEEDED, ExitCode.ITEMS_FAILED),
    Reason.QUEUE_FULL: (grpc.StatusCode.RESOURCE_EXHAUSTED, ExitCode.ITEMS_FAILED),
    Reason.OUT_OF_MEMORY: (grpc.StatusCode.RESOURCE_EXHAUSTED, ExitCode.ITEMS_FAILED),
    Reason.EXCEEDS_MEMORY_BUDGET: (grpc.StatusCode.RESOURCE_EXHAUSTED, ExitCode.ITEMS_FAILED),
    Reason.TOO_MANY_OPEN_ITEMS: (grpc.StatusCode.RESOURCE_EXHAUSTED, ExitCode.ITEMS_FAILED),
    Reason.UNAUTHENTICATED: (grpc.StatusCode.UNAUTHENTICATED, ExitCode.USAGE),
    Reason.PERMISSION_DENIED: (grpc.StatusCode.PERMISSION_DENIED, ExitCode.USAGE),
    Reason.QUOTA_EXCEEDED: (grpc.StatusCode.RESOURCE_EXHAUSTED, ExitCode.ITEMS_FAILED),
    Reason.SHUTTING_DOWN: (grpc.StatusCode.UNAVAILABLE, ExitCode.UNREACHABLE),
    Reason.BACKEND_UNAVAILABLE: (grpc.StatusCode.UNAVAILABLE, ExitCode.UNREACHABLE),
    Reason.BACKEND_FAILED: (grpc.StatusCode.INTERNAL, ExitCode.ITEMS_FAILED),
    Reason.ENGINE_DEAD: (grpc.StatusCode.UNAVAILABLE, ExitCode.UNREACHABLE),
    Reason.PREFIX_CACHING_OFF: (grpc.StatusCode.FAILED_PRECONDITION, ExitCode.USAGE),
    Reason.LLM_BAD_ANSWER: (grpc.StatusCode.INTERNAL, ExitCode.ITEMS_FAILED),
    Reason.INVALID_CONFIG: (grpc.StatusCode.FAILED_PRECONDITION, ExitCode.USAGE),
    Reason.ADDRESS_IN_USE: (grpc.StatusCode.FAILED_PRECONDITION, ExitCode.USAGE),
    Reason.MODEL_UNUSABLE: (grpc.StatusCode.FAILED_PRECONDITION, ExitCode.USAGE),
    Reason.FILE_UNREADABLE: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.ITEMS_FAILED),
    Reason.NO_IMAGES: (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.USAGE),
    Reason.OUTPUT_UNWRITABLE: (grpc.StatusCode.FAILED_PRECONDITION, ExitCode.USAGE),
    Reason.NO_JOURNAL: (grpc.StatusCode.FAILED_PRECONDITION, ExitCode.USAGE),
    Reason.JOURNAL_UNUSABLE: (grpc.StatusCode.FAILED_PRECONDITION, ExitCode.USAGE),
    Reason.STORAGE_FULL: (grpc.StatusCode.RESOURCE_EXHAUSTED, ExitCode.ITEMS_FAILED),
    Reason.UNKNOWN_BATCH: (grpc.StatusCode.NOT_FOUND, ExitCode.USAGE),
    Reason.BATCH_MISMATCH: (grpc.StatusCode.FAILED_PRECONDITION, ExitCode.USAGE),
    Reason.UNKNOWN_REPORT: (grpc.StatusCode.NOT_FOUND, ExitCode.USAGE),
    Reason.INTERNAL: (grpc.StatusCode.INTERNAL, ExitCode.INTERNAL),
}


class MaifsError(Exception):
    """Base of all errors that are meant to be read by people.

    Args:
        reason: stable reason code.
        message: what was wrong, where, with which value.
        advice: what to do about it; may be empty where nothing can be done.
        retry_after_s: seconds after which the same request may succeed; 0 when waiting does not help.
    """

    def __init__(self, reason: Reason, message: str, advice: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.advice = advice
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.reason.name, self.message, self.advice, self.retry_after_s))


def _rebuild(reason: str, message: str, advice: str, retry_after_s: float) -> MaifsError:
    return MaifsError(Reason[reason], message, advice, retry_after_s=retry_after_s)
