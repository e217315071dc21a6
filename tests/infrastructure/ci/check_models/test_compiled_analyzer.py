"""The analyzer is compiled once for each user, and no other user can put code in its place."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from wasmtime import Engine, Module, wat2wasm

from infrastructure.ci.check_models import compiled_analyzer
from infrastructure.ci.check_models.compiled_analyzer import (
    KEEP_SECONDS,
    get_cache_folder,
    load_module,
)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were compiled."""
    compiled: list[Path] = []
    compile_file = Module.from_file

    def note(engine: Engine, path: Path) -> Module:
        compiled.append(path)
        return compile_file(engine, path)

    monkeypatch.setattr(compiled_analyzer.Module, "from_file", note)
    return compiled


@pytest.fixture
def wasm(tmp_path: Path) -> Path:
    file = tmp_path / "analyzer.wasm"
    file.write_bytes(wat2wasm('(module (func (export "answer") (result i32) (i32.const 42)))'))
    return file


def load(wasm: Path) -> Path:
    """Load the module as a process of its own does; its folder."""
    folder = wasm.parent / "cache" / "analyzer"
    module = load_module(Engine(), wasm, folder)
    assert [export.name for export in module.exports] == ["answer"]
    return folder


def kept(folder: Path) -> Path:
    (file,) = folder.glob("*.cwasm")
    return file


def test_it_is_compiled_once_and_kept_for_this_user_alone(wasm: Path, compiled: list[Path]) -> None:
    folder = load(wasm)
    assert load(wasm) == folder
    assert compiled == [wasm]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept(folder).stat().st_mode) == 0o600


def test_a_damaged_file_is_compiled_again(wasm: Path, compiled: list[Path]) -> None:
    file = kept(load(wasm))
    sound = file.read_bytes()
    for damaged in (sound[:-1], sound[:-1] + bytes([sound[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        assert kept(load(wasm)).read_bytes() == sound
    assert len(compiled) == 4


def test_a_file_for_another_processor_is_compiled_again(
    wasm: Path, compiled: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = load(wasm)
    kept(folder).unlink()
    compiled_analyzer._write(folder, b"for something else")
    assert kept(load(wasm)).read_bytes() != b"for something else"
    assert len(compiled) == 2
    assert "The SQL analyzer is compiled again" in capfd.readouterr().err


def test_a_file_of_another_user_is_never_run(
    wasm: Path, compiled: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = kept(load(wasm))
    file.chmod(0o622)
    assert stat.S_IMODE(kept(load(wasm)).stat().st_mode) == 0o600
    assert len(compiled) == 2


@pytest.mark.parametrize("is_open", [True, False], ids=["open to others", "of another user"])
def test_a_folder_that_others_can_change_is_not_used(
    wasm: Path,
    compiled: list[Path],
    is_open: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = load(wasm)
    if is_open:
        folder.chmod(0o755)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    load(wasm)
    assert len(compiled) == 2
    said = capfd.readouterr().err
    assert "each check compiles it: other users own the folder, or may enter it." in said
    assert f"fix: chmod 700 {folder}; " in said


def test_a_folder_that_cannot_be_made(
    wasm: Path, compiled: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    (wasm.parent / "cache").write_text("a file")
    load(wasm)
    assert compiled == [wasm]
    assert "The compiled SQL analyzer is not kept" in capfd.readouterr().err


def test_files_of_other_versions_are_removed_after_a_month(wasm: Path) -> None:
    folder = wasm.parent / "cache" / "analyzer"
    folder.mkdir(parents=True, mode=0o700)
    old, recent = folder / "zetasql-0.1.0-old.cwasm", folder / "zetasql-0.1.1-recent.cwasm"
    for file in (old, recent):
        file.touch()
    long_ago = old.stat().st_mtime - KEEP_SECONDS - 1
    os.utime(old, (long_ago, long_ago))
    load(wasm)
    assert not old.exists()
    assert recent.exists()


def test_the_folder_is_that_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert get_cache_folder() == tmp_path / "millrace" / "analyzer"
