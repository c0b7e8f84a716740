"""Our maps of edited pixels beside those of pyIFD: time and localisation on the same pictures in the same run.

    python -m benchmarks.peers DATA [--pyifd FOLDER] [--up-to-mp 0.7] [--slow-mp 0.22] [--budget-s 180]
        [--authentic-mp 0.3]

DATA holds manifest.csv. The pictures are its masked JPEG forgeries up to a size; slow methods take the smaller ones
alone. Every method goes from the file on disk to its map, decoding included and nothing shared, one after the other
picture by picture, so that other work on the machine hits all alike. Times are CPU time of the process.

pyIFD is no dependency: FOLDER is where it was installed by hand (docs/peers.md). Its methods make maps and decide
nothing, so false alarms are counted for our tests and the simple baselines alone, on authentic JPEGs up to a size.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.forensics_baselines import TOOL as BASELINES
from benchmarks.peer_figures import Cell, Figures, false_alarm_table, map_table, pair_table
from benchmarks.peer_methods import DECIDING, PEERS, SINGLE_TESTS, Peer, best_map, to_heat_map
from vision_service.decode import decode
from vision_service.domain import HeatMap, Outcome, Test
from vision_service.labelled import Item, read_manifest, read_mask
from vision_service.limits import DecodeLimits
from vision_service.tools import TOOLS

ALL_TESTS = "all tests of the four tools"
ANY_OF_OURS = "any of our tests below"


@dataclass(frozen=True)
class Picture:
    """One labelled JPEG."""

    item: Item
    width_px: int
    height_px: int

    @property
    def megapixels(self) -> float:
        """Size."""
        return self.width_px * self.height_px / 1e6


def chosen(items: Sequence[Item], up_to_mp: float, *, label: str) -> list[Picture]:
    """JPEGs of a label up to a size, smallest first; of forgeries those with a mask. Nothing else decides."""
    pictures = []
    for item in items:
        if item.label != label or (label == "manipulated" and item.mask is None):
            continue
        with Image.open(item.path) as image:
            if image.format == "JPEG" and image.width * image.height <= up_to_mp * 1e6:
                pictures.append(Picture(item, image.width, image.height))
    return sorted(pictures, key=lambda picture: (picture.megapixels, picture.item.path.name))


def our_cell(test: Test, picture: Picture) -> Cell:
    """One test from file to observation, on a picture decoded for it alone."""
    start = time.process_time()
    observation = test.run(decode(picture.item.path.read_bytes(), DecodeLimits()))
    seconds = time.process_time() - start
    reason = "" if observation.heat_map else (observation.reason or "it makes a map only of what it detects")
    return Cell.of(picture.megapixels, seconds, observation.heat_map, _mask(picture), reason)


def peer_cell(peer: Peer, picture: Picture) -> Cell:
    """One pyIFD method from file to map. A method that fails says why in the cell and has no map."""
    heat_maps: list[HeatMap] = []
    reason = "it gave no map"
    printed = io.StringIO()
    start = time.process_time()
    try:
        with contextlib.redirect_stdout(printed):
            output = getattr(import_module(f"pyIFD.{peer.module}"), peer.function)(str(picture.item.path))
        seconds = time.process_time() - start
        if output is not None:
            heat_maps = [to_heat_map(m, peer, picture.height_px, picture.width_px) for m in peer.maps(output)]
    except Exception as error:  # noqa: BLE001 - foreign code: a broken method must not end the run
        seconds = time.process_time() - start
        reason = f"{type(error).__name__}: {error}"
    mask = _mask(picture)
    return Cell.of(picture.megapixels, seconds, best_map(heat_maps, mask), mask, reason)


def all_tests_cell(picture: Picture) -> Cell:
    """Decoding and every test once over one substrate, as the service does it, one thread."""
    start = time.process_time()
    substrate = decode(picture.item.path.read_bytes(), DecodeLimits())
    for tool in TOOLS:
        for test in tool.tests:
            test.run(substrate)
    return Cell(picture.megapixels, time.process_time() - start, None, "no map of its own")


def measure(pictures: Sequence[Picture], slow_mp: float, peers: Sequence[Peer], budget_s: float) -> Figures:
    """Method -> picture's file name -> cell. The first picture is run once before, which loads what methods load.

    No picture is begun once `budget_s` of wall-clock time are over, after the first.
    """
    end = time.monotonic() + budget_s
    tests = _map_tests()
    figures: Figures = {}
    for warm, picture in enumerate([pictures[0], *pictures]):
        if warm > 1 and time.monotonic() > end:
            break
        cells = {ALL_TESTS: all_tests_cell(picture)} | {test.id: our_cell(test, picture) for test in tests}
        for peer in peers:
            if not peer.slow or picture.megapixels <= slow_mp:
                cells[f"pyIFD {peer.name}"] = peer_cell(peer, picture)
        if warm:
            for method, cell in cells.items():
                figures.setdefault(method, {})[picture.item.path.name] = cell
    return figures


def decisions(pictures: Sequence[Picture]) -> dict[str, tuple[int, int]]:
    """Test -> (pictures on which it ran, pictures on which it detected its trace), and how many any of ours accused."""
    tests = [test for tool in (*TOOLS, BASELINES) for test in tool.tests if test.id in DECIDING]
    counts = dict.fromkeys((ANY_OF_OURS, *(test.id for test in tests)), (0, 0))
    for picture in pictures:
        substrate = decode(picture.item.path.read_bytes(), DecodeLimits())
        accused = False
        for test in tests:
            observation = test.run(substrate)
            ran, detected = counts[test.id]
            counts[test.id] = ran + (observation.outcome is Outcome.TESTED), detected + observation.detected
            accused |= observation.detected and not test.id.startswith("baseline.")
        counts[ANY_OF_OURS] = counts[ANY_OF_OURS][0] + 1, counts[ANY_OF_OURS][1] + accused
    return counts


def available(folder: Path | None) -> tuple[tuple[Peer, ...], str]:
    """The peers that can be imported, and why there are none. Puts the folder last on the import path."""
    if folder is None:
        return (), "no folder was given (--pyifd)"
    sys.path.append(str(folder))
    try:
        for module in ("pyIFD.util", "jpegio", "matplotlib.image"):
            import_module(module)
    except ImportError as error:
        return (), f"it cannot be imported from {folder}: {error}"
    return PEERS, ""


def _map_tests() -> list[Test]:
    wanted = {*SINGLE_TESTS, *(test_id for peer in PEERS for test_id in peer.ours)}
    return [test for tool in (*TOOLS, BASELINES) for test in tool.tests if test.id in wanted]


def _mask(picture: Picture) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    mask = read_mask(picture.item, picture.height_px, picture.width_px)
    if mask is None:
        raise FileNotFoundError(f"{picture.item.path.name} has no mask.")
    return mask


def main() -> None:
    """See module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with manifest.csv")
    parser.add_argument("--pyifd", type=Path, help="where pyIFD is installed (default: only our tests are measured)")
    parser.add_argument("--up-to-mp", type=float, default=0.7, help="largest forgery, megapixels; 0 = none")
    parser.add_argument("--slow-mp", type=float, default=0.22, help="largest forgery of slow methods")
    parser.add_argument(
        "--budget-s",
        type=float,
        default=180,
        help="seconds after which no forgery is begun; 0 = no maps",
    )
    parser.add_argument("--authentic-mp", type=float, default=0.3, help="largest authentic picture; 0 = none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    data = arguments.data.resolve()
    peers, why_not = available(arguments.pyifd.resolve() if arguments.pyifd else None)
    items = read_manifest(data)
    forgeries = chosen(items, arguments.up_to_mp, label="manipulated")
    authentic = chosen(items, arguments.authentic_mp, label="authentic")
    load = os.getloadavg()[0]
    if not peers and arguments.budget_s > 0:
        print(f"pyIFD is left out: {why_not}.\n")
    if forgeries and arguments.budget_s > 0:
        with TemporaryDirectory() as folder, contextlib.chdir(folder):  # pyIFD writes into the current folder
            figures = measure(forgeries, arguments.slow_mp, peers, arguments.budget_s)
        done = [picture for picture in forgeries if picture.item.path.name in figures[ALL_TESTS]]
        total = sum(picture.megapixels for picture in done)
        print(
            f"The {len(done)} smallest of {len(forgeries)} masked JPEG forgeries up to {arguments.up_to_mp:g} MP:",
            end=" ",
        )
        print(f"{done[0].megapixels:.2f} to {done[-1].megapixels:.2f} MP, {total:.1f} MP together\n")
        covered = [float(_mask(picture).mean()) for picture in done]
        everywhere = fmean(2 * share / (1 + share) for share in covered)
        print(f"F1 of calling every pixel edited: {everywhere:.3f}\n")
        print(f"{map_table(figures)}\n\n{pair_table(figures, peers)}\n")
    if authentic:
        print(false_alarm_table(decisions(authentic), decisions(forgeries)))
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__},"
    )
    print(f"load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
