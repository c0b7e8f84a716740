"""A folder of any size, a bounded number at a time: `python examples/batch.py FOLDER > verdicts.tsv`."""

import sys
from pathlib import Path

from coordinator.client import Client, Options

with Client(options=Options(use_llm=False)) as client:
    for outcome in client.batch(Path(sys.argv[1]).rglob("*.jpg"), concurrency=4):
        answer = outcome.error.reason.name if outcome.error else outcome.result().verdict
        print(answer, outcome.name, sep="\t")
