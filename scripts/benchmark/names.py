"""The names of what is measured: those that a bar, a ratio or the plot refers to."""

from __future__ import annotations

BASH = "plain bash, one echo"
BWRAP = "plain bwrap, one echo"
REFERENCE_COLD = "reference: start to first output"
REFERENCE_COMMAND = "reference: one more command"
REFERENCE_CLOSE = "reference: close"

COLD = "cold start to first output"
UNLIMITED = "the same without limits"
WARM = "warm start to first output"
SMALL_HOST = "start from a small process"
LARGE_HOST = "start from 2 GB and 100 threads"
MANY_MOUNTS = "start among 1,000 host mounts"
CLOSE = "close"

BUILTIN = "round trip of a builtin"
EXTERNAL = "round trip of an external command"
EXEC = "program beside the shell"
AFTER_EXIT = "after exit: a fresh shell with its state"
LONG_COMMAND = "command of 100 KB"
FILE_READ = "file of 4 KB, read"
FILE_WRITE = "file of 4 KB, written"

OUTPUT_100_MB = "output of 100 MB"
OUTPUT_1_GB = "output of 1 GB"
OUTPUT_MEMORY = "output of 1 GB: host memory at its peak"
OUTPUT_LEFT = "output of 1 GB: host memory afterwards"

SNAPSHOT_CLEAN = "snapshot, clean"
SNAPSHOT_DIRTY = "snapshot, dirty (200 files, 20 MB)"
COPY = "cp -a of the same files"
MANY_COLD = "start of 64, kept, each"
FORK_FIRST = "fork of 64 at depth 1, each"
FORK_16 = "fork of 64 at depth 16, each"
FORK_64 = "fork of 64 at depth 64, each"
ROLLBACK = "rollback"

RATE = "created, used, closed by {} at once"
REFERENCE_RATE = "reference: created, used, closed by {} at once"
BEST_RATE = "created, used, closed: the best of these"
REFERENCE_BEST_RATE = "reference: the best of these"

IDLE_MEMORY = "memory of an idle sandbox, all told"
ALIVE_TRIP = "round trip, all of them alive"
ASYNC_RATE = "builtins over 64 AsyncSandboxes, one thread"

EPISODE_RATE = "episodes of five steps, graded and written down"

TRAINING = "rl demo: rollouts in sandboxes"
TRAINING_STUB = "rl demo: rollouts in the stub"
TRAINING_CPU = "rl demo: cpu of a rollout beyond the stub's"
TRAINING_CPU_LEAST = "cpu of one sandbox and its commands"
MULTI_TURN = "rl demo --multi-turn: rollouts in sandboxes"
MULTI_TURN_STUB = "rl demo --multi-turn: rollouts in the stub"

PEER_COLD = "{}: start to first output"
PEER_COMMAND = "{}: one more command"
PEER_CLOSE = "{}: close"
PEER_MEMORY = "{}: memory of an idle one"
