"""What the former GPU allocation guide claimed for Qwen2.5-32B on four A100 of 40 GB, set against the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from serving.gpu.hosts import GIB
from serving.gpu.plan import Option, Plan, Vision
from serving.model_shapes import Quantization


@dataclass(frozen=True)
class Claim:
    """A statement of the guide about one layout."""

    text: str
    corrections: tuple[str, ...]
    """Where it is wrong, with numbers; empty where it stands."""


_RATES = {(4, Vision.SHARED_GPU): 85.0, (3, Vision.OWN_GPU): 72.0, (2, Vision.OWN_GPU): 50.0}
"""Tokens per second by (tensor parallel size, where vision runs), for 16-bit weights."""
_MEMORY_GIB = 11.0
"""Per GPU for the 16-bit model on three GPUs ("~11 GB")."""
_OFFLOAD_SLOWDOWN = 10.0


def applies(plan: Plan) -> bool:
    """Whether the guide speaks of this host and model at all."""
    is_host = len(plan.host.gpus) == 4 and all(39 * GIB < gpu.memory_bytes < 41 * GIB for gpu in plan.host.gpus)
    return is_host and (plan.shape.layers, plan.shape.hidden_size) == (64, 5120) and plan.shape.query_heads == 40


def claim(option: Option, plan: Plan) -> Claim | None:
    """The guide's claim about an option; None when it has none."""
    layout = option.layout
    if not applies(plan) or layout.pipeline_parallel > 1 or layout.replicas > 1:
        return None
    if layout.offload_gib:
        return _offload(option, plan)
    if layout.quantization is Quantization.AWQ and layout.llm_gpus == 2:
        return Claim("2+2 with AWQ: 2-5 % less accurate", ("no measurement stands behind 2-5 %",))
    rate = _RATES.get((layout.tensor_parallel, layout.vision))
    if rate is None or layout.quantization is not Quantization.BF16:
        return None
    text = f"~{rate:.0f} tok/s"
    corrections = _rate_corrections(option, rate)
    if layout.tensor_parallel == 3:
        text += f", ~{_MEMORY_GIB:.0f} GB per GPU, 12 GB GPUs suffice, 10-15 % slower than TP=4"
        corrections += _three_gpus(option, plan)
    if layout.tensor_parallel == 2:
        text += ", ~40 % slower than TP=4"
        corrections.append("TP=2 reads twice as much per GPU as TP=4: 50 % slower")
    return Claim(text, tuple(corrections))


def _rate_corrections(option: Option, rate: float) -> list[str]:
    bound = option.decode_tokens_per_s
    if rate > bound:
        return [f"{rate:.0f} tok/s is above the bound of {bound:.1f} that the memory bandwidth sets"]
    return [f"{rate:.0f} tok/s would be {rate / bound:.0%} of the bound; not measured here"]


def _three_gpus(option: Option, plan: Plan) -> list[str]:
    weights = max(option.weights_bytes) / GIB
    reserved = plan.host.gpus[0].memory_bytes * plan.assumptions.memory_utilization / GIB
    found = [
        f"weights alone are {weights:.1f} GiB per GPU ({_MEMORY_GIB:.0f} GB is the size of 8-bit weights)",
        f"nvidia-smi shows about {reserved:.0f} GiB, since the engine reserves memory for its KV cache",
    ]
    four = [other.decode_tokens_per_s for other in plan.options if other.layout.tensor_parallel == 4]
    if four:
        found.append(f"the bound falls by {1 - option.decode_tokens_per_s / four[0]:.0%} from TP=4, not by 10-15 %")
    if option.padding:
        found.insert(0, "unmodified vLLM refuses TP=3: 40 query heads are not divisible by 3")
    return found


def _offload(option: Option, plan: Plan) -> Claim:
    full = next(
        other.decode_tokens_per_s
        for other in plan.options
        if other.layout.tensor_parallel == option.layout.tensor_parallel
        and other.layout.quantization is option.layout.quantization
        and not other.layout.offload_gib
    )
    factor = full / option.decode_tokens_per_s
    return Claim(
        f"{_OFFLOAD_SLOWDOWN:.0f} times slower",
        (f"{factor:.0f} times slower by the bandwidth of PCIe ({option.decode_tokens_per_s:.1f} tok/s)",),
    )
