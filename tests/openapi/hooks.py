"""Loaded by schemathesis (`test_requests.py`): what it cannot know of the gateway."""

from typing import Any

import schemathesis
from schemathesis.generation import GenerationMode

STREAM = "text/event-stream"
MODEL = "tiny"
# The tiny model's vocabulary, and tokens that take no time.
VOCABULARY = 256
MOST_TOKENS = 24


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict) -> None:
    """Puts the schema of an event's data into that of an event, whose last one may be `[DONE]`.

    In the document the schema of an event stream is that of the data, as generators of clients take it.
    """
    del context
    for item in raw_schema["paths"].values():
        for operation in item.values():
            for response in operation["responses"].values():
                content = response.get("content", {}).get(STREAM)
                if content:
                    content["schema"] = _event(content["schema"])
                    content.pop("example", None)


def _event(schema: dict) -> dict:
    data = {"contentMediaType": "application/json", "contentSchema": schema}
    return {"type": "object", "required": ["data"], "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}}}


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict) -> None:
    """Makes requests that the document allows such that this model takes more of them."""
    del context, kwargs
    is_right = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if is_right and "name" in (case.path_parameters or {}):
        case.path_parameters["name"] = MODEL
    if is_right and isinstance(case.body, dict):
        case.body = {name: _accepted(name, value) for name, value in case.body.items()}


def _accepted(name: str, value: Any) -> Any:
    if name == "model":
        return None
    if name == "parameters" and isinstance(value, dict):
        return {name: _accepted(name, value) for name, value in value.items()}
    if name in ("max_tokens", "max_completion_tokens", "max_new_tokens") and value is not None:
        return MOST_TOKENS
    if name == "logit_bias" and value is not None:
        return {str(int(token) % VOCABULARY): bias for token, bias in value.items()}
    if name in ("prompt", "stop_token_ids"):
        return _tokens(value)
    return value


def _tokens(value: Any) -> Any:
    if isinstance(value, list):
        return [_tokens(one) for one in value]
    return value % VOCABULARY if isinstance(value, int) else value
