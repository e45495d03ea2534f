"""Provenance of a measurement: the machine, package versions, and the revision of the code."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Packages whose version may affect a time.
PACKAGES = (
    "numpy", "torch", "transformers", "tokenizers", "sentence-transformers", "faiss-cpu", "faiss-gpu-cu12",
    "usearch", "hnswlib", "scann", "onnxruntime", "openvino", "mteb", "bm25s", "triton", "tritonclient", "fastapi", "pylance", "pyarrow",
    "milvus-lite",
)  # fmt: skip
# By (vendor, family): virtual machines name processors of two generations alike. Others are known by their name.
_GENERATIONS = {("AuthenticAMD", "26"): " Zen 5"}
_FLAGS = re.compile(r"avx|fma|f16c|amx|sse4|bmi|asimd|sve")


def describe() -> dict[str, Any]:
    """Return the properties of this machine that affect times, and nothing that identifies its owner."""
    from care_accel import _native

    information = _processor()
    name = information.get("model name", platform.machine())
    name += _GENERATIONS.get((information.get("vendor_id", ""), information.get("cpu family", "")), "")
    cores = len(os.sched_getaffinity(0))
    gpu = _gpu()
    sets = list(_native.instruction_sets())
    best = next((s for s in ("avx512vnni", "avxvnni", "avx2") if s in sets), "portable")
    return {
        "name": plain(gpu) if gpu else plain(f"{name} {cores} cores {best}"),
        "processor": name,
        "cores": cores,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "instruction_sets": sets,
        "flags": sorted(flag for flag in information.get("flags", "").split() if _FLAGS.match(flag)),
        "caches_bytes": caches(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
    }


def caches() -> dict[str, int]:
    """Return the sizes of the data caches of a core, and of the last level that it shares, by level."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            unit = {"K": 2**10, "M": 2**20, "G": 2**30}[size[-1]]
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = int(size[:-1]) * unit
    return found


def last_level_cache() -> int:
    """Return the bytes of the largest cache, 0 where the system does not say."""
    return max(caches().values(), default=0)


def versions() -> dict[str, str]:
    """Return the versions of the measured packages."""
    from care_accel import __version__
    from care_accel.serving.tritonserver.install import installed

    # The package itself may not be installed: a working tree is measured.
    found = {"care-accel": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if place := installed():  # the server and its numpy have a folder of their own
        for server in distributions(name="nvidia-pytriton", path=[str(place)]):
            found["nvidia-pytriton"] = server.version
    return found


def revision() -> tuple[str | None, bool]:
    """Return the revision of the code, and whether anything but results differs from it.

    ``CARE_REVISION`` tells it where code is measured that was copied without its history.
    """
    if told := os.environ.get("CARE_REVISION"):
        return told, False
    try:
        head = _git("rev-parse", "--short", "HEAD").strip()
        return head, bool(_git("status", "--porcelain", "--", ".", ":!bench/results").strip())
    except (OSError, subprocess.CalledProcessError):
        return None, False


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _processor() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _gpu() -> str | None:
    if not Path("/dev/nvidiactl").exists():
        return None
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def plain(name: str) -> str:
    """Return a name as one of a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
