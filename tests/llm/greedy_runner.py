"""Greedy tokens of several models from the real engine, in one process of its own that imports vLLM once.

Ranks of a tensor parallel model are worker processes of their own; a model of one rank runs in this process.
`python -m tests.llm.greedy_runner JOBS ANSWERS` reads and writes JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.processes import ROOT

TOKENS_COUNT = 16


@dataclass(frozen=True)
class Job:
    """One model in one layout."""

    model: str
    prompts: tuple[tuple[int, ...], ...]
    """Token ids."""
    tensor_parallel_size: int = 1
    pad_for: int | None = None
    """Tensor parallel size whose padding is applied; not set: that of the layout."""
    dtype: str = "float32"


@dataclass(frozen=True)
class Greedy:
    """What came."""

    padding: str
    tokens: list[list[int]]
    """Of each prompt."""
    log_probabilities: list[list[float]]
    """Of each token."""


def run_jobs(jobs: Sequence[Job], folder: Path, timeout_s: float = 900.0) -> list[Greedy]:
    """Runs the jobs one after another in a new process."""
    questions, answers = folder / "jobs.json", folder / "answers.json"
    questions.write_text(json.dumps([asdict(job) for job in jobs]))
    command = [sys.executable, "-m", "tests.llm.greedy_runner", str(questions), str(answers)]
    with (folder / "runner.log").open("wb") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=timeout_s, check=False)
    assert done.returncode == 0, (folder / "runner.log").read_text()[-4000:]
    return [Greedy(**table) for table in json.loads(answers.read_text())]


def main(questions: Path, answers: Path) -> None:
    """The new process."""
    from llm_service import environment
    from llm_service.config import LlmConfig

    jobs = [Job(**table) for table in json.loads(questions.read_text())]
    variables = environment.engine_environment(replace(LlmConfig(), model=jobs[0].model), answers.parent)
    environment.apply(variables)
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    answers.write_text(json.dumps([asdict(_run(job)) for job in jobs]))


def _run(job: Job) -> Greedy:
    from vllm import LLM, SamplingParams

    from llm_service.config import LlmConfig
    from llm_service.launch import engine_arguments, padding_arguments
    from llm_service.preflight import check_layout

    config = replace(
        LlmConfig(),
        model=job.model,
        dtype=job.dtype,
        tensor_parallel_size=job.pad_for or job.tensor_parallel_size,
        max_model_len_tokens_count=256,
        max_batched_tokens_count=256,
        max_running_requests_count=4,
    )
    prepared = check_layout(config)
    config = replace(config, tensor_parallel_size=job.tensor_parallel_size)
    arguments = engine_arguments(config, True) | padding_arguments(prepared) | {"skip_tokenizer_init": True}
    llm = LLM(**arguments)
    parameters = SamplingParams(temperature=0, max_tokens=TOKENS_COUNT, ignore_eos=True, logprobs=1, detokenize=False)
    prompts = [{"prompt_token_ids": list(prompt)} for prompt in job.prompts]
    completions = [output.outputs[0] for output in llm.generate(prompts, parameters, use_tqdm=False)]
    found = Greedy(
        str(prepared), [list(c.token_ids) for c in completions], [_log_probabilities(c) for c in completions]
    )
    llm.llm_engine.engine_core.shutdown()
    return found


def _log_probabilities(completion: Any) -> list[float]:
    return [step[token].logprob for token, step in zip(completion.token_ids, completion.logprobs, strict=True)]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
