"""Settings of the coordinator."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from coordinator.fusion import Posterior
from serving.channel_security import ChannelSecurity
from serving.server import ServerConfig

MIB = 1024 * 1024
LANGUAGES = ("en", "ko")
_AT_LEAST_ONE = (
    "max_image_bytes", "max_open_items", "max_held_items", "vision_concurrency", "llm_concurrency", "max_timeouts",
    "batch_concurrency",
)  # fmt: skip


@dataclass(frozen=True)
class PriorConfig:
    """Prior probabilities; all three or none. Without them those of the fusion file count."""

    authentic: float | None = None
    manipulated: float | None = None
    ai_generated: float | None = None

    def faults(self) -> list[str]:
        """See serving.config."""
        values = [self.authentic, self.manipulated, self.ai_generated]
        given = [value for value in values if value is not None]
        if not given:
            return []
        if len(given) < len(values):
            return ["prior: set authentic, manipulated and ai_generated together or none of them"]
        if min(given) <= 0 or abs(sum(given) - 1.0) > 1e-6:
            return [f"prior: the three must be above 0 and add up to 1; they add up to {sum(given):g}"]
        return []

    def posterior(self) -> Posterior | None:
        """The prior for fusion; None when not set."""
        if self.authentic is None or self.manipulated is None or self.ai_generated is None:
            return None
        return Posterior(self.authentic, self.manipulated, self.ai_generated)


@dataclass(frozen=True)
class CoordinatorConfig:
    """Table [coordinator]."""

    server: ServerConfig = field(default_factory=lambda: ServerConfig("unix:/run/maifs/coordinator.sock"))
    """How the service listens."""
    vision_address: tuple[str, ...] = ("unix:/run/maifs/vision.sock",)
    """The vision service; several addresses share the work."""
    llm_address: tuple[str, ...] = ("unix:/run/maifs/llm.sock",)
    """The language-model service, or several; empty: none, the rules write every explanation."""
    vision_addresses_file: Path | None = None
    """A file of addresses, one a line, that is followed in place of vision_address: for backends that come and go."""
    llm_addresses_file: Path | None = None
    """The same in place of llm_address."""
    vision_channel: ChannelSecurity = field(default_factory=ChannelSecurity)
    """Of the vision services on TCP, or with a token: how they are known and what they are shown."""
    llm_channel: ChannelSecurity = field(default_factory=ChannelSecurity)
    """The same of the language-model services."""
    item_timeout_s: float = 300.0
    """Most seconds that the vision service may take for one picture, from the moment it is sent there."""
    llm_timeout_s: float = 120.0
    """Most seconds that the language model may take for one explanation, from the moment that it is asked."""
    max_timeouts: int = 3
    """Timeouts in a row after which a backend gets no work until a probe of it has passed."""
    max_image_bytes: int = 128 * MIB
    """Largest file."""
    max_open_items: int = 32
    """Items of one stream that may be open at a time."""
    max_held_bytes: int = 512 * MIB
    """Encoded pictures held over all calls; more is refused with QUEUE_FULL, as is more than a client's share."""
    max_held_items: int = 4096
    """Pictures held over all calls."""
    cache_bytes: int = 256 * MIB
    """Reports kept in memory for files that come again; 0: none are kept anywhere."""
    cache_disk_bytes: int = 2048 * MIB
    """Reports kept in state_folder, where one is set; 0: none."""
    vision_concurrency: int = 4
    """Pictures that are with each vision service at a time; the others wait here as encoded bytes."""
    llm_concurrency: int = 8
    """Explanations that are with each language model at a time, which batches them; the others wait for their turn."""
    llm_max_tokens: int = 320
    """Most tokens of one explanation; the JSON schema bounds the text below that."""
    state_folder: Path | None = None
    """Where batches are kept; without it the service takes none."""
    max_spool_bytes: int = 16 * 1024 * MIB
    """Encoded pictures of batches on disk that wait for their turn; more is refused with QUEUE_FULL."""
    batch_retention_s: float = 30 * 86_400.0
    """Seconds after which a batch whose pictures have all ended is forgotten with its reports; 0: never."""
    batch_concurrency: int = 16
    """Pictures of batches under way at a time, with the tools or the language model; each is held in memory."""
    second_look: bool = True
    """Whether the language model looks again where tools disagree."""
    picture_reading: bool = True
    """Whether a language model that takes pictures is shown a downscaled copy."""
    language: str = "en"
    """Language of reports: "en" or "ko"."""
    fusion_file: Path | None = None
    """Fitted weights and policy; the packaged file when not set."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """Prior probabilities in place of the fusion file's."""

    def faults(self) -> list[str]:
        """See serving.config."""
        found = [] if self.vision_address else ["vision_address must not be empty"]
        for name in ("item_timeout_s", "llm_timeout_s"):
            value = getattr(self, name)
            if not 0 < value < 86_400:
                found.append(f"{name} = {value}: must be above 0 and below a day")
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                found.append(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.max_held_bytes < self.max_image_bytes:
            found.append(
                f"max_held_bytes = {self.max_held_bytes}: must be at least max_image_bytes ({self.max_image_bytes})"
            )
        if self.max_spool_bytes < self.max_image_bytes:
            found.append(
                f"max_spool_bytes = {self.max_spool_bytes}: must be at least max_image_bytes ({self.max_image_bytes})"
            )
        if self.batch_retention_s < 0:
            found.append(f"batch_retention_s = {self.batch_retention_s}: must be at least 0")
        for name in ("cache_bytes", "cache_disk_bytes"):
            if getattr(self, name) < 0:
                found.append(f"{name} = {getattr(self, name)}: must be at least 0")
        found += [
            f"{name} names an address twice"
            for name in ("vision_address", "llm_address")
            if len(set(getattr(self, name))) < len(getattr(self, name))
        ]
        if not 64 <= self.llm_max_tokens <= 8192:
            found.append(f"llm_max_tokens = {self.llm_max_tokens}: must be between 64 and 8192")
        if self.language not in LANGUAGES:
            found.append(f"language = {self.language!r}: must be one of {', '.join(LANGUAGES)}")
        return found
