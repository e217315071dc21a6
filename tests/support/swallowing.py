"""The pipeline, in which a library swallows the first interrupt that comes in one of its functions.

python tests/support/swallowing.py MODULE:CLASS.FUNCTION PIPELINE.PY OPTIONS…

That function first says so on its standard output, and waits for the interrupt.
"""

from __future__ import annotations

import contextlib
import importlib
import runpy
import sys
import time
from typing import Any


def main() -> None:
    place = sys.argv[1]
    module, _, path = place.partition(":")
    owner_name, _, name = path.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    function = getattr(owner, name)

    def swallowing(*arguments: Any, **options: Any) -> Any:
        print("swallows the next interrupt", flush=True)  # noqa: T201
        with contextlib.suppress(BaseException):
            time.sleep(600)
        return function(*arguments, **options)

    setattr(owner, name, swallowing)
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")


main()
