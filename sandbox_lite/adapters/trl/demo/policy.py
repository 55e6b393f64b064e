"""The tiny policy: vocabulary, chat template and weights, all made here; nothing is downloaded.

The vocabulary is what the prompts and the sandbox's real observations are made of: every key and
every word is a token, the text between two of them is one as well, and so is a whole tool call.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandbox_lite.agent.completion import Message

START, END = "<|im_start|>", "<|im_end|>"

# White space is written inside {{ }}: Jinja would eat the newline that ends the generation prompt,
# the anchor below would then be found in the previous turn, and its calls be returned again.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.tool_calls %}{%- for call in message.tool_calls %}"
    "{{- '<tool_call>' + {'name': call.function.name, 'arguments': call.function.arguments}"
    " | tojson + '</tool_call>' }}"
    "{%- endfor %}{%- else %}{{- message.content }}{%- endif %}"
    "{{- '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close": "<|im_end|>", "content": "text"},
    },
}


def call_text(name: str, arguments: dict[str, str]) -> str:
    """Return a call as the chat template writes it."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def bash(command: str) -> str:
    """Return the call that runs a command."""
    return call_text("execute_bash", {"command": command})


SUBMIT = call_text("submit", {})


def tokenizer_of(texts: Iterable[str], calls: Sequence[str]) -> Any:
    """Return a tokenizer for these texts, and for calls of which each is one token."""
    splitter = pre_tokenizers.Split(Regex(r"\b[kv]\d+\b|\n"), behavior="isolated")
    roles = "user\nassistant\ntool\nsystem\n"
    pieces = {
        piece for text in (roles, *texts) for piece, _ in splitter.pre_tokenize_str(text) if piece
    }
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", *sorted(pieces)])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = splitter
    inner.decoder = decoders.Fuse()  # without one, tokens are joined by blanks
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        pad_token="<|pad|>",
        eos_token=END,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in calls])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.response_template = RESPONSE_TEMPLATE
    return tokenizer


def model_of(tokenizer: Any) -> Any:
    """Return a model of two layers with random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            attention_dropout=0.0,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Return what the model is given when it is to answer these messages."""
    rendered = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(rendered["input_ids"])


def parsed(tokenizer: Any, said: Sequence[int], prompt: Sequence[int]) -> dict[str, Any]:
    """Return the message that the model's tokens are."""
    answer: dict[str, Any] = tokenizer.parse_response(list(said), prefix=list(prompt))
    return answer
