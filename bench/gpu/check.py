"""Build, test and measure everything that needs a GPU: ``make gpu-check``.

Builds the CUDA parts, runs their tests, runs the native check under compute-sanitizer, and measures; measurements are
appended to bench/results/<name of the GPU>.json. Any Python with torch, pytest, pytest-benchmark, pytest-xdist,
pybind11, CMake and ninja does; the step of training also needs sentence-transformers, accelerate, datasets and peft. A failed step
is named, and the other steps still run.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.harness import machine
from care_accel.files import write_json

ROOT = Path(__file__).resolve().parents[2]
# Suites that measure something on a GPU, and the tests that run differently on one.
# The most valuable first.
SUITES = (
    "bench/gpu/test_gpu_documents.py",
    "bench/gpu/test_gpu_retriever.py",
    "bench/gpu/test_cuda_scan.py",
    "bench/gpu/test_gpu_encoder.py",
    "bench/encoding/test_pooling.py",
)
TESTS_OF_THE_SCAN = ("tests/index/test_cuda.py",)
TESTS_OF_NETWORKS = (
    "tests/kernels/test_fused.py",
    "tests/encoding/runtimes/test_cuda_graphs.py",
    "tests/encoding/test_packed_attention.py",
    "tests/encoding/test_packed_network.py",
)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--size", default="full", choices=("smoke", "default", "full"))
    parser.add_argument("--blocks", type=int, default=3, help="number of alternating blocks per engine")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="only steps whose name matches this regular expression"
    )
    options = parser.parse_args()
    try:
        import torch

        gpu = torch.cuda.get_device_name(0)
    except (ImportError, RuntimeError, AssertionError) as error:
        print(f"gpu-check needs torch with a visible GPU: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    work = ROOT / "build" / "gpu-check"
    work.mkdir(parents=True, exist_ok=True)
    results = options.out / f"{machine.plain(gpu)}.json"

    steps: dict[str, dict[str, object]] = {}
    writing = threading.Lock()

    def step(name: str, *command: object, timeout: float = 300) -> None:
        if re.search(options.only, name):
            found = run(name, list(command), work / f"{name.replace(' ', '-')}.log", timeout)
            # Written after every step, so that an interrupted run keeps its results.
            with writing:
                steps[name] = found
                write_json(work / "steps.json", {"gpu": gpu, "steps": steps})

    def together(*some: tuple[object, ...]) -> None:
        """Run untimed steps concurrently."""
        with ThreadPoolExecutor(len(some)) as pool:
            list(pool.map(lambda command: step(*command), some))

    python, native, check = sys.executable, ROOT / "csrc", work / "cuda_check"
    pytest = (python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider")
    together(
        ("build", python, "setup.py", "-q", "build_ext", "--inplace"),
        (
            "build check", "nvcc", "-std=c++20", "-O2", "-lineinfo", "-arch=native", "--expt-relaxed-constexpr",
            *(f"-I{folder}" for folder in (native / "include", native / "scan", native / "cuda", ROOT / "tests/native")),
            native / "cuda/index.cu", native / "scan/encode.cpp", ROOT / "tests/native/cuda_check.cpp", "-o", check,
        ),
    )  # fmt: skip
    together(
        ("native check", check),
        ("tests of networks", *pytest, "-n", 6, *TESTS_OF_NETWORKS),
        ("tests of the scan", *pytest, *TESTS_OF_THE_SCAN),
        *((tool, "compute-sanitizer", "--error-exitcode", "1", "--tool", tool, check) for tool in SANITIZERS),
    )
    profile = options.out / "profiles" / f"{machine.plain(gpu)}.json"
    for suite in SUITES:
        step(
            f"measure {Path(suite).stem}", python, "-m", "pytest", suite, "--benchmark-only", "-q", "-rs",
            "--bench-size", options.size, "--bench-blocks", options.blocks, "--bench-results", results, timeout=600,
        )  # fmt: skip
        if suite == SUITES[0]:
            if options.size != "smoke":
                step("GPU-hours", python, "-m", "bench.gpu.hours", results, timeout=60)
            step("profile", python, "-m", "bench.gpu.profile", "--out", profile)
    step(
        "measure training", python, "-m", "bench.gpu.training", "--size", "smoke" if options.size == "smoke" else "full",
        "--out", options.out / "training", timeout=240,
    )  # fmt: skip
    print(f"measurements are in {results}, steps and logs in {work}")
    return 0 if all(step["passed"] for step in steps.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
