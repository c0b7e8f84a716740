"""What the documentation lists is what the code has."""

from __future__ import annotations

import re

from serving.errors import Reason
from tests.conftest import ROOT


def test_docs_list_every_reason_with_its_codes() -> None:
    rows = re.findall(r"^\| ([A-Z0-9_]+) \| ([A-Z_]+) \| (\d+) \|", (ROOT / "docs/errors.md").read_text(), re.M)
    assert rows == [(reason.name, reason.code.name, str(int(reason.exit_code))) for reason in Reason]


def test_every_promise_names_tests_that_exist() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs/reliability.md").read_text().splitlines() if "tests/" in line]
    promises = [cells for cells in rows if len(cells) >= 3 and cells[0].startswith("| ")]
    assert len(promises) > 40
    for _, where, *_ in promises:
        path, _, names = where.partition("::")
        assert path.strip("` ").endswith(".py"), where
        source = (ROOT / path.strip("` ")).read_text(encoding="utf-8")
        for name in filter(None, (part.strip("` |") for part in names.split(","))):
            assert re.search(rf"def {re.escape(name.rpartition('::')[2])}\(", source), f"{path}::{name}"
