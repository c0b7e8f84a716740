"""Peak memory of one picture in the vision service, by size: what `vision_service.memory` reckons with.

    python -m benchmarks.vision_memory 1 6 12 24 48

Each size runs in a fresh process, all four tools at once over a synthetic photograph (JPEG, quality 92), on the CPU.
The peak above the resident size of the warm process is what the picture cost.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from benchmarks.camera import photo, to_jpeg
from benchmarks.resident import peak_bytes, reset_peak


def main(arguments: list[str]) -> None:
    """Prints one line per size in megapixels; with "--one FILE" measures that file in this process."""
    if arguments[0] == "--one":
        asyncio.run(_measure(Path(arguments[1]).read_bytes()))
        return
    print(f"{'MP':>6} {'peak MiB':>9} {'bytes/pixel':>12}")
    for text in arguments:
        height = round((float(text) * 1e6 * 3 / 4) ** 0.5)
        width = round(float(text) * 1e6 / height)
        path = Path(f"/tmp/maifs-memory-{text}.jpg")
        try:
            path.write_bytes(to_jpeg(photo(height, width, seed=5), 92))
            command = [sys.executable, "-m", "benchmarks.vision_memory", "--one", str(path)]
            peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        finally:
            path.unlink(missing_ok=True)
        print(f"{height * width / 1e6:6.1f} {peak / 2**20:9.0f} {peak / (height * width):12.1f}")


async def _measure(data: bytes) -> None:
    import torch

    from vision_service.analyzer import Analyzer
    from vision_service.calibration import Calibration
    from vision_service.limits import DecodeLimits
    from vision_service.memory import MemoryBudget

    torch.set_num_threads(1)
    analyzer = Analyzer(DecodeLimits(), torch.device("cpu"), 4, 8, Calibration.load(None), MemoryBudget(2**36))
    async for _ in analyzer.analyze(to_jpeg(photo(512, 512, seed=1), 92)):
        pass
    before = reset_peak()
    async for _ in analyzer.analyze(data):
        pass
    print(peak_bytes() - before)


if __name__ == "__main__":
    main(sys.argv[1:])
