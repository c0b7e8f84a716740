"""One picture, three lines: `python examples/analyze.py photo.jpg`. Prints the answer and writes report.html."""

import sys
from pathlib import Path

from coordinator.client import Client, MaifsError, Options

try:
    with Client(options=Options(use_llm=False)) as client:
        report = client.analyze(sys.argv[1])
except MaifsError as error:
    print(f"{error.reason.name}: {error.message} {error.advice}", file=sys.stderr)
    sys.exit(error.reason.exit_code)

print(f"{report.verdict} (probability {report.probability:.2f}): {report.summary}")
for finding in report.detections:
    print(f"  {finding['id']}: {finding['regions']}")
Path("report.html").write_text(report.to_html(), encoding="utf-8")
