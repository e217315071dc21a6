"""Keep the analyzer's WebAssembly compiled, once for each user of a machine.

Compiling takes half a minute of CPU time. What was compiled is machine code that later processes
run, so it is only taken from a folder and a file that belong to this user alone.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import platformdirs
from filelock import FileLock
from wasmtime import Engine, Module, WasmtimeError

from infrastructure.local.files import warn
from prefect_flows.core.files import write_file

SUFFIX = ".cwasm"
# Files of other versions are removed if nothing has read them for so long.
KEEP_SECONDS = 30 * 86_400


def get_cache_folder() -> Path:
    """Return the folder of this user: `~/.cache/millrace/analyzer`, or as XDG_CACHE_HOME says."""
    return platformdirs.user_cache_path("millrace") / "analyzer"


def load_module(engine: Engine, wasm: Path, folder: Path) -> Module:
    """Load what was compiled before, or compile and keep it.

    If the folder cannot be used, a warning says why, and nothing is kept.

    Args:
        engine: runs the module.
        wasm: the WebAssembly.
        folder: where compiled modules are kept.
    """
    module = None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_own(folder.stat()):
            raise PermissionError("other users own the folder, or may enter it")
        with FileLock(folder / "lock"):
            module = _read(engine, folder)
            if module is None:
                module = Module.from_file(engine, wasm)
                _write(folder, bytes(module.serialize()))
    except OSError as error:
        warn(
            f"The compiled SQL analyzer is not kept, so that each check compiles it: {error}.\n"
            f"  where: {folder}\n"
            f"  fix: chmod 700 {folder}; if it is not yours, name another one: XDG_CACHE_HOME"
        )
    return Module.from_file(engine, wasm) if module is None else module


def _is_own(found: os.stat_result) -> bool:
    """Return whether this user alone has access. On Windows, the cache folder of a user is so."""
    return os.name == "nt" or (found.st_uid == os.geteuid() and not found.st_mode & 0o077)


def _read(engine: Engine, folder: Path) -> Module | None:
    """Load the kept module; remove it if it is damaged, not ours, or for another processor."""
    for file in folder.glob(_get_name("*")):
        with file.open("rb") as stream:
            is_own = _is_own(os.fstat(stream.fileno()))
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if is_own and file.name == _get_name(digest):
            try:
                module = Module.deserialize_file(engine, str(file))
            except WasmtimeError as error:
                warn(f"The SQL analyzer is compiled again: {error}\n  where: {file}")
            else:
                os.utime(file)
                return module
        file.unlink()
    return None


def _write(folder: Path, compiled: bytes) -> None:
    name = _get_name(hashlib.sha256(compiled).hexdigest())
    write_file(folder / name, compiled, 0o600)
    for file in folder.glob(f"*{SUFFIX}"):
        if file.stat().st_mtime < time.time() - KEEP_SECONDS:
            file.unlink()


def _get_name(digest: str) -> str:
    """Return the name of a compiled module, whose hash shows damage."""
    versions = f"{version('zetasql')}-wasmtime-{version('wasmtime')}"
    machine = f"{platform.system()}-{platform.machine()}".lower()
    return f"zetasql-{versions}-{machine}-{digest}{SUFFIX}"
