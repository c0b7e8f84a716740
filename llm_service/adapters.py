"""LoRA adapters: named in the configuration, loaded at the start, asked for by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import MaifsError, Reason

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Room for a rank that vLLM can keep (vllm.config.lora.MaxLoRARanks)."""
MAX_ADAPTERS = 16


@dataclass(frozen=True)
class Adapter:
    """One adapter."""

    name: str
    path: Path

    def rank(self) -> int:
        """Rank of its matrices, from adapter_config.json.

        Raises:
            MaifsError: MODEL_UNUSABLE when files are missing or damaged.
        """
        try:
            rank = int(json.loads((self.path / "adapter_config.json").read_text("utf-8"))["r"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self.unusable(f"adapter_config.json: {type(error).__name__} {error}") from None
        if not any((self.path / f"adapter_model.{kind}").exists() for kind in ("safetensors", "bin")):
            raise self.unusable("adapter_model.safetensors is missing")
        if not 1 <= rank <= RANKS[-1]:
            raise self.unusable(f"its rank is {rank}; 1 to {RANKS[-1]} can be run")
        return rank

    def unusable(self, why: str) -> MaifsError:
        """The error that names it."""
        return MaifsError(
            Reason.MODEL_UNUSABLE,
            f"The adapter {self.name} in {self.path} cannot be used: {why}.",
            "Give a complete PEFT LoRA directory in adapters.",
        )


def parse_adapters(entries: Sequence[str]) -> tuple[list[Adapter], list[str]]:
    """Adapters from "name=/directory" entries, and what is wrong with the entries."""
    adapters, faults = [], []
    for entry in entries:
        name, _, path = entry.partition("=")
        if not name.strip() or not path.strip():
            faults.append(f"adapters: {entry!r} must be NAME=DIRECTORY")
        adapters.append(Adapter(name.strip(), Path(path.strip())))
    if len({adapter.name for adapter in adapters}) < len(adapters):
        faults.append("adapters: a name is given twice")
    if len(adapters) > MAX_ADAPTERS:
        faults.append(f"adapters: {len(adapters)} are given, at most {MAX_ADAPTERS}")
    return adapters, faults


def adapter_arguments(entries: Sequence[str], is_cpu: bool) -> dict[str, Any]:
    """Arguments of vLLM's AsyncEngineArgs that make room for all adapters at once; empty without any.

    On a CPU one place is left empty. There vLLM 0.32 takes the weights of a request without an adapter, in a batch
    with one that has, from place -1, which is the last; its GPU kernels pass over -1.

    Raises:
        MaifsError: MODEL_UNUSABLE.
    """
    adapters, _ = parse_adapters(entries)
    if not adapters:
        return {}
    largest = max(adapter.rank() for adapter in adapters)
    places = len(adapters) + 1 if is_cpu else len(adapters)
    return {
        "enable_lora": True,
        "max_loras": places,
        "max_cpu_loras": places,
        "max_lora_rank": next(rank for rank in RANKS if rank >= largest),
    }


class LoadedAdapters:
    """The adapters of a running engine.

    Args:
        requests: vllm.lora.request.LoRARequest by name.
    """

    def __init__(self, requests: Mapping[str, Any]) -> None:
        self._requests = dict(requests)

    @property
    def names(self) -> list[str]:
        """As configured."""
        return list(self._requests)

    def get(self, name: str) -> Any:
        """The LoRARequest of a name; None for the empty name, the model alone.

        Raises:
            MaifsError: UNKNOWN_ADAPTER.
        """
        if not name:
            return None
        if name not in self._requests:
            known = ", ".join(self._requests) or "none"
            raise MaifsError(Reason.UNKNOWN_ADAPTER, f"adapter = {name[:100]!r} is not loaded; loaded: {known}.")
        return self._requests[name]


async def load_adapters(llm: Any, entries: Sequence[str]) -> LoadedAdapters:
    """Loads every adapter into the engine, so that a damaged one shows at the start and not in a request.

    Raises:
        MaifsError: MODEL_UNUSABLE.
    """
    adapters, _ = parse_adapters(entries)
    requests: dict[str, Any] = {}
    for number, adapter in enumerate(adapters, start=1):
        from vllm.lora.request import LoRARequest

        requests[adapter.name] = LoRARequest(adapter.name, number, str(adapter.path))
        try:
            await llm.add_lora(requests[adapter.name])
        except Exception as error:
            raise adapter.unusable(" ".join(str(error).split())[:500]) from error
    return LoadedAdapters(requests)
