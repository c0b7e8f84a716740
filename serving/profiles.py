"""Named ways to lay the language model over the GPUs of a host."""

from __future__ import annotations

from dataclasses import dataclass

from serving.model_shapes import Quantization


@dataclass(frozen=True)
class Profile:
    """One of them."""

    text: str
    """For people."""
    llm_gpus: int
    vision_gpus: int | None
    """Left to vision; None: all others."""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    offload_gib: int = 0
    """Weights per GPU kept in the host's memory."""
    quantization: Quantization | None = None
    """Format in which the weights must be stored; None: any."""


PROFILES = {
    "3+1": Profile("three GPUs share each layer, one for vision", 3, 1, tensor_parallel=3),
    "3+1-pp": Profile("three GPUs take the layers in turn, one for vision", 3, 1, pipeline_parallel=3),
    "2+2": Profile("two GPUs share each layer, two for vision", 2, 2, tensor_parallel=2),
    "2+2-awq": Profile("as 2+2, with weights of 4 bits", 2, 2, tensor_parallel=2, quantization=Quantization.AWQ),
    "cpu-offload": Profile(
        "as 3+1, with 20 GiB of each GPU's weights in the host's memory", 3, 1, tensor_parallel=3, offload_gib=20
    ),
    "single": Profile("one GPU", 1, None),
}
