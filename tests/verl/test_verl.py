"""The agent loop on verl's real classes, over real sandboxes; only the policy is a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import hydra
import pytest
from omegaconf import OmegaConf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from verl.experimental.agent_loop import agent_loop as loops
from verl.workers.rollout.replica import TokenOutput

from sandbox_lite import Limits, SandboxSpec
from sandbox_lite.adapters import verl as ours
from sandbox_lite.agent.episode import AgentLimits
from sandbox_lite.bench import prompt, tasks
from sandbox_lite.bench.data import DataOrigin, Rows, fields_of, row_of
from sandbox_lite.bench.grading import Grading
from sandbox_lite.errors import LaunchError
from sandbox_lite.rl import data as training
from sandbox_lite.rl.env import Cold, EnvSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sandbox_lite.jail.sandbox import Sandbox
    from sandbox_lite.rl.env import Start

pytestmark = pytest.mark.timeout(120)

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROW = {
    "id": "1",
    "problem_statement": "What does k3.txt say?",
    "ground_truth": "zebra",
    "domain": "instruct_pretrain",
    "input_files": {"k3.txt": "zebra\n"},
    "qa_type": "free-form",
}
COPY = "cp documents/k3.txt output/answer.txt"


def says(name: str, **arguments: Any) -> str:
    call = json.dumps({"name": name, "arguments": arguments})
    return f"ok<tool_call>{call}</tool_call><|im_end|>"


RUN = says("execute_bash", command=f"cat documents/k3.txt; {COPY}")
SUBMIT = says("submit")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={one: n for n, one in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.chat_template = TEMPLATE
    return made


class Server:
    """Says what a script holds, as verl's client of a server would."""

    def __init__(self, tokenizer: Any, script: Sequence[str], *, logprobs: bool = True) -> None:
        self.tokenizer = tokenizer
        self.script = list(script)
        self.logprobs = logprobs
        self.prompts: list[list[int]] = []
        self.requests: set[str] = set()

    async def generate(
        self, *, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> TokenOutput:
        self.prompts.append(list(prompt_ids))
        self.requests.add(request_id)
        assert sampling_params["temperature"] == 1.0
        ids = self.tokenizer.encode(self.script.pop(0), add_special_tokens=False)
        known = [-0.5] * len(ids) if self.logprobs else None
        return TokenOutput(
            token_ids=ids, log_probs=known, num_preempted=0,
            extra_fields={"min_global_steps": 1, "max_global_steps": 9 - len(self.script)},
        )  # fmt: skip


@pytest.fixture(scope="module")
def grading() -> Iterator[Grading]:
    with Grading(timeout=15) as found:
        yield found


@pytest.fixture
def run(
    home: Path, grading: Grading, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Run one rollout as verl's worker does: the loop is made anew, by hydra, by its name."""

    def once(server: Server, *, source: Any = None, length: int = 8000, steps: int = 10) -> Any:
        settings = EnvSettings(
            task=tasks.find("context"),
            prompts=prompt.load("context"),
            sandbox=SandboxSpec(rootfs="minimal", limits=Limits.of(timeout=15)),
            grading=grading,
            limits=AgentLimits(steps=steps, seconds=60),
        )
        monkeypatch.setattr(ours.SandboxAgentLoop, "settings", settings)
        monkeypatch.setattr(ours.SandboxAgentLoop, "source", source)
        config = OmegaConf.create(
            {
                "actor_rollout_ref": {
                    "rollout": {
                        "prompt_length": 16000,
                        "response_length": length,
                        "multi_turn": {"format": "hermes"},
                    }
                },
                "data": {},
            }
        )
        row = row_of(ROW, "context", "row")
        system, user = settings.prompts.sandbox.render(row.problem_statement)
        raw = [{"role": "system", "content": system}, {"role": "user", "content": user}]

        async def made() -> Any:
            loop = hydra.utils.instantiate(
                config=loops._agent_loop_registry["sandbox_lite"],
                trainer_config=loops.DictConfigWrap(config=config),
                server_manager=server,
                tokenizer=tokenizer,
                processor=None,
                hf_model_type="llama",
                dataset_cls=None,
                data_config=loops.DictConfigWrap(config.data),
                tools=loops.ToolListWrap([]),
            )
            assert isinstance(loop, loops.AgentLoopBase)
            extra = {**ROW, "baseline": "none", "split": "train", "index": 0}
            return await loop.run({"temperature": 1.0}, raw_prompt=raw, extra_info=extra)

        return asyncio.run(made())

    return once


def test_tokens_mask_and_reward(run: Any, tokenizer: Any) -> None:
    server = Server(tokenizer, [RUN, SUBMIT])
    output = run(server)
    assert isinstance(output, loops.AgentLoopOutput)
    assert output.reward_score == 1.0
    marked = list(zip(output.response_ids, output.response_mask, strict=True))
    own = [token for token, kept in marked if kept]
    assert tokenizer.decode(own) == RUN + SUBMIT
    theirs = [token for token, kept in marked if not kept]
    told = tokenizer.decode(theirs)
    assert "<|im_start|>tool\n" in told
    assert "zebra" in told
    assert told.endswith("<|im_start|>assistant\n")
    # what the server saw of each turn is a prefix of what is trained on: nothing is tokenized anew
    whole = output.prompt_ids + output.response_ids
    assert [whole[: len(seen)] for seen in server.prompts] == server.prompts
    assert server.prompts[0] == output.prompt_ids
    assert "zebra" not in tokenizer.decode(output.prompt_ids)
    assert "k3.txt" in tokenizer.decode(output.prompt_ids)
    logprobs = [-0.5 if kept else 0.0 for kept in output.response_mask]
    assert output.response_logprobs == logprobs
    assert len(server.requests) == 1
    assert output.num_turns == 4
    assert output.metrics.tool_calls > 0
    assert output.metrics.num_preempted == 0
    assert output.extra_fields["max_global_steps"] == 9
    assert output.extra_fields["reward_extra_info"] == {
        "score": 1.0, "masked": 0.0, "overlong": 0.0,
    }  # fmt: skip
    batch = output.as_dict()
    assert batch["rm_scores"][-1] == 1.0
    assert batch["rm_scores"].sum() == 1.0


def test_a_wrong_answer_and_none(run: Any, tokenizer: Any) -> None:
    wrong = says("execute_bash", command="echo gnu > output/answer.txt")
    assert run(Server(tokenizer, [wrong, SUBMIT], logprobs=False)).reward_score == 0.0
    output = run(Server(tokenizer, [SUBMIT]))
    assert (output.reward_score, set(output.response_mask)) == (0.0, {1})
    assert output.extra_fields["stop"] == "submitted"


def test_a_policy_that_calls_nothing_goes_on(run: Any, tokenizer: Any) -> None:
    output = run(Server(tokenizer, ["I think.<|im_end|>", RUN, SUBMIT]))
    assert output.reward_score == 1.0
    assert "<|im_start|>user\n" in tokenizer.decode(output.response_ids)


def test_too_long_a_response_is_cut_and_rewarded_zero(run: Any, tokenizer: Any) -> None:
    output = run(Server(tokenizer, [RUN, "x" * 3000]), length=1500)
    assert len(output.response_ids) == len(output.response_mask) == 1500
    assert len(output.response_logprobs) == 1500
    assert output.reward_score == 0.0
    assert output.extra_fields["reward_extra_info"] == {
        "score": 1.0, "masked": 0.0, "overlong": 1.0,
    }  # fmt: skip
    # what the environment said does not fit any more
    output = run(Server(tokenizer, [RUN]), length=len(RUN.encode()) + 5)
    assert set(output.response_mask) == {1}
    assert output.reward_score == 0.0


def test_too_many_turns_are_rewarded_zero(run: Any, tokenizer: Any) -> None:
    output = run(Server(tokenizer, [RUN, RUN, RUN]), steps=2)
    assert (output.reward_score, output.extra_fields["stop"]) == (0.0, "step_limit")


class Failing:
    """The first sandboxes cannot be had."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    @contextlib.contextmanager
    def take(self, start: Start) -> Iterator[Sandbox]:
        if self.left:
            self.left -= 1
            raise LaunchError("no luck")
        with Cold().take(start) as sandbox:
            yield sandbox


def test_a_machine_that_fails_is_tried_again_and_then_masked(run: Any, tokenizer: Any) -> None:
    source = Failing(2)
    assert run(Server(tokenizer, [RUN, SUBMIT]), source=source).reward_score == 1.0
    assert source.left == 0
    output = run(Server(tokenizer, []), source=Failing(99))
    assert set(output.response_mask) == {0}
    assert output.reward_score == 0.0
    assert output.extra_fields["reward_extra_info"]["masked"] == 1.0


def test_the_baseline_without_a_computer_is_graded_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grading: Grading
) -> None:
    rows = Rows(rows=(row_of(ROW, "context", "row"),), origin=DataOrigin(name="test"))
    settings = training.DataSettings(baseline="text-only", forms=("verl",), validation=0)
    made = training.write(rows, tmp_path / "rows", settings)
    (record,) = fields_of(made.folder / "verl-train.parquet")
    assert record["agent_name"] == "single_turn_agent"
    assert "zebra" in record["prompt"][-1]["content"]
    truth = record["reward_model"]["ground_truth"]
    try:
        for said, reward in (("zebra", 1.0), ("gnu", 0.0), ("", 0.0)):
            found = ours.compute_score(record["data_source"], said, truth, record["extra_info"])
            assert found == reward
    finally:
        ours._settings().grading.close()
        ours._settings.cache_clear()
