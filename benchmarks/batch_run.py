"""A whole labelled folder through `coordinator-cli analyze`: time, memory of each process, verdicts by label.

`python -m benchmarks.batch_run DATA [--no-llm] [--limit N]`, DATA being a folder with manifest.csv (file, label).
Prints Markdown.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

VERDICTS = ("authentic", "manipulated", "ai_generated", "uncertain")
SERVICES = {"vision_service": "vision-service", "llm_service": "llm-service", "EngineCore": "language model engine"}


class MemoryWatch:
    """Largest resident size of each process of a tree, MiB, sampled twice a second."""

    def __init__(self, pid: int) -> None:
        self.peaks: dict[str, float] = {}
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                self._sample(process)

    def _sample(self, process: psutil.Process) -> None:
        try:
            name, size = _name(process.cmdline()), process.memory_info().rss / 2**20
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return
        self.peaks[name] = max(self.peaks.get(name, 0.0), size)

    def stop(self) -> None:
        """Ends the sampling."""
        self._over.set()
        self._thread.join()


def _name(command: list[str]) -> str:
    line = " ".join(command)
    if "coordinator-cli" in line or "coordinator.cli" in line:
        return "coordinator-cli"
    found = next((name for key, name in SERVICES.items() if key in line), "")
    # Before the engine names itself it is an anonymous child of the llm-service.
    return found or ("coordinator-service" if "coordinator.attached" in line else "other children, starting")


def run(pictures: list[Path], *, use_llm: bool) -> tuple[list[dict[str, Any]], float, MemoryWatch, int, str]:
    """Documents of all pictures, seconds, memory, exit code and the command's closing notes."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "reports.jsonl"
        command = [sys.executable, "-m", "coordinator.cli", "analyze", *map(str, pictures), "--json", "--out", folder]
        start = time.perf_counter()
        with output.open("wb") as stdout:
            process = subprocess.Popen(
                command if use_llm else [*command, "--no-llm"], stdout=stdout, stderr=subprocess.PIPE, text=True
            )
            watch = MemoryWatch(process.pid)
            _, notes = process.communicate()
        seconds = time.perf_counter() - start
        watch.stop()
        return [json.loads(line) for line in output.read_text().splitlines()], seconds, watch, process.returncode, notes


def main() -> int:
    """See module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--no-llm", action="store_true")
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    with (arguments.data / "manifest.csv").open(newline="") as file:
        labels = {row["file"]: row["label"] for row in csv.DictReader(file)}
    files = sorted(labels)[: arguments.limit]
    pictures = [arguments.data / name for name in files]
    documents, seconds, watch, code, notes = run(pictures, use_llm=not arguments.no_llm)
    failed = [document for document in documents if document["status"] != "ok"]
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    sentences: collections.Counter[str] = collections.Counter()
    for document in documents:
        if document["status"] == "ok":
            counts[labels[Path(document["path"]).name], document["verdict"]] += 1
            explanation = document["explanation"]
            sentences["by the model"] += explanation["model_sentences_count"]
            sentences["dropped"] += explanation["dropped_sentences_count"]
            look = document["second_look"]
            if look is not None:
                sentences["second looks"] += 1
                sentences["by the model in second looks"] += look["model_sentences_count"]
                sentences["dropped in second looks"] += len(look["dropped_sentences"])
            sentences["reports with explanation_error"] += document["explanation_error"] is not None
    print(f"{len(documents)} reports, {len(failed)} failed, exit code {code}, {seconds:.0f} s in all.")
    print("\n".join(notes.strip().splitlines()[-3:]))
    print("\n| label | " + " | ".join(VERDICTS) + " |\n|---|" + "---:|" * len(VERDICTS))
    for label in sorted(set(labels.values())):
        print(f"| {label} | " + " | ".join(str(counts[label, verdict]) for verdict in VERDICTS) + " |")
    print("\n| process | largest resident size |\n|---|---:|")
    for name, size in sorted(watch.peaks.items()):
        print(f"| {name} | {size:,.0f} MiB |")
    print(f"\nSentences: {dict(sentences)}")
    for place in ("", " in second looks"):
        written, dropped = sentences[f"by the model{place}"], sentences[f"dropped{place}"]
        if written:
            stand = written - dropped
            print(f"Sentences of the model{place} that stand: {stand} of {written} ({stand / written:.0%})")
    return code


if __name__ == "__main__":
    sys.exit(main())
