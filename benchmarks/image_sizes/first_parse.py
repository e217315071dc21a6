"""Seconds that a new container's first run takes to have the dbt project parsed.

docker run --rm -i --env DBT_TARGETS IMAGE python - < benchmarks/image_sizes/first_parse.py

Again with `--env MILLRACE_PARSED_DIR=/nowhere`, for an image that was built without its targets.
`DBT_TARGETS` is what the image was built with.
"""

import os
import tempfile
import time
from pathlib import Path

from infrastructure.platforms.docker.parse_project import ARGUMENT, build_profiles
from prefect_flows.core.settings import load_settings
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_state import TargetState
from prefect_flows.transform.session import DbtSession

settings = load_settings()
profile = build_profiles(os.environ[ARGUMENT], settings.dbt_dir)[0]
with tempfile.TemporaryDirectory() as folder:
    target_path = Path(folder, "dbt")
    store = StateStore(str(Path(folder, "store")))
    started = time.perf_counter()
    state = TargetState(store, profile.target, target_path, settings.parsed_dir)
    brought = state.restore_partial_parse()
    with DbtSession(settings.dbt_dir, profile, target_path, {}) as session:
        nodes = len(session.manifest.nodes)
        seconds = time.perf_counter() - started
        log = (session.log_dir / "dbt.log").read_text()
whole = "Unable to do partial parsing" in log
parse = "whole parse" if whole else "parse reused"
source = "the image" if brought else "its files"
print(f"{seconds:.2f} s, {nodes} nodes, from {source}, {parse}")
