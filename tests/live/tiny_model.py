"""Build a tiny chat model that calls tools, and teach it a few recorded conversations.

Usage: tiny_model.py RECORDED.json DIRECTORY, with a Python that has torch and transformers.
RECORDED.json holds `tools`, as a request sends them, and `conversations`, lists of messages.
Nothing is downloaded: the vocabulary is made of the words recorded, and a whole tool call is one
token of it. The model must then say every recorded call itself, or the script fails.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Message = dict[str, Any]

MAX_STEPS = 600
LEARNING_RATE = 3e-3
SURE = 0.99
"""Probability of the least likely token at which the teaching ends."""
IGNORED = -100
"""Label of a token that is not learned, as torch and transformers have it."""

# White space is written inside {{ }}: Jinja would eat the newline that ends the generation prompt,
# the anchor below would then be found in the previous turn, and its calls be returned again.
CHAT_TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>tools\n' }}"
    "{%- for tool in tools %}{{- tool | tojson + '\n' }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- endif %}"
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


def as_the_server(messages: list[Message]) -> list[Message]:
    """Return messages as `transformers serve` hands them to the template: arguments parsed."""
    parsed = json.loads(json.dumps(messages))
    for message in parsed:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return list(parsed)


def call_text(call: Message) -> str:
    """Return a call as the chat template writes it."""
    function = {key: call["function"][key] for key in ("name", "arguments")}
    return f"<tool_call>{json.dumps(function, ensure_ascii=False)}</tool_call>"


def build_tokenizer(tools: list[Message], conversations: list[list[Message]]) -> Any:
    """Return a tokenizer whose tokens are the words of the conversations, and whole calls."""
    splitter = pre_tokenizers.Split(Regex(r" ?\w+|\s|[^\w\s]+"), behavior="isolated")
    texts = ["\ntools\n", *(json.dumps(tool, ensure_ascii=False) + "\n" for tool in tools)]
    for messages in conversations:
        for message in messages:
            # all of it with newlines around, as a template may join it
            texts += [f"\n{message['role']}\n", str(message["content"])]
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    vocabulary = {word: number for number, word in enumerate(["<unk>", *sorted(words)])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = splitter
    inner.decoder = decoders.Fuse()  # without one, tokens are joined by blanks
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    calls = {call_text(c) for m in conversations for s in m for c in s.get("tool_calls", ())}
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False, special=False) for text in sorted(calls)]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.response_template = RESPONSE_TEMPLATE
    return tokenizer


def build_model(tokenizer: Any, length: int) -> Any:
    """Return a random model of two layers for conversations of that many tokens."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2 * length,
        tie_word_embeddings=True,
        initializer_range=0.06,  # small models: attention is else flat for hundreds of steps
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = False
    return model


def prompt_ids(tokenizer: Any, tools: list[Message], messages: list[Message]) -> list[int]:
    """Return what the server gives the model when it is to answer these messages."""
    answer = tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(answer["input_ids"])


def lesson(
    tokenizer: Any, tools: list[Message], messages: list[Message]
) -> tuple[list[int], list[int]]:
    """Return the tokens of a conversation, and of them what the assistant said as labels."""
    ids: list[int] = []
    labels: list[int] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = prompt_ids(tokenizer, tools, messages[:index])
        if prompt[: len(ids)] != ids:
            raise SystemExit("the chat template does not continue what it wrote before")
        said = "".join(call_text(call) for call in message["tool_calls"])
        answer = [*tokenizer.encode(said, add_special_tokens=False), tokenizer.eos_token_id]
        labels += [IGNORED] * (len(prompt) - len(ids)) + answer
        ids = prompt + answer
    return ids, labels


def packed(lessons: list[tuple[list[int], list[int]]]) -> tuple[Any, Any, Any, Any]:
    """Return all conversations as one row that holds their long common beginning once.

    Returns:
        Tokens, positions, what attends to what, and the label of each token's successor.
    """
    first = lessons[0][0]
    shared = min(
        next(
            (at for at, pair in enumerate(zip(ids, first, strict=False)) if pair[0] != pair[1]),
            len(ids),
        )
        for ids, _ in lessons[1:]
    )
    parts = [(0, first[:shared], lessons[0][1][:shared])]
    parts += [(shared, ids[shared:], labels[shared:]) for ids, labels in lessons]
    tokens = [token for _, ids, _ in parts for token in ids]
    places = [start + at for start, ids, _ in parts for at in range(len(ids))]
    successors = [label for _, _, labels in parts for label in [*labels[1:], IGNORED]]
    part = torch.tensor([number for number, (_, ids, _) in enumerate(parts) for _ in ids])
    position = torch.tensor(places)
    seen = (part[None] == 0) | (part[None] == part[:, None])
    seen &= position[None] <= position[:, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return torch.tensor([tokens]), position[None], mask[None, None], torch.tensor(successors)


def teach(model: Any, lessons: list[tuple[list[int], list[int]]]) -> tuple[int, float]:
    """Take supervised steps until every token of the assistant is nearly sure.

    Returns:
        Steps, and the probability of the least likely token.
    """
    ids, positions, mask, labels = packed(lessons)
    chosen = torch.nonzero(labels != IGNORED)[:, 0]
    wanted = labels[chosen]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0
    )
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    model.train()
    least = 0.0
    for step in range(MAX_STEPS):
        hidden = model.model(
            input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[0, chosen])  # of the few tokens that are learned
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        least = float(logits.detach().softmax(-1).gather(1, wanted[:, None]).min())
        if least >= SURE:
            return step, least
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()
    raise SystemExit(f"not learned in {MAX_STEPS} steps: the least sure token has {least:.3f}")


def examine(
    tokenizer: Any, model: Any, tools: list[Message], conversations: list[list[Message]]
) -> int:
    """Let the model answer each turn itself, parse it as the server does; return the turns."""
    model.eval()
    turns = 0
    for messages in conversations:
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = prompt_ids(tokenizer, tools, messages[:index])
            given = torch.tensor([prompt])
            answer = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=8)[
                0, len(prompt) :
            ]
            parsed = tokenizer.parse_response(answer.tolist(), prefix=prompt, tools=tools)
            said = [call["function"] for call in parsed.get("tool_calls", ())]
            wanted = [
                {key: call["function"][key] for key in ("name", "arguments")}
                for call in message["tool_calls"]
            ]
            if said != wanted:
                raise SystemExit(f"the model says {said} and should say {wanted}")
            turns += 1
    return turns


def main(recorded: str, directory: str) -> None:
    """Build, teach, examine and save."""
    began = time.monotonic()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # two wait for each other where others work too
    data = json.loads(Path(recorded).read_text(encoding="utf-8"))
    tools = data["tools"]
    conversations = [as_the_server(messages) for messages in data["conversations"]]
    tokenizer = build_tokenizer(tools, conversations)
    lessons = [lesson(tokenizer, tools, messages) for messages in conversations]
    length = max(len(ids) for ids, _ in lessons)
    model = build_model(tokenizer, length)
    # first their ends alone: among a thousand tokens the one that matters is found too late
    ends = [[lesson(tokenizer, [], said[start:]) for said in conversations] for start in (3, 1)]
    taught = [teach(model, stage) for stage in (*ends, lessons)]
    turns = examine(tokenizer, model, tools, conversations)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    sys.stdout.write(
        f"{model.num_parameters()} parameters, {len(tokenizer)} tokens, {len(lessons)} "
        f"conversations of {length} tokens, {'+'.join(str(steps) for steps, _ in taught)} steps, "
        f"least sure {taught[-1][1]:.3f}, "
        f"{turns} turns said right, {time.monotonic() - began:.1f} s\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
