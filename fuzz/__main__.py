"""`python -m fuzz TARGET [--seconds 60] [--corpus FOLDER]`: one target under atheris (libFuzzer).

Prints the number of inputs; an input that broke the target is left in FOLDER/crash-*.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path


def main() -> None:
    """See the module."""
    import atheris

    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"))
    arguments = parser.parse_args()
    with atheris.instrument_imports(
        include=["vision_service", "serving", "coordinator.explanation", "PIL.TiffImagePlugin", "PIL.IptcImagePlugin"]
    ):
        from fuzz.seeds import seeds
        from fuzz.targets import TARGETS
    folder = arguments.corpus / arguments.target
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds(arguments.target):
        (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    limits = [f"-max_total_time={arguments.seconds}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=8192"]
    options = [sys.argv[0], str(folder), *limits, f"-artifact_prefix={arguments.corpus}/", "-print_final_stats=1"]
    atheris.Setup(options, TARGETS[arguments.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
