"""Everything that a GPU is needed to know: ``make gpu-check``.

Builds the CUDA parts, runs their tests, runs the native check under compute-sanitizer, and measures; what was found is
written to bench/results/<name of the GPU>.json. Any Python with torch, pytest, pytest-benchmark, pybind11, CMake and
ninja does; the step that fails is named, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Suites that measure something on a GPU, and the tests that run differently on one.
SUITES = ("test_cuda_scan.py", "test_pooling.py", "test_gpu_encoder.py")
GPU_TESTS = (
    "tests/index/test_cuda.py",
    "tests/kernels/test_fused.py",
    "tests/encoding/test_last_layer.py",
    "tests/encoding/runtimes/test_cuda_graphs.py",
)
LIMITS = {
    "share_of_limit_bytes": "share_of_read_bandwidth",
    "share_of_limit_copy": "share_of_copy_bandwidth",
    "share_of_limit_flops": "share_of_bfloat16_rate",
}
SANITIZERS = ("memcheck", "racecheck", "synccheck")


def run(name: str, command: list[object], log: Path, timeout: float) -> dict[str, object]:
    """Run one step, its output in a file, and return how it went."""
    started = time.monotonic()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"CARE_CUDA": "ON", "PYTHONPATH": path}
    with log.open("w") as out:
        try:
            code = subprocess.run(
                list(map(str, command)), cwd=ROOT, env=environment, stdout=out, stderr=out, timeout=timeout
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        except OSError as error:
            out.write(str(error))
            code = -1
    lines = log.read_text(errors="replace").strip().splitlines()
    found = {
        "passed": code == 0,
        "seconds": round(time.monotonic() - started, 1),
        "last_line": lines[-1] if lines else "",
    }
    print(
        f"{name}: {'passed' if code == 0 else 'FAILED'} in {found['seconds']} s: {found['last_line']}",
        flush=True,
    )
    if code != 0:
        print("\n".join(lines[-40:]), flush=True)
    return found


def measured(file: Path) -> list[dict[str, object]]:
    """Return the medians of a benchmark run, in milliseconds a round."""
    if not file.is_file() or file.stat().st_size == 0:
        return []
    rows = []
    for bench in json.loads(file.read_text())["benchmarks"]:
        info, median = bench["extra_info"], bench["stats"]["median"]
        row = {"group": bench["group"], "name": info["name"], "median_ms": round(1e3 * median, 4)}
        for key, limit in LIMITS.items():
            if key in info:
                row[limit] = round(info[key] / median, 3)
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--size", default="full", choices=("smoke", "default", "full"))
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="steps whose name this expression matches"
    )
    options = parser.parse_args()
    try:
        import torch

        gpu, versions = (
            torch.cuda.get_device_name(0),
            {"torch": torch.__version__, "cuda": torch.version.cuda},
        )
    except (ImportError, RuntimeError, AssertionError) as error:
        print(f"gpu-check needs torch and a GPU that it sees: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    work = ROOT / "build" / "gpu-check"
    work.mkdir(parents=True, exist_ok=True)

    steps: dict[str, dict[str, object]] = {}

    def step(name: str, *command: object, timeout: float = 300) -> None:
        if re.search(options.only, name):
            steps[name] = run(name, list(command), work / f"{name.replace(' ', '-')}.log", timeout)

    python, native = sys.executable, ROOT / "csrc"
    step("build", python, "setup.py", "-q", "build_ext", "--inplace")
    step(
        "build check", "nvcc", "-std=c++20", "-O2", "-lineinfo", "-arch=native", "--expt-relaxed-constexpr",
        *(f"-I{folder}" for folder in (native / "include", native / "scan", native / "cuda", ROOT / "tests/native")),
        native / "cuda/index.cu", native / "scan/encode.cpp", ROOT / "tests/native/cuda_check.cpp",
        "-o", work / "cuda_check",
    )  # fmt: skip
    step("native check", work / "cuda_check")
    for file in GPU_TESTS:
        step(f"tests {Path(file).stem}", python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", file)
    for tool in SANITIZERS:
        step(tool, "compute-sanitizer", "--error-exitcode", "1", "--tool", tool, work / "cuda_check")
    rows: list[dict[str, object]] = []
    for suite in SUITES:
        name = Path(suite).stem
        results = work / f"{name}.json"
        results.unlink(missing_ok=True)
        step(
            f"measure {name}", python, "-m", "pytest", f"bench/{suite}", "--benchmark-only", "-q", "-rs",
            "--bench-size", options.size, "--benchmark-json", results, timeout=600,
        )  # fmt: skip
        rows += measured(results)

    found = {"gpu": gpu, "versions": versions, "steps": steps, "measured": rows}
    file = options.out / f"{re.sub(r'[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json"
    file.write_text(json.dumps(found, indent=1) + "\n")
    for row in found["measured"]:
        print(json.dumps(row))
    print(f"written to {file}")
    return 0 if all(step["passed"] for step in steps.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
