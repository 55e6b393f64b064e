"""`bench`: the same problems for a model alone and for one with a computer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sandbox_lite import config
from sandbox_lite.cli.execute import (
    Allow,
    AllowPrivate,
    Cpus,
    Disk,
    Memory,
    Network,
    Pids,
    Rootfs,
)
from sandbox_lite.cli.run import BaseUrl, Model
from sandbox_lite.errors import SpecError


class _RunByDefault(TyperGroup):
    """What begins with no command's name is a run: `bench math` is `bench run math`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Does a computer make a model better? bench TASK... tries it both ways.",
)

Data = Annotated[
    Path | None, typer.Option("--data", metavar="FILE", help="Rows of your own: JSONL, Parquet.")
]
Scorer = Annotated[
    str, typer.Option(metavar="KIND", help="default, or paper: the published quirks.")
]
JudgeModel = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who judges where a task needs it.")
]
JudgeBaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Its server; else that of the model.")
]
JudgeRepeats = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Judgements of one answer.")
]
FailUnder = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        min=0,
        max=1,
        help="Exit 1 below this mean score, of mode sandbox where it was tried.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print results.json.")]


@app.command("run")
def run(
    tasks: Annotated[
        list[str], typer.Argument(metavar="TASK...", help="math, physics, ...; or module:NAME.")
    ],
    mode: Annotated[str, typer.Option(metavar="MODE", help="sandbox, plain or both.")] = "both",
    data: Data = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most so many problems of a task.")
    ] = None,
    ids: Annotated[
        str | None, typer.Option(metavar="ID,ID", help="These problems, with commas between.")
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", metavar="", help="In an order drawn from the seed.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of every random draw.")] = 0,
    repeats: Annotated[
        int, typer.Option(metavar="K", min=1, help="Tries of each problem in each mode.")
    ] = 1,
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Episodes at once, of a node; else by the machine."),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="WHERE", help="local, or ray: on every node of a cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Of the cluster; else RAY_ADDRESS, else its own."),
    ] = None,
    retries: Annotated[
        int, typer.Option(metavar="N", min=0, help="Further tries after a fault of server or host.")
    ] = 2,
    scorer: Scorer = "default",
    prompts: Annotated[
        str, typer.Option(metavar="WHICH", help="ours, paper, or a directory.")
    ] = "ours",
    context: Annotated[
        str | None, typer.Option(metavar="WHERE", help="Documents: files (default) or prompt.")
    ] = None,
    judge_model: JudgeModel = None,
    judge_base_url: JudgeBaseUrl = None,
    judge_repeats: JudgeRepeats = None,
    max_tokens_total: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Begin nothing after so many tokens.")
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What a million tokens cost: TOML, JSON."),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(metavar="X", min=0, help="Begin nothing after so much, by --prices."),
    ] = None,
    fail_under: FailUnder = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Results; a second start does the rest.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", metavar="", help="Data from the cache alone.")
    ] = False,
    no_network: Annotated[
        bool, typer.Option("--no-network", metavar="", help="Sandboxes reach nothing.")
    ] = False,
    no_exec: Annotated[
        bool,
        typer.Option("--no-exec", metavar="", help="No program runs: the editor and submit alone."),
    ] = False,
    no_files: Annotated[
        bool,
        typer.Option("--no-files", metavar="", help="The answer is all that can be written."),
    ] = False,
    model: Model = None,
    base_url: BaseUrl = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable that holds the API key.")
    ] = None,
    rootfs: Rootfs = None,
    network: Network = None,
    allow: Allow = None,
    allow_private: AllowPrivate = None,
    memory: Memory = None,
    cpus: Cpus = None,
    pids: Pids = None,
    disk: Disk = None,
    max_steps: Annotated[
        str | None, typer.Option(metavar="N", help="Messages of one episode.")
    ] = None,
    max_tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens of one episode.")
    ] = None,
    max_seconds: Annotated[
        str | None, typer.Option(metavar="S", help="Seconds of one episode.")
    ] = None,
    completion_tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens of one answer of the model.")
    ] = None,
    temperature: Annotated[
        str | None, typer.Option(metavar="T", help="Else the server decides.")
    ] = None,
    extra_body: Annotated[
        str | None, typer.Option(metavar="JSON", help="Further members of every request.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="S", help="Seconds for one command inside.")
    ] = None,
    model_timeout: Annotated[
        str | None, typer.Option(metavar="S", help="Seconds for one request to the server.")
    ] = None,
    model_retries: Annotated[
        str | None, typer.Option(metavar="N", help="Further tries of a failed request.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Try problems with a model alone, with a model in a sandbox, or both, and compare.

    Every finished episode is a line of episodes.jsonl in --out; a second start with the same
    request does the rest. Exit codes: 0 done, 1 more than 5 % of the episodes ended in faults of
    the server or the machine, or the score is below --fail-under, 2 a wrong request, 125 a fault
    of ours, 130 Ctrl-C. Sandboxes reach every public host (network web), unless told otherwise.
    --no-network, --no-files and --no-exec take something away, each by the kernel; --no-files puts
    documents into the prompt.

    \b
    Examples:
      sandbox-lite bench math chem --model NAME --out results
      sandbox-lite bench math --mode plain --limit 10 --repeats 4 --model NAME
      sandbox-lite bench context --data rows.jsonl --context prompt --model NAME
      sandbox-lite bench regrade results --scorer paper
    """
    # all that follows is slow to import, and --help needs none of it
    from sandbox_lite.bench.plan import Selection
    from sandbox_lite.cli import bench_words, benching

    if no_network and network not in (None, "none"):
        raise SpecError("--no-network and --network contradict each other", hint="name one of them")
    if no_files and context not in (None, "prompt"):
        raise SpecError(
            "--no-files leaves documents no place but the prompt", hint="drop --context files"
        )
    named = {
        "model": model, "base_url": base_url, "api_key_env": api_key_env, "rootfs": rootfs,
        "network": "none" if no_network else network, "allow": allow,
        "allow_private": allow_private, "memory": memory, "cpus": cpus, "pids": pids,
        "disk": disk, "max_steps": max_steps, "max_tokens": max_tokens,
        "max_seconds": max_seconds, "completion_tokens": completion_tokens,
        "temperature": temperature, "extra_body": extra_body, "timeout": timeout,
        "model_timeout": model_timeout, "model_retries": model_retries,
    }  # fmt: skip
    settings = config.load(named)
    request = benching.Request(
        tasks=tuple(tasks),
        modes=bench_words.modes(mode),
        settings=settings,
        selection=Selection(ids=_words(ids), limit=limit, shuffle=shuffle, seed=seed),
        data=data,
        offline=offline,
        repeats=repeats,
        concurrency=concurrency,
        retries=retries,
        prompts=bench_words.prompts(prompts),
        documents=bench_words.documents(context or ("prompt" if no_files else "files")),
        files=not no_files,
        programs=not no_exec,
        judging=benching.Judging(
            scorer=bench_words.scorer(scorer),
            model=judge_model,
            base_url=judge_base_url,
            repeats=judge_repeats,
        ),
        max_tokens_total=max_tokens_total,
        prices=prices,
        max_cost=max_cost,
        fail_under=fail_under,
        out=out,
        engine=engine,
        ray_address=ray_address,
    )
    return benching.perform(request, as_json=as_json)


@app.command("regrade")
def regrade(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of a bench.")],
    scorer: Scorer = "default",
    data: Data = None,
    judge_model: JudgeModel = None,
    judge_base_url: JudgeBaseUrl = None,
    judge_repeats: JudgeRepeats = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Else below DIR/regraded.")
    ] = None,
    fail_under: FailUnder = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of every random draw.")] = 0,
    as_json: AsJson = False,
) -> int:
    """Score the answers of a bench again, with another scorer or judge; no model tries anything.

    The directory stays as it is; the new scores stand in one of their own.

    \b
    Examples:
      sandbox-lite bench regrade results --scorer paper
      sandbox-lite bench regrade results --judge-model NAME --judge-base-url URL
    """
    from sandbox_lite.cli import bench_words, benching

    return benching.regraded(
        directory,
        benching.Judging(
            scorer=bench_words.scorer(scorer),
            model=judge_model,
            base_url=judge_base_url,
            repeats=judge_repeats,
        ),
        settings=config.load(),
        data=data,
        out=out,
        fail_under=fail_under,
        seed=seed,
        as_json=as_json,
    )


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(one.strip() for one in (text or "").split(",") if one.strip())
