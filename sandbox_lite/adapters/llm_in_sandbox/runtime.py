"""The runtime of the package `llm-in-sandbox` 0.2.0, on a sandbox: same calls, same answers.

What a command of the model does is an answer, as there. What goes wrong with the sandbox itself is
an exception here, where the package turns it into the text of an answer.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sandbox_lite.adapters.llm_in_sandbox import answers, copying
from sandbox_lite.adapters.llm_in_sandbox.choice import VARIABLES, Choice
from sandbox_lite.errors import FileAccessError, SandboxClosedError, SandboxLiteError
from sandbox_lite.jail.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_lite.jail.transfer import TransferReport
    from sandbox_lite.spec import CommandResult

COMMAND_SECONDS = 120
IDLE = "sleep infinity"
"""The main process that only keeps a container alive; a sandbox needs none."""

_SETUP = """
mkdir -p -- "$1/input" "$1/output" && cd -- "$1" || exit
if command -v git >/dev/null; then git init >/dev/null 2>&1 || true; fi
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What stands for docker-py's container."""

    name: str
    id: str
    sandbox: Sandbox

    @property
    def short_id(self) -> str:
        """The first twelve digits of the id."""
        return self.id[:12]

    @property
    def status(self) -> Literal["running", "exited"]:
        """Whether it is alive, in docker's words."""
        return "running" if self.sandbox.alive else "exited"


class DockerRuntime:
    """A drop-in for the package's class of this name, without Docker.

    Each command is a bash of its own, in `repo_path`: nothing but files and background processes
    carries over. Nobody but the caller closes it; it ends with this process at the latest.

    What differs from the package, on purpose: a command that outlives SIGTERM at its time-out is
    killed; a call is over with its command, where Docker waits two seconds for background jobs;
    paths may have spaces; `copy_from_container` copies a single file too; a link that leaves the
    copied tree is left out; output beyond `choice.OUTPUT_BYTES` is cut in the middle; a time-out
    that is none raises; and pip is not sent to a mirror.
    """

    choice: ClassVar[Choice] = Choice()
    """What sandbox it makes; `install` sets it."""
    faults: ClassVar[list[SandboxLiteError]] = []
    """Faults of sandboxes, also those that a caller has swallowed; see `install`."""

    client: ClassVar[None] = None
    """There is no Docker."""

    def __init__(
        self,
        docker_image: str,
        repo_path: str = "/testbed",
        command: str = IDLE,
        logger: logging.Logger | Literal[False] | None = None,
        **docker_kwargs: object,
    ) -> None:
        """Start a sandbox and prepare its directories, as the package does.

        Args:
            docker_image: A name that `choice` maps to a rootfs.
            repo_path: Where commands run; `input` and `output` are made below it.
            command: What else to start; its end does not end the sandbox.
            logger: False logs warnings and errors only; None is a logger of the class's name.
            docker_kwargs: Options of docker-py's `containers.run` that a sandbox knows.

        Raises:
            SpecError: An option has no counterpart here.
            HostError: This machine cannot make the sandbox; the hint names the remedy.
            RootfsError: There is no such rootfs.
            LaunchError: The jail did not start.
        """
        self.docker_image = docker_image
        self.repo_path = repo_path
        self.command = command
        self.docker_kwargs = docker_kwargs
        if logger is None:
            self.logger = logging.getLogger("DockerRuntime")
        elif logger is False:
            self.logger = logging.getLogger("DockerRuntime.quiet")
            self.logger.setLevel(logging.WARNING)
        else:
            self.logger = logger
        self.container: Container | None = None
        self.container_name = self._get_container_name(docker_image)
        self.start_container(docker_image, command, self.container_name, **docker_kwargs)
        try:
            self.setup_env()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _get_container_name(image_name: str) -> str:
        """Return a fresh name in the package's form."""
        return f"{image_name.replace('/', '-').replace(':', '-')}-{secrets.token_hex(5)}"

    def start_container(
        self, docker_image: str, command: str, container_name: str, **docker_kwargs: object
    ) -> None:
        """Start a sandbox, if there is none of that name that is alive.

        Raises:
            SandboxLiteError: See the class.
        """
        current = self.container
        if current is not None:
            if current.name == container_name and current.status == "running":
                self.logger.info("Found existing sandbox: %s", container_name)
                return
            self.close()
        with self._faults():
            spec = self.choice.spec(docker_image, self.repo_path, docker_kwargs)
            sandbox = Sandbox(spec).open()
        self.container = Container(
            name=container_name, id=secrets.token_hex(32), sandbox=sandbox
        )  # fmt: skip
        self.logger.info("Started sandbox %s on rootfs %s", container_name, spec.rootfs)
        if command != IDLE:
            self._start_main(sandbox, command)

    def _start_main(self, sandbox: Sandbox, command: str) -> None:
        line = 'exec 0<&- >/dev/null 2>&1; setsid "$@" </dev/null &'
        words = ["bash", "-c", line, "bash", *shlex.split(command)]
        with self._faults():
            sandbox.exec(words, env=VARIABLES, timeout=COMMAND_SECONDS)

    def setup_env(self) -> None:
        """Make the working directory with `input` and `output`, and a git repository if it can.

        Raises:
            CommandFailedError: They cannot be made.
        """
        with self._faults():
            self._sandbox().exec(
                ["bash", "-c", _SETUP, "bash", self.repo_path],
                env=VARIABLES, cwd="/", timeout=COMMAND_SECONDS,
            ).check()  # fmt: skip

    def run(
        self, code: str, timeout: float | str = COMMAND_SECONDS, workdir: str | None = None
    ) -> tuple[str, str]:
        """Run a command.

        Args:
            code: What bash reads.
            timeout: Seconds, or an interval of timeout(1); 0 is no bound.
            workdir: `repo_path` by default.

        Returns:
            Its output, both streams as they came, and `"0"`, `"Error: Exit code N"`, or `"-1"` at
            the time-out, with a text that says so in the output's place.

        Raises:
            SandboxClosedError: The sandbox is closed, or was killed.
            SpecError: The time-out is none.
        """
        result = self._executed(code, timeout, workdir)
        if isinstance(result, str):
            return result, answers.REFUSED
        if answers.is_late(result):
            return answers.late(timeout), "-1"
        return answers.plain(result.output), answers.ended(result)

    def demux_run(
        self, code: str, timeout: float | str = COMMAND_SECONDS, workdir: str | None = None
    ) -> tuple[str, str, str]:
        """Run a command; see `run`.

        Returns:
            Standard output, standard error and the third as the second of `run`; at the time-out
            the text that says so, and an empty one.

        Raises:
            SandboxClosedError: The sandbox is closed, or was killed.
            SpecError: The time-out is none.
        """
        result = self._executed(code, timeout, workdir)
        if isinstance(result, str):
            return "", result, answers.REFUSED
        if answers.is_late(result):
            return answers.late(timeout), "", "-1"
        return answers.plain(result.stdout), answers.plain(result.stderr), answers.ended(result)

    def _executed(
        self, code: str, timeout: float | str, workdir: str | None
    ) -> CommandResult | str:
        """Return what happened, or what the kernel has against the text itself."""
        text = code or ""
        if not isinstance(text, str):
            # whoever calls the package so gets the same
            raise TypeError(f"a command is a str, not {type(text).__name__}")
        seconds = answers.seconds(timeout)
        with self._faults():
            sandbox = self._sandbox()
            problem = answers.refused(text)
            if problem is not None:
                return problem
            argv: list[str | bytes] = ["bash", "-c", answers.encoded(text)]
            result = sandbox.exec(argv, env=VARIABLES, cwd=workdir or None, timeout=seconds)
        return answers.refused(text, result) or result

    def copy_to_container(self, src_path: str, dest_path: str) -> None:
        """Copy a file, or a directory, to a path inside.

        What is there is replaced, but that directories are merged. With a slash at its end the
        path is the directory for it. Relative paths start at `/`.

        Raises:
            FileAccessError: Something cannot be read or written.
            SandboxClosedError: The sandbox is closed, or was killed.
        """
        with self._logged("copying file to container"), self._faults():
            self._note(copying.into(self._sandbox().files, src_path, dest_path), src_path)
            self.logger.info("Copied %s to %s", src_path, dest_path)

    def copy_dir_to_container(self, src_dir: str, dest_dir: str) -> None:
        """Copy what is in a directory into one inside, which is made where it lacks.

        Raises:
            FileAccessError: Something cannot be read or written.
            SandboxClosedError: The sandbox is closed, or was killed.
        """
        with self._logged("copying directory to container"), self._faults():
            self._note(copying.content(self._sandbox().files, src_dir, dest_dir), src_dir)
            self.logger.info("Copied directory %s to %s", src_dir, dest_dir)

    def copy_from_container(self, container_path: str, local_path: str) -> None:
        """Copy what is in a directory inside, or a file, into a directory of the host.

        Of a path that is a link itself nothing is copied, unless a slash ends it.

        Raises:
            FileAccessError: There is nothing, or something cannot be read or written.
            SandboxClosedError: The sandbox is closed, or was killed.
        """
        with self._logged("copying from container"), self._faults():
            report = copying.out(self._sandbox().files, container_path, local_path)
            self._note(report, container_path)
            self.logger.info("Copied %s from container to %s", container_path, local_path)

    def get_task_instruction(self, problem_statement: str) -> str:
        """Return the problem as it is."""
        return problem_statement

    def close(self) -> None:
        """End the sandbox and drop its files; a second call does nothing."""
        container, self.container = self.container, None
        if container is None:
            return
        try:
            container.sandbox.close()
            self.logger.info("Sandbox %s closed", container.name)
        except (SandboxLiteError, OSError) as error:
            # called in `finally` blocks, where it must not hide what happened before
            self.logger.warning("Error closing the sandbox: %s", error)

    def _sandbox(self) -> Sandbox:
        if self.container is None:
            raise SandboxClosedError(
                "the runtime is closed", hint="start_container starts a fresh sandbox"
            )
        if self.container.status != "running":
            # its files can be reached still, and would look as if all were well
            raise SandboxClosedError(
                "the sandbox has ended: somebody, or the kernel for want of memory, killed it",
                hint="start_container starts a fresh sandbox",
            )
        return self.container.sandbox

    def _note(self, report: TransferReport, what: str) -> None:
        for one in report.skipped:
            self.logger.warning("Not copied of %s: %s: %s", what, one.path, one.reason)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Remember a fault of the sandbox: the package swallows some exceptions."""
        try:
            yield
        except FileAccessError:
            raise
        except SandboxLiteError as error:
            self.faults.append(error)
            raise

    @contextlib.contextmanager
    def _logged(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (SandboxLiteError, OSError) as error:
            self.logger.error("Error %s: %s", doing, error)
            raise
