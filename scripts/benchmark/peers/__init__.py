"""Other sandboxes to measure beside: one file and one line here each."""

from __future__ import annotations

from benchmark.peers import docker, kern, llm_in_sandbox, podman, swe_rex

PEERS = (docker.DOCKER, podman.PODMAN, llm_in_sandbox.LLM_IN_SANDBOX, swe_rex.SWE_REX, kern.KERN)
