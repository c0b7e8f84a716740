"""`coordinator-cli token`: what it prints is what a service reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.cli.__main__ import main
from serving.access.clients import load_clients
from serving.access.quotas import UNLIMITED
from serving.errors import ExitCode


@pytest.mark.parametrize("name", ["alice", "news.room"])
def test_the_entry_lets_the_token_in(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", name]) == ExitCode.OK
    printed = capsys.readouterr()
    token = printed.out.strip()
    assert token not in printed.err
    path = tmp_path / "clients.toml"
    path.write_text(printed.err)
    client = load_clients(path, UNLIMITED).with_token(token)
    assert client is not None
    assert client.name == name
    assert not client.operator


def test_two_tokens_differ(capsys: pytest.CaptureFixture[str]) -> None:
    main(["token", "alice"])
    first = capsys.readouterr().out
    main(["token", "alice"])
    assert capsys.readouterr().out != first


def test_what_is_no_name_makes_no_token(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "no name"]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert not printed.out
    assert "is no name" in printed.err
