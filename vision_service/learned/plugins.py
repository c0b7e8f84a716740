"""Plug-ins: a folder of weights with sidecars, loaded at start, each a test among those of the tool that it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from serving.errors import MaifsError, Reason
from vision_service.calibration import Calibration
from vision_service.domain import Tool
from vision_service.learned.adapter import as_test
from vision_service.learned.card import PluginCard, read_card
from vision_service.learned.networks import Network, load_network

SIDECAR_SUFFIXES = (".toml", ".json")

_IGNORED_SUFFIXES = (".md", ".txt")
_IGNORED_NAMES = ("LICENSE", "LICENCE")


def load_plugins(folder: Path, device: torch.device) -> tuple[Network, ...]:
    """Loads every plug-in of a folder, by the names of their sidecars.

    Args:
        folder: sidecars (.toml or .json) and their weights; texts (.md, .txt, LICENSE) are ignored.
        device: where networks run.

    Raises:
        MaifsError: INVALID_CONFIG naming all faults of sidecars, links out of the folder, files that no sidecar
            declares, and names given twice; MODEL_UNUSABLE when the weights of one cannot be used.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise _invalid(folder, [f"the folder cannot be read: {error.strerror}"]) from error
    if linked := [path.name for path in files if not path.resolve().is_relative_to(folder.resolve())]:
        raise _invalid(folder, [f"{name} is a link out of the folder" for name in linked])
    cards, faults = _cards([path for path in files if path.suffix in SIDECAR_SUFFIXES])
    declared = {card.weights.path for card in cards}
    for path in files:
        ignored = path.suffix in (*SIDECAR_SUFFIXES, *_IGNORED_SUFFIXES) or path.name in _IGNORED_NAMES
        if not faults and not ignored and path not in declared:
            faults.append(f"{path.name} is declared by no sidecar")
    if faults:
        raise _invalid(folder, faults)
    return tuple(load_network(card, device) for card in cards)


def _cards(sidecars: Sequence[Path]) -> tuple[list[PluginCard], list[str]]:
    cards: dict[str, PluginCard] = {}
    faults: list[str] = []
    for path in sidecars:
        card, found = read_card(path)
        faults += [f"{path.name}: {fault}" for fault in found]
        if card is not None and card.test_id in cards:
            faults.append(f"{path.name}: plugin.name {card.name!r} is also that of {cards[card.test_id].path.name}")
        elif card is not None:
            cards[card.test_id] = card
    return list(cards.values()), faults


def _invalid(folder: Path, faults: Sequence[str]) -> MaifsError:
    return MaifsError(
        Reason.INVALID_CONFIG,
        f"The plug-ins in {folder} cannot be used: {'; '.join(faults)}.",
        "Correct them, or take them out of the folder; docs/learned.md describes the sidecar.",
    )


def with_plugins(
    tools: Sequence[Tool], calibration: Calibration, plugins: Sequence[Network]
) -> tuple[tuple[Tool, ...], Calibration]:
    """The tools with the plug-ins' tests after their own, and the calibration with the plug-ins' curves.

    The versions of tools and the id of the calibration change with the plug-ins, because caches are keyed by them.
    """
    if not plugins:
        return tuple(tools), calibration
    by_tool = {tool.name: [p for p in plugins if p.card.tool is tool.name] for tool in tools}
    extended = tuple(_extended(tool, by_tool[tool.name]) for tool in tools)
    curves = {p.card.test_id: p.card.test_calibration for p in plugins if p.card.calibration}
    merged = replace(
        calibration,
        id=f"{calibration.id}+plugins:{_digest(plugins)}",
        tests={**calibration.tests, **curves},
    )
    return extended, merged


def _extended(tool: Tool, plugins: Sequence[Network]) -> Tool:
    if not plugins:
        return tool
    tests = (*tool.tests, *map(as_test, plugins))
    return Tool(tool.name, f"{tool.version}+plugins.{_digest(plugins)}", tests)


def _digest(plugins: Sequence[Network]) -> str:
    """Changes with any weight and any line of a sidecar that can change a result."""
    parts: list[Mapping[str, str]] = [
        {"sidecar": hashlib.sha256(p.card.path.read_bytes()).hexdigest(), "weights": p.card.weights.sha256}
        for p in plugins
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
