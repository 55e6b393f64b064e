"""What the adapters of trainers need, and say where it lacks."""

from __future__ import annotations

import subprocess
import sys


def test_without_verl_its_adapter_says_so_and_ours_does_not_import_it() -> None:
    code = (
        "import sys\n"
        "sys.modules['verl'] = None\n"
        "import sandbox_lite.rl.env, sandbox_lite.rl.data, sandbox_lite.rl.recipes\n"
        "from sandbox_lite.errors import HostError\n"
        "try:\n    import sandbox_lite.adapters.verl\n"
        "except HostError as error:\n    print(error.hint)\n"
        "heavy = {'torch', 'trl', 'transformers', 'datasets', 'pyarrow', 'ray', 'rllm'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "pip install verl\n[]\n"
