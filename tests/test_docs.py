"""What the documentation lists is what the code has."""

from __future__ import annotations

import re

from serving.errors import Reason
from tests.conftest import ROOT


def test_docs_list_every_reason_with_its_codes() -> None:
    rows = re.findall(r"^\| ([A-Z0-9_]+) \| ([A-Z_]+) \| (\d+) \|", (ROOT / "docs/errors.md").read_text(), re.M)
    assert rows == [(reason.name, reason.code.name, str(int(reason.exit_code))) for reason in Reason]
