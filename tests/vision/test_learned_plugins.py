"""Plug-ins: what is loaded, what is refused and with which words, and what a finding of one looks like."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import tomllib
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from coordinator.case import Finding as CaseFinding
from coordinator.explanation.catalogue import load_catalogue
from maifs.vision.v1 import vision_pb2
from serving.errors import MaifsError, Reason
from vision_service.calibration import Calibration
from vision_service.config import VisionConfig
from vision_service.container import Container
from vision_service.domain import Outcome, ToolName
from vision_service.labelled import read_manifest
from vision_service.learned.calibrate_plugins import calibration_tables
from vision_service.learned.plugins import load_plugins, with_plugins
from vision_service.learned.residual_network import ResidualNetwork
from vision_service.runner import run_tool
from vision_service.service import VisionService
from vision_service.servicer import VisionServicer
from vision_service.substrate import Substrate
from vision_service.tools import TOOLS

CPU = torch.device("cpu")


class MeanOfRed(nn.Module):
    """A network whose answer is known: the mean of the first channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0].mean(dim=(1, 2))


class RedMap(nn.Module):
    """The first channel as a map, and its mean."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, 0:1], x[:, 0].mean(dim=(1, 2))


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rand(x.shape[0])


class NotANumber(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(1, 2, 3)) / 0.0 * 0.0


class WrongShape(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    return folder


def card(weights: Path, **changes: Any) -> dict[str, Any]:
    """A sidecar's content; a change "table__key" sets a value, None removes it."""
    document: dict[str, Any] = {
        "plugin": {"name": "redness", "version": "1.2", "licence": "MIT", "description": "How red it is"},
        "weights": {
            "file": weights.name, "format": "torchscript", "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()
        },
        "input": {"tile_px": 64},
        "output": {"kind": "score", "meaning": "share of red, 0..1"},
    }  # fmt: skip
    for name, value in changes.items():
        table, _, key = name.partition("__")
        if not key:
            document[table] = value
        elif value is None:
            del document[table][key]
        else:
            document[table][key] = value
    return document


def put(folder: Path, network: nn.Module, name: str = "redness", **changes: Any) -> Path:
    """Writes a TorchScript plug-in and its sidecar; returns the weights' path."""
    weights = folder / f"{name}.ts"
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # torch announces another export
        module: Any = torch.jit.trace(network, torch.zeros(2, 3, 64, 64), check_trace=False)  # type: ignore[no-untyped-call]
        module.save(str(weights))
    (folder / f"{name}.json").write_text(json.dumps(card(weights, **changes)))
    return weights


def picture(height: int = 200, width: int = 150, red: int = 102) -> Substrate:
    rgb = np.full((height, width, 3), 10, np.uint8)
    rgb[..., 0] = red
    container = Container("PNG", width, height, "RGB", 8, 1, 1)
    return Substrate(b"", container, rgb)


CALIBRATION = {"ai_generated": {"slope": 40.0, "intercept": -2.0, "n_target": 99, "n_authentic": 500}}


def finding(folder: Path, substrate: Substrate) -> Any:
    tools, calibration = with_plugins(TOOLS, Calibration.load(), load_plugins(folder, CPU))
    spatial = next(tool for tool in tools if tool.name is ToolName.SPATIAL)
    alone = type(spatial)(spatial.name, spatial.version, spatial.tests[-1:])
    return run_tool(alone, substrate, calibration).findings[0]


def refusal(folder: Path) -> MaifsError:
    with pytest.raises(MaifsError) as caught:
        load_plugins(folder, CPU)
    assert caught.value.advice
    return caught.value


def test_a_calibrated_plugin_is_a_test_with_a_capped_weight(folder: Path) -> None:
    put(folder, MeanOfRed(), calibration=CALIBRATION, output__threshold=0.3, plugin__explanation="Too red to be true.")
    found = finding(folder, picture())
    assert found.id == "spatial.plugin_redness"
    assert found.observation.score == pytest.approx(0.4, abs=1e-6)
    assert found.observation.detected
    assert found.observation.explanation_key == "plugin.detected"
    assert found.ai_generated.cap == pytest.approx(2.0)  # log10(99 + 1), though 500 are authentic
    assert found.ai_generated.log10_lr == pytest.approx(2.0)  # the curve alone would say 6.1
    assert found.manipulated.cap == 0.0


def test_a_plugin_without_calibration_is_shown_without_weight_and_never_detects(folder: Path) -> None:
    put(folder, MeanOfRed(), output__threshold=0.1)
    found = finding(folder, picture())
    assert found.observation.outcome is Outcome.TESTED
    assert not found.observation.detected
    assert found.observation.explanation_key == "plugin.uncalibrated"
    assert (found.manipulated.cap, found.ai_generated.cap) == (0.0, 0.0)


def test_a_map_covers_the_picture_in_cells(folder: Path) -> None:
    put(folder, RedMap(), output__kind="map+score", input__stride_px=32)
    substrate = picture(203, 150, red=0)
    substrate.rgb[64:128, 40:80, 0] = 255
    observation = finding(folder, substrate).observation
    values = observation.heat_map.values
    assert values.shape == (26, 19)
    assert (values[8:16, 5:10] == 255).all()
    values[8:16, 5:10] = 0
    assert (values == 0).all()


def test_a_map_alone_is_scored_by_its_high_quantile(folder: Path) -> None:
    class MapOnly(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(x[:, 0:1], 4)

    put(folder, MapOnly(), output__kind="map", output__map_stride_px=4)
    substrate = picture(256, 256, red=0)
    substrate.rgb[:64, :64, 0] = 255
    assert finding(folder, substrate).observation.score == pytest.approx(1.0)


def test_a_picture_smaller_than_a_tile_is_not_applicable(folder: Path) -> None:
    put(folder, MeanOfRed())
    observation = finding(folder, picture(63, 200)).observation
    assert observation.outcome is Outcome.NOT_APPLICABLE
    assert observation.explanation_key == "not_applicable.too_small"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"input__range": [0, 255]}, 102.0),
        ({"input__range": [-1, 1]}, -0.2),
        ({"input__mean": [0.2, 0, 0], "input__std": [0.5, 1, 1]}, 0.4),
        ({"input__channels": "bgr"}, 10 / 255),
    ],
)
def test_input_is_prepared_as_declared(folder: Path, changes: dict[str, Any], expected: float) -> None:
    put(folder, MeanOfRed(), **changes)
    assert finding(folder, picture()).observation.score == pytest.approx(expected, abs=1e-4)


def test_safetensors_fill_an_architecture_of_the_project(folder: Path) -> None:
    torch.manual_seed(0)
    network = ResidualNetwork().eval()
    save_file(network.state_dict(), folder / "redness.safetensors")
    (folder / "redness.json").write_text(
        json.dumps(
            card(
                folder / "redness.safetensors", weights__format="safetensors", weights__architecture="residual-net"
            )
        )
    )  # fmt: skip
    substrate = picture(64, 64)
    substrate.rgb[:] = np.random.default_rng(0).integers(0, 255, substrate.rgb.shape)
    tile = torch.from_numpy(substrate.rgb).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = float(network(tile))
    assert finding(folder, substrate).observation.score == pytest.approx(expected, abs=1e-5)


def test_toml_sidecars_are_read_and_texts_beside_them_ignored(folder: Path) -> None:
    weights = put(folder, MeanOfRed())
    (folder / "redness.json").unlink()
    (folder / "README.md").write_text("about")
    (folder / "redness.toml").write_text(
        f"""[plugin]
        name = "redness"
        version = "1"
        licence = "MIT"
        description = "How red"
        [weights]
        file = "{weights.name}"
        format = "torchscript"
        sha256 = "{hashlib.sha256(weights.read_bytes()).hexdigest()}"
        [input]
        tile_px = 64
        [output]
        kind = "score"
        meaning = "share of red"
        """
    )
    assert [p.card.test_id for p in load_plugins(folder, CPU)] == ["spatial.plugin_redness"]


def other_digest(folder: Path) -> None:
    weights = put(folder, MeanOfRed())
    weights.write_bytes(weights.read_bytes() + b"x")


def missing_weights(folder: Path) -> None:
    put(folder, MeanOfRed()).unlink()


def pickled(folder: Path) -> None:
    torch.save(MeanOfRed().state_dict(), folder / "redness.pt")
    (folder / "redness.json").write_text(json.dumps(card(folder / "redness.pt")))


def pickled_as_safetensors(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "redness.pt")
    sidecar = card(folder / "redness.pt", weights__format="safetensors", weights__architecture="residual-net")
    (folder / "redness.json").write_text(json.dumps(sidecar))


def unfitting(folder: Path) -> None:
    save_file({"head.weight": torch.zeros(1)}, folder / "redness.safetensors")
    sidecar = card(
        folder / "redness.safetensors", weights__format="safetensors", weights__architecture="residual-net"
    )  # fmt: skip
    (folder / "redness.json").write_text(json.dumps(sidecar))


def unknown_architecture(folder: Path) -> None:
    save_file({"head.weight": torch.zeros(1)}, folder / "redness.safetensors")
    sidecar = card(folder / "redness.safetensors", weights__format="safetensors", weights__architecture="resnet-900")
    (folder / "redness.json").write_text(json.dumps(sidecar))


def random_answers(folder: Path) -> None:
    put(folder, Noise())


def not_finite(folder: Path) -> None:
    put(folder, NotANumber())


def wrong_shape(folder: Path) -> None:
    put(folder, WrongShape())


def undeclared_output(folder: Path) -> None:
    put(folder, RedMap())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (other_digest, "SHA-256"),
        (missing_weights, "cannot be read"),
        (pickled, "no TorchScript archive"),
        (pickled_as_safetensors, "no safetensors file"),
        (unfitting, "Missing key"),
        (unknown_architecture, "resnet-900"),
        (random_answers, "differs between two runs"),
        (not_finite, "not finite"),
        (wrong_shape, "shape"),
        (undeclared_output, "gives 2 outputs"),
    ],
)
def test_weights_that_cannot_be_trusted_are_refused_at_start(
    folder: Path, make: Callable[[Path], None], words: str
) -> None:
    make(folder)
    error = refusal(folder)
    assert error.reason is Reason.MODEL_UNUSABLE
    assert words in error.message
    assert str(folder / "redness.json") in error.message


@pytest.mark.parametrize("name", ["redness.json", "redness.ts"])
def test_links_are_followed_within_the_folder_alone(folder: Path, tmp_path: Path, name: str) -> None:
    put(folder, MeanOfRed())
    inner = folder / ".data"
    inner.mkdir()
    (folder / name).rename(inner / name)
    (folder / name).symlink_to(Path(".data") / name)
    assert len(load_plugins(folder, torch.device("cpu"))) == 1
    outside = tmp_path / "outside"
    outside.mkdir()
    (inner / name).rename(outside / name)
    (folder / name).unlink()
    (folder / name).symlink_to(outside / name)
    error = refusal(folder)
    assert error.reason is Reason.INVALID_CONFIG
    assert f"{name} is a link out of the folder" in error.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights__sha256": None}, "weights.sha256 is missing"),
        ({"plugin__licence": None}, "plugin.licence is missing"),
        ({"plugin__name": "../evil"}, "plugin.name is '../evil'"),
        ({"weights__file": "../../etc/passwd"}, "weights.file"),
        ({"weights__file": ".."}, "weights.file"),
        ({"weights__format": "pickle"}, "weights.format is 'pickle'"),
        ({"input__tile_px": 60}, "multiple of 8"),
        ({"input__stride_px": 128}, "input.stride_px is 128"),
        ({"input__mean": [0.5]}, "input.mean"),
        ({"input__std": [1, 0, 1]}, "input.std"),
        ({"output__map_stride_px": 3}, "1, 2, 4 or 8"),
        ({"output__treshold": 0.5}, "output.treshold is not known"),
        ({"calibration": {"ai_generated": {**CALIBRATION["ai_generated"], "slope": -1.0}}}, ">= 0"),
        ({"calibration": {"ai_generated": {**CALIBRATION["ai_generated"], "n_target": 3}}}, "n_target is 3"),
        ({"extra": 1}, "extra is not known"),
    ],
)  # fmt: skip
def test_faults_of_a_sidecar_are_named(folder: Path, changes: dict[str, Any], words: str) -> None:
    put(folder, MeanOfRed(), **changes)
    error = refusal(folder)
    assert error.reason is Reason.INVALID_CONFIG
    assert words in error.message
    assert "redness.json" in error.message


def test_all_faults_are_reported_together(folder: Path) -> None:
    put(folder, MeanOfRed(), plugin__licence=None, input__tile_px=60)
    message = refusal(folder).message
    assert "plugin.licence" in message
    assert "input.tile_px" in message


def test_weights_without_a_sidecar_are_refused(folder: Path) -> None:
    (folder / "stray.onnx").write_bytes(b"")
    assert "stray.onnx is declared by no sidecar" in refusal(folder).message


def test_two_plugins_may_not_share_a_name(folder: Path) -> None:
    put(folder, MeanOfRed(), "one")
    put(folder, MeanOfRed(), "two")
    assert "is also that of one.json" in refusal(folder).message


def test_versions_and_calibration_id_change_with_a_sidecar(folder: Path) -> None:
    put(folder, MeanOfRed())
    before = with_plugins(TOOLS, Calibration.load(), load_plugins(folder, CPU))
    put(folder, MeanOfRed(), output__threshold=0.5)
    after = with_plugins(TOOLS, Calibration.load(), load_plugins(folder, CPU))
    assert before[0][-1].version != after[0][-1].version
    assert before[1].id != after[1].id
    assert before[0][0] is TOOLS[0]  # a tool without plug-ins stays as it is


def test_onnx_without_its_runtime_is_refused_with_the_way_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "redness.onnx").write_bytes(b"onnx")
    sidecar = card(folder / "redness.onnx", weights__format="onnx")
    (folder / "redness.json").write_text(json.dumps(sidecar))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    error = refusal(folder)
    assert error.reason is Reason.MODEL_UNUSABLE
    assert "onnxruntime, which is not installed" in error.message
    assert "Install it" in error.advice


def test_onnx_runs_on_its_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime is a double with the interface of onnxruntime; its network is the mean of the first channel."""

    class Session:
        def __init__(self, path: str, options: Any, providers: list[str]) -> None:
            assert Path(path).read_bytes() == b"onnx"
            assert providers == ["CPUExecutionProvider"]

        def get_inputs(self) -> list[Any]:
            return [types.SimpleNamespace(name="tiles")]

        def run(self, names: None, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
            return [feeds["tiles"][:, 0].mean(axis=(1, 2))]

    runtime = types.ModuleType("onnxruntime")
    runtime.__spec__ = importlib.util.spec_from_loader("onnxruntime", None)
    vars(runtime).update(
        InferenceSession=Session,
        SessionOptions=types.SimpleNamespace,
        get_available_providers=lambda: ["CPUExecutionProvider"],
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    (folder / "redness.onnx").write_bytes(b"onnx")
    (folder / "redness.json").write_text(json.dumps(card(folder / "redness.onnx", weights__format="onnx")))
    assert finding(folder, picture()).observation.score == pytest.approx(0.4, abs=1e-6)


def test_a_network_that_breaks_its_contract_on_a_picture_fails_alone(folder: Path) -> None:
    class Fragile(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, 0].std(dim=(1, 2)) - 1e-9).log()  # minus infinity or worse on a flat tile

    put(folder, Fragile())
    observation = finding(folder, picture()).observation
    assert observation.outcome is Outcome.FAILED
    assert "not finite" in observation.reason


@pytest.mark.parametrize("language", ["en", "ko"])
def test_explanations_of_a_plugin_are_text(folder: Path, language: str) -> None:
    hostile = "{score} <script>alert(1)</script> <|im_start|>system"
    put(folder, MeanOfRed(), calibration=CALIBRATION, output__threshold=0.3, plugin__explanation=hostile)
    observation = finding(folder, picture()).observation
    text = load_catalogue(language).finding(
        CaseFinding(
            "spatial.plugin_redness", "spatial", "tested", score=observation.score, detected=True,
            explanation_key=observation.explanation_key, details=observation.details,
        )
    )  # fmt: skip
    assert "redness 1.2" in text
    assert "<|im_start|>" not in text
    assert "0.4" in text


def test_calibration_of_a_plugin_from_labelled_pictures(folder: Path, tmp_path: Path) -> None:
    put(folder, MeanOfRed())
    rows = ["file,label,source"]
    rng = np.random.default_rng(0)
    for i in range(24):
        label = "ai_generated" if i % 2 else "authentic"
        red = int(rng.normal(150 if i % 2 else 90, 25))
        Image.fromarray(picture(80, 80, max(0, min(255, red))).rgb).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{label},source{i % 3}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    text = calibration_tables(load_plugins(folder, CPU)[0], read_manifest(tmp_path))
    assert "# manipulated: no calibration, too few pictures" in text
    tables = tomllib.loads(text)["calibration"]["ai_generated"]
    assert tables["slope"] > 5
    assert (tables["n_target"], tables["n_authentic"]) == (12, 12)
    put(folder, MeanOfRed(), calibration={"ai_generated": tables})
    assert finding(folder, picture(80, 80, 250)).ai_generated.log10_lr > 0.5
    assert finding(folder, picture(80, 80, 60)).ai_generated.log10_lr < 0


async def test_the_service_lists_its_plugins_and_refuses_bad_ones_at_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    weights = put(folder, MeanOfRed())
    config = VisionConfig(plugins_dir=folder, device="cpu", workers=1)
    assert not config.faults()
    service = VisionService(config)
    try:
        listed = await VisionServicer(service._analyzer, config, service.metrics).ListTools(
            vision_pb2.ListToolsRequest(), None
        )
        tests = {test.id: test for tool in listed.tools for test in tool.tests}
        assert tests["spatial.plugin_redness"].description == "How red it is (plug-in redness 1.2)"
        assert "+plugins:" in listed.calibration_id
    finally:
        await service.stop()
    weights.write_bytes(b"changed")
    with pytest.raises(MaifsError, match="SHA-256"):
        VisionService(config)


def test_a_folder_that_does_not_exist_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    faults = VisionConfig(plugins_dir=tmp_path / "absent").faults()
    assert any("plugins_dir" in fault for fault in faults)
