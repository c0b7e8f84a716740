"""The trust list as a setting: files read once, refused loudly, and in force in the service's tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.camera import photo, to_jpeg
from serving.errors import MaifsError, Reason
from tests.vision.test_watermark_credentials import Authority, created, key
from vision_service.config import VisionConfig
from vision_service.service import tools_of
from vision_service.substrate import Substrate
from vision_service.tools.watermark.content_credentials import make_test
from vision_service.tools.watermark.payloads import parse_owned
from vision_service.tools.watermark.trust import load_trust_anchors

Decoder = Callable[[bytes], Substrate]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def signed(authority: Authority) -> bytes:
    return authority.signed(to_jpeg(photo(96, 128, 5)), [created("digitalCapture")])


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_issuers_of_a_file_are_trusted(
    authority: Authority, signed: bytes, to_substrate: Decoder, tmp_path: Path
) -> None:
    anchors = load_trust_anchors(written(tmp_path / "anchors.pem", Authority().root_pem + authority.root_pem))
    assert key(make_test(anchors).run(to_substrate(signed))) == "capture_trusted"
    assert key(make_test().run(to_substrate(signed))) == "capture_unverified"


BROKEN = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("text", ["", "no certificate", BROKEN])
def test_a_file_without_certificates_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(MaifsError) as caught:
        load_trust_anchors(written(tmp_path / "anchors.pem", text))
    assert caught.value.reason is Reason.INVALID_CONFIG
    assert "anchors.pem" in caught.value.message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaifsError) as caught:
        load_trust_anchors(tmp_path)
    assert caught.value.reason is Reason.FILE_UNREADABLE


def test_the_service_puts_its_settings_in_force(
    authority: Authority, signed: bytes, to_substrate: Decoder, tmp_path: Path
) -> None:
    anchors = written(tmp_path / "anchors.pem", authority.root_pem)
    config = VisionConfig(trust_anchors_file=anchors, rivagan_payloads=("Example Press=b40f916e",))
    assert config.faults() == []
    tests = {test.id: test for tool in tools_of(config) for test in tool.tests}
    assert key(tests["watermark.content_credentials"].run(to_substrate(signed))) == "capture_trusted"


def test_faults_of_the_settings_are_named(tmp_path: Path) -> None:
    config = VisionConfig(trust_anchors_file=tmp_path / "none.pem", rivagan_payloads=("=b40f916e", "me=b40f"))
    faults = "\n".join(config.faults())
    assert "none.pem" in faults
    assert "'=b40f916e'" in faults
    assert "'me=b40f'" in faults


def test_an_owners_payload_is_read() -> None:
    payload = parse_owned("Example Press = b40f916e")
    assert payload.generator == "Example Press"
    assert "".join(map(str, payload.bits)) == f"{0xB40F916E:032b}"


@pytest.mark.parametrize("entry", ["b40f916e", "=b40f916e", "x=b40f", "x=zzzzzzzz"])
def test_a_payload_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"hexadecimal"):
        parse_owned(entry)
