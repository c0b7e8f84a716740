"""Between a generation and vLLM's sampling parameters and outputs."""

from __future__ import annotations

from typing import Any

from llm_service.constraints import cannot_be_followed, structured_outputs
from llm_service.domain import Finish, FinishReason, TokenCandidate, TokenLogprob, Usage
from llm_service.requests import Generation
from serving.errors import MaifsError, Reason


def sampling_parameters(request: Generation, max_tokens_count: int) -> Any:
    """The request as vllm.SamplingParams."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p if request.temperature > 0 else 1.0,
        seed=request.seed,
        max_tokens=max_tokens_count,
        stop=list(request.stop) or None,
        logprobs=request.top_logprobs_count,
        structured_outputs=structured_outputs(request.constraint),
        output_kind=RequestOutputKind.DELTA,
    )


def token_logprobs(completion: Any, top_count: int | None) -> tuple[TokenLogprob, ...]:
    """Tokens of one vllm.outputs.CompletionOutput with their log-probabilities; empty when none were asked for."""
    if top_count is None or not completion.logprobs:
        return ()
    return tuple(
        _token_logprob(token_id, position, top_count)
        for token_id, position in zip(completion.token_ids, completion.logprobs, strict=True)
    )


def _token_logprob(token_id: int, position: Any, top_count: int) -> TokenLogprob:
    likeliest = sorted(position.items(), key=lambda item: item[1].rank)[:top_count]
    return TokenLogprob(
        _candidate(token_id, position[token_id]), tuple(_candidate(other, logprob) for other, logprob in likeliest)
    )


def _candidate(token_id: int, logprob: Any) -> TokenCandidate:
    return TokenCandidate(token_id, logprob.decoded_token or "", logprob.logprob)


def finish_of(request: Generation, output: Any, output_tokens_count: int, total_s: float) -> Finish:
    """The end of a generation from its last vllm.outputs.RequestOutput.

    Raises:
        MaifsError: INVALID_JSON_SCHEMA or INVALID_CONSTRAINT when the constraint could not be followed, INTERNAL when
            the engine gave the request up.
    """
    reason = output.outputs[0].finish_reason
    if reason == "error" and request.constraint.given:
        raise cannot_be_followed(request.constraint)
    if reason not in set(FinishReason):
        raise MaifsError(Reason.INTERNAL, f"The engine ended the request with {reason!r}.", "See its log.")
    usage = Usage(len(output.prompt_token_ids), output.num_cached_tokens or 0, output_tokens_count)
    return Finish(FinishReason(reason), usage, _timings_s(output.metrics, total_s))


def _timings_s(stats: Any, total_s: float) -> dict[str, float]:
    """Phases from the engine's own clock (vllm.v1.metrics.stats.RequestStateStats, seconds)."""
    return {
        "queue": max(0.0, stats.scheduled_ts - stats.queued_ts),
        "prefill": max(0.0, stats.first_token_ts - stats.scheduled_ts),
        "decode": max(0.0, stats.last_token_ts - stats.first_token_ts),
        "total": total_s,
    }
