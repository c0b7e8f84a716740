"""JSON schemas: refused before a request is admitted when the grammar engine cannot take them."""

from __future__ import annotations

import json
from functools import lru_cache

from serving.errors import MaifsError, Reason

MAX_SCHEMA_CHARACTERS = 65_536


@lru_cache(maxsize=128)
def check_json_schema(text: str) -> None:
    """Checks a schema as JSON, as a JSON Schema (draft 2020-12) and with vLLM's own test of its grammar engine.

    Blocks for milliseconds; call it in a thread. Schemas that passed are remembered.

    Raises:
        MaifsError: INVALID_JSON_SCHEMA.
    """
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise _refusal(f"it has {len(text):,} characters; at most {MAX_SCHEMA_CHARACTERS:,} are taken")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(f"it is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise _refusal(f"it is a JSON {type(schema).__name__}; an object is needed")
    _check_meaning(schema)
    _check_grammar(text)


def _check_meaning(schema: dict[str, object]) -> None:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "/".join(str(part) for part in error.absolute_path) or "the top level"
        raise _refusal(f"at {where}: {error.message}") from None
    except RecursionError:
        raise _refusal("it is nested too deeply") from None


def _check_grammar(text: str) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

    try:
        validate_xgrammar_grammar(SamplingParams(structured_outputs=StructuredOutputsParams(json=text)))
    except Exception as error:  # noqa: BLE001 - the grammar engine raises what it likes
        raise _refusal(" ".join(str(error).split())) from None


def _refusal(why: str) -> MaifsError:
    return MaifsError(Reason.INVALID_JSON_SCHEMA, f"The JSON schema cannot be used: {why[:500]}.")
