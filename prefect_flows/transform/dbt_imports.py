"""Imports dbt in two thirds of the time. Call `import_dbt` before anything else imports dbt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mashumaro.config import BaseConfig
from mashumaro.core.meta.mixin import compile_mixin_packer, compile_mixin_unpacker
from mashumaro.mixins import dict as dict_mixin

from prefect_flows.transform.monkeypatch import patched

# What the generated functions depend on.
_OPTIONS = ("code_generation_options", "debug", "dialect", "lazy_compilation", "omit_none")


def import_dbt() -> None:
    """Import dbt, and let mashumaro generate less code for its dataclasses.

    dbt has 350 dataclasses, and mashumaro generates four functions for each while it is defined.
    Such a function replaces itself with the real one at its first call. Until then, the functions
    of all classes are equal, and all classes can share those of the first one.
    """
    with patched(BaseConfig, "lazy_compilation", True), _keep_log_handlers():
        from dbt_common.dataclass_schema import dbtMashConfig

        packer = share_functions(compile_mixin_packer, dbtMashConfig)
        unpacker = share_functions(compile_mixin_unpacker, dbtMashConfig)
        with (
            patched(dict_mixin, compile_mixin_packer.__name__, packer),
            patched(dict_mixin, compile_mixin_unpacker.__name__, unpacker),
        ):
            import dbt.cli.main  # noqa: F401


@contextmanager
def _keep_log_handlers() -> Iterator[None]:
    """Remove the log handlers that an import adds.

    The tracker that dbt imports configures the root logger. Prefect would take that for the user's
    own configuration, and not add its handler.
    """
    before = list(logging.root.handlers)
    try:
        yield
    finally:
        for handler in [each for each in logging.root.handlers if each not in before]:
            logging.root.removeHandler(handler)


def share_functions(compile_mixin: Callable[..., None], usual: type) -> Callable[..., None]:
    """Return mashumaro's function, changed so that it generates equal functions once.

    Args:
        compile_mixin: adds generated functions to a class.
        usual: the configuration of the classes that share functions; others may have no option
            that changes them.
    """
    generated: dict[str, dict[str, Any]] = {}

    def compile_or_share(cls: Any, format_name: str = "dict", **arguments: Any) -> None:
        config = getattr(cls, "Config", BaseConfig)
        if any(getattr(config, name, None) is not getattr(usual, name) for name in _OPTIONS):
            compile_mixin(cls, format_name, **arguments)
        elif format_name in generated:
            for name, function in generated[format_name].items():
                setattr(cls, name, function)
        else:
            before = dict(vars(cls))
            compile_mixin(cls, format_name, **arguments)
            generated[format_name] = {
                name: value for name, value in vars(cls).items() if before.get(name) is not value
            }

    return compile_or_share
