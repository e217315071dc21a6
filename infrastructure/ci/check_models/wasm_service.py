"""Start the analyzer's WebAssembly, and call its service with protobuf messages.

The wheel's own classes do this too. Importing them takes a second, and they copy each message byte
by byte and field by field, which takes longer than the analysis.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tzdata  # type: ignore[import-untyped] # it ships no types
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from wasmtime import Config, Engine, Linker, Store, WasiConfig
from zetasql.wasi import get_wasm_path

from infrastructure.ci.check_models.compiled_analyzer import get_cache_folder, load_module

SERVICE = "ZetaSqlLocalService_"
SIZE_BYTES = 4


class SqlError(Exception):
    """The analyzer refuses the SQL; the message is the analyzer's."""


class WasmService:
    """The analyzer in this process."""

    def __init__(self) -> None:
        config = Config()
        config.shared_memory = True
        engine = Engine(config)
        wasi = WasiConfig()
        wasi.inherit_stderr()
        wasi.preopen_dir(str(Path(tzdata.__file__).parent / "zoneinfo"), "/usr/share/zoneinfo")
        self._store = Store(engine)
        self._store.set_wasi(wasi)
        linker = Linker(engine)
        linker.define_wasi()
        module = load_module(engine, get_wasm_path(), get_cache_folder())
        instance = linker.instantiate(self._store, module)
        self._exports: Mapping[str, Any] = instance.exports(self._store)
        self._run("_initialize")

    def call(self, name: str, request: Message, response: type[Message] = Empty) -> Any:
        """Call a method of the service.

        Raises:
            SqlError: the analyzer refuses the SQL.
        """
        sent = request.SerializeToString()
        place = self._run("wasm_malloc", len(sent))
        size = self._run("wasm_malloc", SIZE_BYTES)
        try:
            ctypes.memmove(self._base + place, sent, len(sent))
            answer = self._run(SERVICE + name, place, len(sent), size)
            if not answer:
                message = self._read(
                    self._run("wasm_get_last_error"), self._run("wasm_get_last_error_size")
                )
                raise SqlError(message.decode().partition("Message: ")[2])
            received = self._read(answer, int.from_bytes(self._read(size, SIZE_BYTES), "little"))
            self._run("wasm_free", answer)
        finally:
            self._run("wasm_free", place)
            self._run("wasm_free", size)
        return response.FromString(received)

    def _run(self, function: str, *arguments: int) -> Any:
        return self._exports[function](self._store, *arguments)

    def _read(self, place: int, size: int) -> bytes:
        return ctypes.string_at(self._base + place, size)

    @property
    def _base(self) -> int:
        """Where the memory of the analyzer begins."""
        return ctypes.addressof(self._exports["memory"].data_ptr().contents)
