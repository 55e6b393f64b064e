"""The paper's own package, `llm-in-sandbox`, on a sandbox of ours in the place of its Docker.

```python
from sandbox_lite.adapters import llm_in_sandbox

llm_in_sandbox.install()  # from here on the package makes sandboxes, and asks no Docker daemon
```

`python -m sandbox_lite.adapters.llm_in_sandbox benchmark --task demo ...` is the package's own
command line after that one line. Nothing here needs the package, or any openai, to be imported.
"""

from __future__ import annotations

from sandbox_lite.adapters.llm_in_sandbox.choice import Choice
from sandbox_lite.adapters.llm_in_sandbox.replacing import install
from sandbox_lite.adapters.llm_in_sandbox.runtime import DockerRuntime

__all__ = ["Choice", "DockerRuntime", "install"]
