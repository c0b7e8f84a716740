"""vLLM's model classes with zeros appended to their weights. Imported inside vLLM's processes alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import torch
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM
from vllm.transformers_utils.config import set_default_rope_theta

from llm_service.padding import stored_sizes
from llm_service.padding.stream import WeightPadder
from serving.model_config import stored_block
from serving.model_shapes import DecoderSizes
from serving.sharding import VOCAB_MULTIPLE, Padding, next_multiple


class _Padded:
    """What all padded models share; stands before vLLM's class."""

    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        if next_multiple(config.vocab_size, VOCAB_MULTIPLE) % get_tensor_model_parallel_world_size():
            _widen_vocabulary()
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Pads every tensor, then leaves it to vLLM."""
        padded = weight_padder(self.config).pad_all(weights)
        loaded: set[str] = super().load_weights(padded)  # type: ignore[misc]
        return loaded


def weight_padder(config: Any) -> WeightPadder:
    """The padder of a configuration that carries padded and stored sizes.

    Args:
        config: transformers' configuration after config_overrides.
    """
    stored = stored_sizes(config)
    if stored is None:
        raise ValueError("the configuration does not tell the sizes of the files")
    query, kv, inner = stored
    block = stored_block(getattr(config, "quantization_config", None) or {})
    sizes = DecoderSizes(config.num_hidden_layers, query, kv, config.head_dim, inner, config.vocab_size, block)
    wide = Padding(config.num_attention_heads, config.num_key_value_heads, config.intermediate_size, config.vocab_size)
    return WeightPadder(sizes, wide)


class PaddedLlamaForCausalLM(_Padded, LlamaForCausalLM):  # type: ignore[misc]
    """Llama."""


class PaddedMistralForCausalLM(_Padded, MistralForCausalLM):  # type: ignore[misc]
    """Mistral in Hugging Face's format."""


class PaddedQwen3ForCausalLM(_Padded, Qwen3ForCausalLM):  # type: ignore[misc]
    """Qwen3. The norm of a zero head is zero."""


class PaddedQwen2ForCausalLM(_Padded, LlamaForCausalLM):  # type: ignore[misc]
    """Qwen2 run as a Llama with biases on q, k and v: vLLM's Qwen2 takes no head size, which padding needs."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        set_default_rope_theta(vllm_config.model_config.hf_config, default_theta=1_000_000)  # as vLLM's Qwen2 does
        super().__init__(vllm_config=vllm_config, prefix=prefix)


@functools.cache
def _widen_vocabulary() -> None:
    """From now on embeddings made in this process are padded to rows that divide by the tensor parallel size.

    vLLM pads to 64 rows and asserts that they divide. Its own loader fills what is beyond the vocabulary with zeros,
    and its logits processor cuts it off.
    """
    VocabParallelEmbedding.register_oot(_WideEmbedding, name=VocabParallelEmbedding.__name__)
    ParallelLMHead.register_oot(_WideLMHead, name=ParallelLMHead.__name__)


def _rows_multiple() -> int:
    return math.lcm(VOCAB_MULTIPLE, get_tensor_model_parallel_world_size())


class _WideEmbedding(VocabParallelEmbedding):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "padding_size": _rows_multiple()})


class _WideLMHead(ParallelLMHead):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "padding_size": _rows_multiple()})
