from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serving.config import SECRET, load_config, render_config
from serving.errors import MaifsError, Reason


@dataclass(frozen=True)
class Inner:
    size: int = 3
    name: str = "inner"

    def faults(self) -> list[str]:
        return [f"size = {self.size}: must be positive"] if self.size < 1 else []


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=lambda: Inner(name="from the parent"))
    ratio: float = 0.5
    on: bool = False
    folder: Path | None = None
    names: tuple[str, ...] = ()
    token: str = field(default="", metadata={SECRET: True})


def load(path: Path | None = None, environ: dict[str, str] | None = None, **overrides: str) -> Outer:
    return load_config(Outer, "outer", path=path, environ=environ or {}, overrides=overrides)


def test_defaults_of_the_parent_reach_nested_settings() -> None:
    assert load() == Outer()
    assert load(environ={"MAIFS_OUTER_INNER_SIZE": "7"}).inner == Inner(7, "from the parent")


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "maifs.toml"
    file.write_text('[outer]\nratio = 0.1\nnames = ["a", "b"]\n[outer.inner]\nsize = 1\nname = "file"\n')
    config = load(file, {"MAIFS_OUTER_RATIO": "0.2", "MAIFS_OUTER_INNER_SIZE": "2"}, **{"inner.size": "9"})
    assert (config.ratio, config.inner.size, config.inner.name, config.names) == (0.2, 9, "file", ("a", "b"))


def test_the_file_named_by_the_environment_is_read(tmp_path: Path) -> None:
    file = tmp_path / "maifs.toml"
    file.write_text("[outer]\non = true\n")
    assert load(environ={"MAIFS_CONFIG": str(file)}).on is True


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("0", False), ("ON", True), ("False", False)])
def test_booleans_are_read_as_people_write_them(text: str, value: bool) -> None:
    assert load(environ={"MAIFS_OUTER_ON": text}).on is value


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    file = tmp_path / "maifs.toml"
    file.write_text('[outer]\nratioo = 1\n[outer.inner]\nsize = "many"\n')
    with pytest.raises(MaifsError) as caught:
        load(file, {"MAIFS_OUTER_ON": "maybe", "MAIFS_OUTER_NOPE": "1"}, ratio="x")
    assert caught.value.reason is Reason.INVALID_CONFIG
    for part in ("'ratioo'", "inner.size = 'many'", "on = 'maybe'", "MAIFS_OUTER_NOPE", "ratio = 'x'"):
        assert part in caught.value.message


def test_a_rule_between_values_is_checked_with_its_full_name() -> None:
    with pytest.raises(MaifsError, match=r"inner\.size = -1: must be positive"):
        load(environ={"MAIFS_OUTER_INNER_SIZE": "-1"})


@pytest.mark.parametrize("content", ["[outer\n", "outer = 3\n"])
def test_a_file_that_is_not_a_configuration_says_so(tmp_path: Path, content: str) -> None:
    file = tmp_path / "maifs.toml"
    file.write_text(content)
    with pytest.raises(MaifsError, match=r"maifs\.toml"):
        load(file)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(MaifsError, match="cannot be read"):
        load(tmp_path / "absent.toml")


def test_the_printed_configuration_reads_back_and_hides_secrets(tmp_path: Path) -> None:
    config = load(
        environ={"MAIFS_OUTER_TOKEN": "hunter2", "MAIFS_OUTER_FOLDER": "/tmp/ä\\b", "MAIFS_OUTER_NAMES": "x, y"}
    )
    text = render_config(config, "outer")
    assert "hunter2" not in text
    file = tmp_path / "printed.toml"
    file.write_text(text)
    again = load(file)
    assert (again.folder, again.names, again.inner) == (config.folder, ("x", "y"), config.inner)
