"""A vision-language model with LoRA adapters, tiny and random, on the real engine."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError
from PIL import Image

from maifs.llm.v1 import llm_pb2
from serving.errors import ExitCode
from tests.llm import engine_process
from tests.llm.engine_process import LONG, Answer, Stub, ask, connected, reason_of, refusal, start_llm, user
from tests.llm.tiny_models import IMAGE_TOKENS_COUNT, make_adapter, make_vision_model
from tests.processes import ServiceProcess, socket_folder

pytestmark = pytest.mark.engine

QUESTION = "What is it?"


@pytest.fixture(scope="module")
def vision_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    models = tmp_path_factory.mktemp("models")
    model = make_vision_model(models / "vision")
    adapters = ",".join(f"{name}={make_adapter(models / name, seed)}" for seed, name in enumerate(("first", "second")))
    with socket_folder() as folder, start_llm(folder, model=model, adapters=adapters, dtype="float32") as process:
        yield process.wait_serving(180)


@pytest.fixture
async def vision(vision_service: ServiceProcess) -> AsyncIterator[Stub]:
    async with connected(vision_service) as stub:
        yield stub


def picture(seed: int, side: int = 32, kind: str = "PNG") -> llm_pb2.ImagePart:
    """Noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return llm_pb2.ImagePart(data=stream.getvalue())


def request(*images: llm_pb2.ImagePart, adapter: str = "") -> llm_pb2.GenerateRequest:
    """A question about pictures."""
    message = llm_pb2.ChatMessage(role=llm_pb2.ROLE_USER, content=QUESTION, images=images)
    return llm_pb2.GenerateRequest(messages=[message], max_tokens_count=8, adapter=adapter, top_logprobs_count=5)


def tokens(answer: Answer) -> list[int]:
    """The answer's tokens."""
    return [token.token.token_id for token in answer.logprobs]


async def test_model_info_tells_of_pictures_and_adapters(vision: Stub) -> None:
    info = await vision.GetModelInfo(llm_pb2.GetModelInfoRequest())
    assert info.architecture == "Idefics3ForConditionalGeneration"
    assert info.limits.max_images_count == 2
    assert list(info.adapters) == ["first", "second"]


async def test_pictures_are_tokens_of_the_prompt_and_change_the_answer(vision: Stub) -> None:
    without = await ask(vision, request())
    one = await ask(vision, request(picture(1)))
    again = await ask(vision, request(picture(1)))
    other = await ask(vision, request(picture(2)))
    two = await ask(vision, request(picture(1), picture(2, 50, "JPEG")))
    prompts = [answer.finish.usage.prompt_tokens_count for answer in (without, one, two)]
    assert prompts[1] - prompts[0] >= IMAGE_TOKENS_COUNT
    assert prompts[2] - prompts[1] >= IMAGE_TOKENS_COUNT
    assert one.logprobs == again.logprobs
    first = [answer.logprobs[0].token for answer in (without, one, other)]
    assert len({(token.token_id, round(token.logprob, 6)) for token in first}) == 3


async def test_bad_or_too_many_pictures_are_refused_with_the_field(vision: Stub) -> None:
    _, reason, message = await refusal(vision, request(picture(1), llm_pb2.ImagePart(data=b"no picture")))
    assert reason == "NOT_AN_IMAGE"
    assert "messages[0].images[1]" in message
    _, reason, message = await refusal(vision, request(*(picture(n) for n in range(3))))
    assert reason == "INVALID_REQUEST"
    assert "3 pictures: at most 2" in message


async def test_words_that_stand_for_a_picture_without_one_harm_nobody(vision: Stub) -> None:
    words = llm_pb2.GenerateRequest(messages=[user("<image><image>")], max_tokens_count=2)
    try:
        await ask(vision, words)
    except AioRpcError as error:
        assert error.code() is StatusCode.INVALID_ARGUMENT
    assert tokens(await ask(vision, request(picture(1))))


async def test_adapter_changes_the_answer_and_only_where_it_is_asked_for(vision: Stub) -> None:
    names = ("", "first", "second")
    alone = [await ask(vision, request(adapter=name)) for name in names]
    assert len({tuple(tokens(answer)) for answer in alone}) == 3
    for _ in range(4):
        together = await asyncio.gather(*(ask(vision, request(adapter=name)) for name in names))
        for batched, single in zip(together, alone, strict=True):
            # Sums of another batch are rounded differently: in float32 by far less than the likeliest tokens differ.
            likeliest = {token.token_id: token.logprob for token in batched.logprobs[0].top}
            expected = single.logprobs[0].token
            assert likeliest[expected.token_id] == pytest.approx(expected.logprob, abs=1e-3)
            assert tokens(batched)[:3] == tokens(single)[:3]


async def test_warm_prefix_is_cached_for_its_adapter_alone(vision: Stub) -> None:
    prefix = [user("You explain what forensic tools found in a picture. " * 20)]
    await vision.WarmPrefix(llm_pb2.WarmPrefixRequest(messages=prefix, adapter="first"))
    for adapter, cached in (("second", False), ("", False), ("first", True)):
        request_ = llm_pb2.GenerateRequest(messages=[*prefix, user("Hello.")], max_tokens_count=2, adapter=adapter)
        usage = (await ask(vision, request_)).finish.usage
        assert (usage.cached_prompt_tokens_count > 0) is cached
    with pytest.raises(AioRpcError) as caught:
        await vision.WarmPrefix(llm_pb2.WarmPrefixRequest(messages=prefix, adapter="third"))
    assert reason_of(caught.value)[0] == "UNKNOWN_ADAPTER"


async def test_sigterm_lets_calls_end_and_leaves_no_process(vision_service: ServiceProcess, vision: Stub) -> None:
    processes = engine_process.descendants(vision_service.process.pid)
    assert engine_process.engine_of(vision_service.process.pid) in processes
    call = vision.Generate(llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=200, regex=".{300,900}"))
    responses = aiter(call)
    await anext(responses)
    vision_service.process.terminate()
    rest = [response async for response in responses]
    assert rest[-1].WhichOneof("event") == "finish"
    assert await asyncio.to_thread(vision_service.process.wait, 30) == ExitCode.OK
    assert engine_process.wait_gone(processes, 1) == []
