"""Constraints on an answer: refused before a request is admitted when the grammar engine cannot take them."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from llm_service.requests import Constraint
from serving.errors import MaifsError, Reason

MAX_CHARACTERS = 65_536
"""Of a schema or grammar. xgrammar needs up to 30 ms for such a one, which vLLM spends once more on the event loop."""
MAX_REGEX_CHARACTERS = 4096


@lru_cache(maxsize=128)
def check_constraint(constraint: Constraint) -> None:
    """Checks a constraint with vLLM's own test of its grammar engine; a schema as JSON Schema (draft 2020-12) too.

    Blocks for milliseconds; call it in a thread. Constraints that passed are remembered.

    Raises:
        MaifsError: INVALID_JSON_SCHEMA, or INVALID_CONSTRAINT naming the field.
    """
    if constraint.json_schema:
        _check_json_schema(constraint.json_schema)
    for name, limit in (("regex", MAX_REGEX_CHARACTERS), ("grammar", MAX_CHARACTERS)):
        length = len(getattr(constraint, name))
        if length > limit:
            raise _refusal(name, f"it has {length:,} characters; at most {limit:,} are taken")
    if constraint.grammar and not constraint.grammar.strip():
        raise _refusal("grammar", "it is blank")
    _check_grammar(constraint)


def structured_outputs(constraint: Constraint) -> Any:
    """The constraint as vLLM's StructuredOutputsParams; None for free text."""
    from vllm.sampling_params import StructuredOutputsParams

    if not constraint.given:
        return None
    return StructuredOutputsParams(
        json=constraint.json_schema or None,
        choice=list(constraint.choices) or None,
        regex=constraint.regex or None,
        grammar=constraint.grammar or None,
    )


def _check_json_schema(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise _refusal("json_schema", f"it has {len(text):,} characters; at most {MAX_CHARACTERS:,} are taken")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal("json_schema", f"it is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise _refusal("json_schema", f"it is a JSON {type(schema).__name__}; an object is needed")
    _check_meaning(schema)


def _check_meaning(schema: dict[str, object]) -> None:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "/".join(str(part) for part in error.absolute_path) or "the top level"
        raise _refusal("json_schema", f"at {where}: {error.message}") from None
    except RecursionError:
        raise _refusal("json_schema", "it is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - odd patterns make Python's own regex parser raise what it likes
        raise _refusal("json_schema", f"{type(error).__name__}: {error}") from None


def _check_grammar(constraint: Constraint) -> None:
    from vllm import SamplingParams
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

    try:
        validate_xgrammar_grammar(SamplingParams(structured_outputs=structured_outputs(constraint)))
    except Exception as error:  # noqa: BLE001 - the grammar engine raises what it likes
        (name,) = constraint.given
        raise _refusal(name, _why(error)) from None


def _why(error: Exception) -> str:
    """The message of vLLM with that of the grammar engine, which it leaves out for grammars."""
    cause = f": {error.__cause__}" if error.__cause__ and str(error.__cause__) not in str(error) else ""
    return " ".join(f"{error}{cause}".split())


def _refusal(name: str, why: str) -> MaifsError:
    if name == "json_schema":
        return MaifsError(Reason.INVALID_JSON_SCHEMA, f"The JSON schema cannot be used: {why[:500]}.")
    return MaifsError(Reason.INVALID_CONSTRAINT, f"{name} cannot be used: {why[:500]}.")


def cannot_be_followed(constraint: Constraint) -> MaifsError:
    """The engine has given up on a constraint that passed the check, e.g. `root ::= root`."""
    (name,) = constraint.given
    return _refusal(name, "the grammar engine cannot compile it, or no answer can follow it")
