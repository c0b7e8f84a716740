"""Clients that are not ours analyse a picture against the running coordinator."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serving.channel_security import ChannelSecurity
from tests.processes import ROOT, ServiceProcess, socket_folder
from tests.serving.guarded import TINY, authority, entry, free_address, member, serving, settings, tls

SERVICE = "maifs.coordinator.v1.CoordinatorService"
BIN = Path(sys.executable).parent


def run(*command: str, stdin: str = "") -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stderr[-3000:]}"
    return done.stdout


def request(picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode()
    return json.dumps({"image": {"data": data, "file_name": "photo.jpg"}, "options": {"skip_llm": True}})


def objects(text: str) -> list[dict[str, object]]:
    """JSON objects one after the other; some clients write lowerCamelCase names, others those of the contract."""
    text = re.sub(r'"([a-z]+(?:[A-Z][a-z]+)+)":', lambda m: re.sub(r"(?=[A-Z])", "_", m[0]).lower(), text)
    decoder, found, position = json.JSONDecoder(), [], 0
    while text[position:].strip():
        position += len(text[position:]) - len(text[position:].lstrip())
        value, position = decoder.raw_decode(text, position)
        found.append(value["event"])
    return found


def check_events(events: list[dict[str, object]]) -> None:
    kinds = [next(iter(event)) for event in events]
    assert kinds == ["accepted", *["tool_result"] * 4, "verdict_reached", "report"]
    report = events[-1]["report"]
    assert isinstance(report, dict)
    assert report["verdict"].startswith("VERDICT_")
    assert len(report["tool_results"]) == 4
    assert report["explanation"]["summary"]


def test_grpcurl_lists_the_service_and_analyses_a_picture_through_reflection(
    coordinator: ServiceProcess, picture: Path
) -> None:
    grpcurl = (str(BIN / "grpcurl"), "-plaintext", "-max-msg-sz", "16777216")
    assert f"{SERVICE}.AnalyzeStream" in run(*grpcurl, coordinator.address, "list", SERVICE)
    output = run(*grpcurl, "-d", "@", coordinator.address, f"{SERVICE}/Analyze", stdin=request(picture))
    check_events(objects(output))


def test_grpcurl_calls_over_tls_with_a_token(tmp_path: Path) -> None:
    with socket_folder() as folder:
        signer, alice = authority(folder), member(folder, "alice")
        (folder / "clients.toml").write_text(entry(alice))
        arguments = tls(signer.issue("server", "localhost")) + settings(access__clients_file=folder / "clients.toml")
        with ServiceProcess(TINY, free_address(), *arguments, log=folder / "log") as process:
            serving(process, ChannelSecurity(ca_file=signer.file))
            grpcurl = (str(BIN / "grpcurl"), "-cacert", str(signer.file))
            token = ("-H", f"authorization: Bearer {alice.token}")
            assert "maifs.llm.v1.LlmService" in run(*grpcurl, *token, process.address, "list")
            assert "model" in run(*grpcurl, *token, process.address, "maifs.llm.v1.LlmService/GetModelInfo")
            refused = subprocess.run([*grpcurl, process.address, "list"], capture_output=True, text=True, timeout=120)
            assert refused.returncode != 0
            assert "token" in refused.stderr


def test_buf_curl_analyses_a_picture_through_reflection(coordinator: ServiceProcess, picture: Path) -> None:
    output = run(
        str(BIN / "buf"), "curl", "--http2-prior-knowledge", "--protocol", "grpc", "--data", "@-",
        f"http://{coordinator.address}/{SERVICE}/Analyze", stdin=request(picture),
    )  # fmt: skip
    check_events(objects(output))


@pytest.fixture(name="node_modules", scope="session")
def _node_modules() -> Path:
    """grpc-js, installed once into build/js from the pinned package.json."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder, package = ROOT / "build" / "js", ROOT / "examples/package.json"
    stamp = folder / "package.json"
    if not (folder / "node_modules/@grpc/grpc-js").exists() or stamp.read_bytes() != package.read_bytes():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(package, stamp)
        run("npm", "install", "--prefix", str(folder), "--no-package-lock", "--no-audit", "--no-fund", "--silent")
    return folder / "node_modules"


def test_grpc_js_streams_a_picture_in_chunks(coordinator: ServiceProcess, picture: Path, node_modules: Path) -> None:
    spec = importlib.util.find_spec("google.rpc.status_pb2")
    assert spec is not None
    assert spec.origin is not None
    protos = f"{ROOT / 'protos'}:{Path(spec.origin).parents[2]}"
    script = str(ROOT / "examples/analyze.js")
    done = subprocess.run(
        ["node", script, protos, coordinator.address, str(picture)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "NODE_PATH": str(node_modules)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["kind"] for event in events]
    assert kinds == ["accepted", *["tool_result"] * 4, "verdict_reached", "report"]
    assert {event["item_id"] for event in events} == {"picture-1"}
    assert events[-1]["tools"] == 4
