"""Pack the `on_host` package into one zipapp, which is sent to the host."""

from __future__ import annotations

import hashlib
import tempfile
import zipapp
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MAIN = """\
import sys
from infrastructure.delivery.on_host.main import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Program:
    """A zipapp for the host; its name contains a hash of its content."""

    name: str
    content: bytes


def build_program() -> Program:
    """Pack the modules; equal modules give an equal file name."""
    digest = hashlib.sha256(MAIN.encode())
    with tempfile.TemporaryDirectory(prefix="millrace-deliver-") as scratch:
        source = Path(scratch, "source")
        package = source / "infrastructure" / "delivery" / "on_host"
        package.mkdir(parents=True)
        for folder in (package.parent, package.parent.parent):
            (folder / "__init__.py").touch()
        (source / "__main__.py").write_text(MAIN)
        for module in sorted((HERE / "on_host").glob("*.py")):
            content = module.read_bytes()
            (package / module.name).write_bytes(content)
            digest.update(module.name.encode() + content)
        file = Path(scratch, "deliver.pyz")
        zipapp.create_archive(source, file)
        return Program(f"deliver-{digest.hexdigest()[:12]}.pyz", file.read_bytes())
