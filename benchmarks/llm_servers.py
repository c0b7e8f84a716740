"""What the service is measured against, each in a process of its own with the service's engine settings.

`python -m benchmarks.llm_servers http SOCKET SETTINGS` is vLLM's OpenAI HTTP server; `… bare SOCKET SETTINGS` is its
AsyncLLM without any server, which reads plans from standard input and carries them out itself. SETTINGS is JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks.llm_load import Plan, Question, carry_out
from llm_service import environment
from llm_service.config import LlmConfig
from serving.config import load_config

Settings = dict[str, Any]


def settings_to_config(settings: Settings) -> LlmConfig:
    """The service's configuration with these settings."""
    return load_config(LlmConfig, "llm", environ={}, overrides={key: str(value) for key, value in settings.items()})


def engine_arguments(config: LlmConfig, folder: Path) -> dict[str, Any]:
    """The service's engine arguments on a CPU, after setting its environment."""
    environment.apply(environment.engine_environment(config, folder))
    os.environ.update(OMP_NUM_THREADS=str(environment.cpu_threads(config)), OMP_WAIT_POLICY="PASSIVE")
    from llm_service.launch import engine_arguments as arguments

    return arguments(config, is_cpu=True)


def serve_http(socket: Path, config: LlmConfig) -> None:
    """Runs vLLM's HTTP server on a UNIX socket until it is terminated."""
    arguments = engine_arguments(config, socket.parent)
    os.environ["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] = "3600"  # a connection that waits for its turn is not to be closed
    import uvloop
    from vllm.config import StructuredOutputsConfig
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    options = ["--uds", str(socket), "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(options)
    for name, value in arguments.items():
        setattr(parsed, name, value)
    parsed.served_model_name = ["model"]
    parsed.structured_outputs_config = StructuredOutputsConfig(**arguments["structured_outputs_config"])
    validate_parsed_serve_args(parsed)
    uvloop.run(run_server(parsed))


class Bare:
    """AsyncLLM as a library."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    async def ask(self, question: Question) -> AsyncIterator[int]:
        """See benchmarks.llm_load.Ask."""
        from vllm import SamplingParams
        from vllm.renderers import ChatParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        chat = ChatParams(chat_template_kwargs={"add_generation_prompt": True})
        _, prompts = await self._llm.renderer.render_chat_async([question.messages()], chat)
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=question.max_tokens_count,
            structured_outputs=StructuredOutputsParams(json=question.json_schema) if question.json_schema else None,
            output_kind=RequestOutputKind.DELTA,
        )
        tokens_count = 0
        async for output in self._llm.generate(prompts[0], parameters, uuid.uuid4().hex):
            tokens_count += len(output.outputs[0].token_ids)
            if output.outputs[0].text:
                yield 0
        yield tokens_count


async def serve_plans(socket: Path, config: LlmConfig) -> None:
    """Carries out plans from standard input, one JSON line each, and answers with outcomes on standard output."""
    arguments = engine_arguments(config, socket.parent)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    bare = Bare(llm)
    print(json.dumps("ready"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        outcome = await carry_out(bare.ask, Plan.from_table(json.loads(line)), dict)
        print(json.dumps(outcome.to_table()), flush=True)
    llm.shutdown()


def main() -> None:
    """See module."""
    kind, socket, settings = sys.argv[1:]
    config = settings_to_config(json.loads(settings))
    if kind == "http":
        serve_http(Path(socket), config)
    else:
        import uvloop

        uvloop.run(serve_plans(Path(socket), config))


if __name__ == "__main__":
    main()
