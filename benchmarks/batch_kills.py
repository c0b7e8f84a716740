"""Batches in which a process is killed with SIGKILL at a random moment; prints what became of the pictures.

python -m benchmarks.batch_kills [--runs 20] [--pictures 100] [--seed 0] [--vision] [--llm MODEL]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.batch_kills import VICTIMS, Backends, Fleet, make_pictures, run_once
from tests.processes import socket_folder


def main() -> int:
    """Runs it; 1 when a picture was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vision", action="store_true", help="the real vision service, not a simulated one")
    parser.add_argument("--llm", metavar="MODEL", help="the real LLM service with this model, not a simulated one")
    parser.add_argument("--victim", choices=VICTIMS, help="kill this one only; else each in turn")
    arguments = parser.parse_args()
    simulated = Backends()
    backends = Backends(
        vision=("vision_service",) if arguments.vision else simulated.vision,
        llm=("llm_service", "--set", f"model={arguments.llm}") if arguments.llm else simulated.llm,
    )
    lost = doubled = 0
    with socket_folder() as sockets, Fleet(sockets, backends) as fleet, tempfile.TemporaryDirectory() as folder:
        for run in range(arguments.runs):
            seed = arguments.seed + run
            place = Path(folder, str(seed))
            pictures = make_pictures(place / "pictures", arguments.pictures, seed)
            victim = arguments.victim or VICTIMS[run % len(VICTIMS)]
            result = run_once(fleet, place, pictures, victim, random.Random(seed))
            print(f"run {run + 1:2}: {result.line}", flush=True)
            lost, doubled = lost + result.lost_count, doubled + result.doubled_count
    print(f"{arguments.runs} runs of {arguments.pictures} pictures: {lost} lost, {doubled} doubled")
    return int(lost + doubled > 0)


if __name__ == "__main__":
    sys.exit(main())
