"""Conversations to the engine's input, through the model's own chat template and the engine's renderer."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from llm_service.config import LlmConfig
from llm_service.images import decode_image
from llm_service.requests import Message
from serving.errors import MaifsError, Reason


class Rendering:
    """Renders for one engine.

    Args:
        llm: a running vllm.v1.engine.async_llm.AsyncLLM.
        config: limits.
    """

    def __init__(self, llm: Any, config: LlmConfig) -> None:
        self._renderer = llm.renderer
        self._max_tokens_count = config.max_model_len_tokens_count
        takes_images = bool(llm.model_config.is_multimodal_model)
        self.max_images_count = config.max_images_count if takes_images else 0

    async def prompt(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> dict[str, Any]:
        """The conversation as the engine's input.

        Raises:
            MaifsError: PROMPT_TOO_LONG, IMAGES_NOT_SUPPORTED, INVALID_REQUEST, and those of decode_image.
        """
        from vllm.renderers import ChatParams

        self._check_characters(messages)
        self._check_images(messages)
        conversation = [await _to_chat(index, message) for index, message in enumerate(messages)]
        chat = ChatParams(chat_template_kwargs={"add_generation_prompt": add_generation_prompt})
        # Without vLLM's own limit, whose message does not count the tokens of a prompt that is too long.
        tokens = dataclasses.replace(self._renderer.default_chat_tok_params, max_total_tokens=None)
        try:
            _, prompts = await self._renderer.render_chat_async([conversation], chat, tokens)
        except Exception as error:
            raise MaifsError(
                Reason.INVALID_REQUEST,
                f"The model's chat template cannot render these messages: {' '.join(str(error).split())[:300]}.",
            ) from error
        prompt: dict[str, Any] = prompts[0]
        return prompt

    def check_room(self, prompt: dict[str, Any], max_tokens_count: int) -> None:
        """Refuses a prompt that leaves no room for so many tokens.

        Raises:
            MaifsError: PROMPT_TOO_LONG.
        """
        limit, prompt_tokens_count = self._max_tokens_count, len(prompt["prompt_token_ids"])
        if prompt_tokens_count + max_tokens_count > limit:
            raise MaifsError(
                Reason.PROMPT_TOO_LONG,
                f"The prompt has {prompt_tokens_count:,} tokens; with {max_tokens_count:,} for the answer that is more "
                f"than the {limit:,} of prompt and answer together.",
                "Shorten the prompt or ask for fewer tokens.",
            )

    def _check_characters(self, messages: Sequence[Message]) -> None:
        """Refuses a text that cannot fit however it is tokenised, before the work of tokenising it."""
        max_chars_per_token = int(getattr(self._renderer.tokenizer, "max_chars_per_token", 0))
        limit = self._max_tokens_count
        characters = sum(len(message.content) for message in messages)
        if max_chars_per_token and characters > limit * max_chars_per_token:
            raise MaifsError(
                Reason.PROMPT_TOO_LONG,
                f"The messages have {characters:,} characters; {limit:,} tokens, the limit of prompt and answer "
                f"together, hold at most {limit * max_chars_per_token:,}.",
                "Shorten the prompt.",
            )

    def _check_images(self, messages: Sequence[Message]) -> None:
        images_count = sum(len(message.images) for message in messages)
        if images_count and not self.max_images_count:
            raise MaifsError(
                Reason.IMAGES_NOT_SUPPORTED,
                f"messages carry {images_count} picture(s), and the model takes text alone.",
                "Leave them out, or run the service with a vision-language model and max_images_count above 0.",
            )
        if images_count > self.max_images_count:
            raise MaifsError(
                Reason.INVALID_REQUEST,
                f"messages carry {images_count} pictures: at most {self.max_images_count} in a request.",
            )


async def _to_chat(index: int, message: Message) -> dict[str, Any]:
    """A message in the form that vLLM shares with the OpenAI API; decoded pictures instead of addresses."""
    if not message.images:
        return {"role": message.role.value, "content": message.content}
    parts: list[dict[str, Any]] = []
    for number, data in enumerate(message.images):
        picture = await asyncio.to_thread(decode_image, data, f"messages[{index}].images[{number}]")
        parts.append({"type": "image_pil", "image_pil": picture})
    if message.content:
        parts.append({"type": "text", "text": message.content})
    return {"role": message.role.value, "content": parts}
