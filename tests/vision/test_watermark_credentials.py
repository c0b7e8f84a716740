"""Content Credentials: judged by codes, offline, on files that are signed here and on real ones."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from c2pa import Builder, C2paError, C2paSigningAlg, Context, Reader, Settings, Signer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from benchmarks.camera import photo, to_jpeg, to_png
from vision_service.domain import Observation, Outcome
from vision_service.substrate import Substrate
from vision_service.tools.watermark.content_credentials import make_test

Decoder = Callable[[bytes], Substrate]
TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


class Authority:
    """A certificate authority with one signer, made for the test."""

    def __init__(self) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        root_name = self._name("MAIFS test root")
        self.root = self._build(root_name, root_name, self._root_key, now, is_ca=True)
        self._leaf = self._build(self._name("MAIFS test signer"), root_name, self._key, now, is_ca=False)

    @staticmethod
    def _name(common_name: str) -> x509.Name:
        organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "MAIFS tests")
        return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])

    def _build(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        now: datetime.datetime,
        *,
        is_ca: bool,
    ) -> x509.Certificate:
        usage = {
            "digital_signature": not is_ca, "content_commitment": False, "key_encipherment": False,
            "data_encipherment": False, "key_agreement": False, "key_cert_sign": is_ca, "crl_sign": is_ca,
            "encipher_only": False, "decipher_only": False,
        }  # fmt: skip
        root_key = self._root_key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if not is_ca:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, critical=False)
        return builder.sign(self._root_key, hashes.SHA256())

    @property
    def root_pem(self) -> str:
        return self.root.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(self, data: bytes) -> bytes:
        r, s = utils.decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def signed(
        self, image: bytes, actions: list[dict[str, Any]], mime_type: str = "image/jpeg", parent: bytes = b""
    ) -> bytes:
        """The image with a manifest that declares the actions."""
        settings = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}
        context = Context(settings=Settings.from_dict(settings))
        definition = {
            "claim_generator_info": [{"name": "maifs-tests", "version": "1"}],
            "assertions": [{"label": "c2pa.actions", "data": {"actions": actions}}],
        }
        builder = Builder(json.dumps(definition), context=context)
        if parent:
            builder.add_ingredient(
                json.dumps({"title": "parent", "relationship": "parentOf"}), mime_type, io.BytesIO(parent)
            )
        chain = self._leaf.public_bytes(serialization.Encoding.PEM).decode() + self.root_pem
        signer = Signer.from_callback(self._sign, C2paSigningAlg.ES256, chain)
        out = io.BytesIO()
        builder.sign(signer, mime_type, io.BytesIO(image), out)
        return out.getvalue()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def image() -> bytes:
    return to_jpeg(photo(96, 128, 5))


def created(source_type: str) -> dict[str, Any]:
    return {"action": "c2pa.created", "digitalSourceType": TYPES + source_type}


def observe(substrate: Substrate, trust: str = "") -> Observation:
    return make_test(trust).run(substrate)


def key(observation: Observation) -> str:
    return observation.explanation_key.removeprefix("watermark.content_credentials.")


CLAIMS = [
    ([created("trainedAlgorithmicMedia")], "ai"),
    ([created("compositeWithTrainedAlgorithmicMedia")], "ai_composite"),
    ([created("digitalCapture")], "capture"),
    ([created("digitalCapture"), {"action": "c2pa.color_adjustments"}], "adjusted"),
    ([created("digitalCapture"), {"action": "c2pa.drawing"}], "edited"),
    ([created("digitalArt")], "created"),
]


@pytest.mark.parametrize(("actions", "claim"), CLAIMS, ids=[claim for _, claim in CLAIMS])
def test_a_signed_claim_is_read_and_its_signer_is_verified_only_by_the_trust_list(
    authority: Authority, image: bytes, to_substrate: Decoder, actions: list[dict[str, Any]], claim: str
) -> None:
    substrate = to_substrate(authority.signed(image, actions))
    assert key(observe(substrate)) == f"{claim}_unverified"
    trusted = observe(substrate, authority.root_pem)
    assert key(trusted) == f"{claim}_trusted"
    assert "MAIFS test signer" in trusted.details["signer"]


def test_another_authoritys_trust_list_verifies_nobody(
    authority: Authority, image: bytes, to_substrate: Decoder
) -> None:
    data = authority.signed(image, [created("digitalCapture")])
    assert key(observe(to_substrate(data), Authority().root_pem)) == "capture_unverified"


@pytest.mark.parametrize(
    ("source_type", "claim"),
    [("digitalCapture", "changed_after_signing"), ("trainedAlgorithmicMedia", "changed_after_signing_ai")],
)
def test_a_byte_changed_after_signing_is_found_whoever_signed(
    authority: Authority, image: bytes, to_substrate: Decoder, source_type: str, claim: str
) -> None:
    data = bytearray(authority.signed(image, [created(source_type)]))
    data[-200] ^= 0x10
    observation = observe(to_substrate(bytes(data)), authority.root_pem)
    assert key(observation) == claim
    assert observation.detected
    assert "assertion.dataHash.mismatch" in observation.details["validation_failures"]


def test_an_ai_picture_stays_one_through_a_later_edit(
    authority: Authority, image: bytes, to_substrate: Decoder
) -> None:
    parent = authority.signed(image, [created("trainedAlgorithmicMedia")])
    child = authority.signed(to_jpeg(photo(96, 128, 6)), [{"action": "c2pa.color_adjustments"}], parent=parent)
    observation = observe(to_substrate(child), authority.root_pem)
    assert key(observation).startswith("ai_")
    assert not key(observation).startswith("ai_composite")


def test_a_photo_that_a_model_edited_is_a_composite(authority: Authority, image: bytes, to_substrate: Decoder) -> None:
    parent = authority.signed(image, [created("digitalCapture")])
    edit = {"action": "c2pa.edited", "digitalSourceType": TYPES + "trainedAlgorithmicMedia"}
    child = authority.signed(to_jpeg(photo(96, 128, 6)), [edit], parent=parent)
    assert key(observe(to_substrate(child))) == "ai_composite_unverified"


def test_credentials_in_png_are_read(authority: Authority, to_substrate: Decoder) -> None:
    data = authority.signed(to_png(photo(64, 64, 1)), [created("trainedAlgorithmicMedia")], "image/png")
    assert key(observe(to_substrate(data))) == "ai_unverified"


def test_a_file_without_credentials_is_not_applicable(image: bytes, to_substrate: Decoder) -> None:
    observation = observe(to_substrate(image))
    assert observation.outcome is Outcome.NOT_APPLICABLE
    assert observation.explanation_key == "not_applicable.no_content_credentials"


def test_credentials_that_are_cut_to_pieces_never_crash(
    authority: Authority, image: bytes, to_substrate: Decoder
) -> None:
    data = authority.signed(image, [created("digitalCapture")])
    substrate = to_substrate(data)
    start = data.index(b"jumb")
    keys = []
    for offset in range(0, 3000, 23):
        damaged = bytearray(data)
        damaged[start + offset : start + offset + 6] = b"\xff\x00\x81\x7f\x00\xfe"
        keys.append(key(observe(dataclasses.replace(substrate, data=bytes(damaged)))))
    caught = {"changed_after_signing", "not_applicable.unreadable_credentials", "not_applicable.no_content_credentials"}
    assert set(keys) <= caught | {"capture_unverified"}  # the latter where only unsigned padding was hit
    assert sum(k in caught for k in keys) > 0.6 * len(keys)


def test_the_time_of_verification_is_told(authority: Authority, image: bytes, to_substrate: Decoder) -> None:
    moment = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
    test = make_test(clock=lambda: moment)
    observation = test.run(to_substrate(authority.signed(image, [created("digitalCapture")])))
    assert observation.details["verification_time"] == "2026-05-01T12:00:00+00:00"


def test_nothing_is_fetched(
    authority: Authority, image: bytes, to_substrate: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.5)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/manifest.c2pa"
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{url}"/></rdf:RDF></x:xmpmeta>'
    ).encode()
    body = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    data = image[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + image[2:]
    with listener:
        assert observe(to_substrate(data)).outcome is Outcome.NOT_APPLICABLE
        with pytest.raises(TimeoutError):
            listener.accept()
    with pytest.raises(C2paError):  # the reference is one that the library would follow, if it were let
        Reader("image/jpeg", io.BytesIO(data))


REAL_FILES = {
    "adobe-20220124-A.jpg": "not_applicable.no_content_credentials",
    "adobe-20220124-I.jpg": "not_applicable.no_content_credentials",
    "adobe-20220124-C.jpg": "created_unverified",
    "adobe-20220124-CI.jpg": "created_unverified",
    "adobe-20220124-CA.jpg": "adjusted_unverified",
    "adobe-20220124-CAI.jpg": "edited_unverified",
    "adobe-20220124-CICA.jpg": "edited_unverified",
    "adobe-20220124-E-dat-CA.jpg": "changed_after_signing",
    "adobe-20220124-E-sig-CA.jpg": "changed_after_signing",
    "adobe-20220124-E-uri-CA.jpg": "changed_after_signing",
    "adobe-20220124-E-clm-CAICAI.jpg": "changed_after_signing",
    "adobe-20220124-XCA.jpg": "changed_after_signing",
    "nikon-20221019-building.jpeg": "intact_unverified",
    "example_wm.jpg": "not_applicable.no_content_credentials",
    "ufo_240_Q.png": "not_applicable.no_content_credentials",
    "libpng-test.png": "not_applicable.no_content_credentials",
    "sample1.webp": "not_applicable.no_content_credentials",
    "sample1.avif": "not_applicable.no_content_credentials",
    "sample1.heic": "not_applicable.no_content_credentials",
    "TUSCANY.TIF": "not_applicable.no_content_credentials",
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_come_out_as_they_were_made(shared_data: Path, to_substrate: Decoder, name: str) -> None:
    observation = observe(to_substrate((shared_data / "provenance" / name).read_bytes()))
    assert key(observation) == REAL_FILES[name]
