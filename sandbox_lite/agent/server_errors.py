"""What a server's refusal means: a parameter to drop, a full context, or an error with a remedy."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from sandbox_lite.agent.completion import REASONING, one_line
from sandbox_lite.errors import ContextLengthError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import openai

TOKEN_NAMES = ("max_tokens", "max_completion_tokens")
"""The two names of one parameter: old and local servers know the first, OpenAI's the second."""

_CONTEXT = re.compile(
    r"context[_ ](?:length|window|size)|maximum context|(?:prompt|input) is too long"
    r"|too many (?:input )?tokens|reduce the length|longer than the model|exceeds? the maximum"
    r" number of tokens|must be at least 1, got|inputs.{0,40}must be <=|max_model_len",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra|invalid|additional"
    r"|deprecated|must be|should be|no longer|only",
    re.IGNORECASE,
)


def _error_text(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        text = body.get("message") or body.get("detail") or body
        return text if isinstance(text, str) else json.dumps(text, default=str)
    return str(body or error.message)


def _is_context(error: openai.APIStatusError) -> bool:
    if error.code in ("context_length_exceeded", "exceed_context_size_error"):
        return True
    return error.status_code in (400, 413, 422) and bool(_CONTEXT.search(_error_text(error)))


def refused_name(error: openai.APIStatusError, parameters: Mapping[str, Any]) -> str | None:
    """Return the parameter that the server will not take; None where that is not the trouble."""
    if error.status_code not in (400, 422) or _is_context(error):
        return None
    names = {"temperature", *TOKEN_NAMES}.intersection(parameters)
    names.update(parameters["extra_body"])
    names.update(key for m in parameters["messages"] for key in m if key in REASONING)
    text = _error_text(error)
    param = (error.param or "").rpartition(".")[2]
    if param in names:
        return str(param)
    if not _REFUSAL.search(text):
        return None
    hits = ((re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text), name) for name in names)
    found = sorted((hit.start(), name) for hit, name in hits if hit is not None)
    return found[0][1] if found else None


def described(error: Exception, base_url: str, *, model: str, timeout: float) -> ModelError:
    """Return a failure of the client as ours: one line, and what to do."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return ModelError(
            f"{base_url} did not answer in time",
            hint=f"one try may take {timeout:g} s; raise the timeout if it is slow",
            retryable=True,
        )
    if isinstance(error, openai.APIStatusError):
        return _described_status(error, base_url, model)
    if isinstance(error, openai.APIConnectionError):
        cause = one_line(str(error.__cause__ or error.message))
        return ModelError(
            f"no connection to {base_url}: {cause}",
            hint="is the server running, and is the base URL right?",
            retryable=True,
        )
    if isinstance(error, UnicodeEncodeError):
        return ModelError(
            "the request holds characters that cannot be sent",
            hint="an API key is plain ASCII: was another text pasted in its place?",
        )
    return ModelError(
        f"{base_url} could not be asked: {one_line(str(error))}",
        hint="is the base URL right? It usually ends in /v1",
    )


def _described_status(error: openai.APIStatusError, base_url: str, model: str) -> ModelError:
    code, text = error.status_code, one_line(_error_text(error))
    message = f"{base_url} answered {code}: {text}"
    if _is_context(error):
        return ContextLengthError(message, hint="give the model less, or one with more context")
    hints = {
        400: f"does the server know the model {model!r}, and every setting of --extra-body?",
        401: "check the API key (OPENAI_API_KEY)",
        403: "the key is not allowed to use this model",
        404: f"does the server know the model {model!r}? A base URL usually ends in /v1",
        429: "the rate or the quota is used up; wait, or choose another key or model",
    }
    hint = hints.get(code, "the server failed; try again later" if code >= 500 else None)
    return ModelError(message, hint=hint, retryable=code in (408, 409, 429) or code >= 500)
