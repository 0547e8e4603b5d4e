# SPDX-License-Identifier: Apache-2.0
"""What a result depends on and a reader needs to know: CPU, cores, versions, threads, load.

No host name, user name or path goes into it: results are published.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
from importlib import metadata, util
from typing import Any

PEERS = {
    "numpy": "numpy",
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "ctranslate2": "ctranslate2",
    "jax": "jax",
}
# Names that users type and search for, where the brand string says too little to tell machines
# apart: (vendor, family) -> architecture by model ranges, as published by the vendors.
_AMD_ZEN = {
    23: ((0x30, "zen1"), (0x100, "zen2")),
    25: ((0x10, "zen3"), (0x20, "zen4"), (0x60, "zen3"), (0x100, "zen4")),
    26: ((0x100, "zen5"),),
}


def cpu_info(path: str = "/proc/cpuinfo") -> dict[str, str]:
    """The first processor's fields; empty where the system has no such file."""
    fields: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.strip():
                    break
                key, _, value = line.partition(":")
                fields[key.strip()] = value.strip()
    except OSError:
        pass
    return fields


def microarchitecture(fields: dict[str, str]) -> str:
    """``zen5`` and the like for AMD processors, else an empty string."""
    try:
        family, model = int(fields["cpu family"]), int(fields["model"])
    except (KeyError, ValueError):
        return ""
    if fields.get("vendor_id") == "AuthenticAMD":
        for end, name in _AMD_ZEN.get(family, ()):
            if model < end:
                return name
    return ""


def machine_name(fields: dict[str, str], cores: int, gpu: str = "") -> str:
    """A name for the results file: the GPU's where there is one, else CPU and cores."""
    if gpu:
        return _slug(re.sub(r"(?i)\b(nvidia|geforce|tesla)\b", "", gpu))
    brand = fields.get("model name", "") or platform.processor() or platform.machine()
    brand = re.sub(r"(?i)\((r|tm)\)|@.*|\b(amd|intel|cpu|processor|\d+-core)\b", " ", brand)
    return "-".join(p for p in (_slug(brand), microarchitecture(fields), f"{cores}c") if p)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def cores() -> int:
    """The number of CPUs this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def last_level_cache(root: str = "/sys/devices/system/cpu/cpu0/cache") -> int:
    """Bytes of the largest cache that the first CPU sees; 32 MiB where unknown."""
    best = 0
    try:
        for entry in os.listdir(root):
            try:
                with open(f"{root}/{entry}/size", encoding="ascii") as file:
                    text = file.read().strip()
            except OSError:
                continue
            factor = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
            best = max(best, int(text.rstrip("KM")) * factor)
    except (OSError, ValueError):
        pass
    return best or 32 << 20


def version_of(distribution: str) -> str:
    """The installed version, or an empty string."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def installed_peers() -> dict[str, str]:
    """Peers that can be imported here, with their versions; nothing is imported to find out."""
    found = {}
    for name, distribution in PEERS.items():
        if util.find_spec(name) is not None:
            found[name] = version_of(distribution) or "unknown"
    return found


def _simd(flags: str) -> list[str]:
    wanted = ("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_tile")
    present = set(flags.split())
    return [flag for flag in wanted if flag in present]


def today() -> str:
    """The date and time of a measurement."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def collect(
    library: Any, *, threads: int, device: str = "cpu", machine: str = ""
) -> dict[str, Any]:
    """The env block of a results file."""
    fields = cpu_info()
    gpu = _gpu(library) if device.startswith("cuda") else {}
    block: dict[str, Any] = {
        "machine": machine or machine_name(fields, cores(), str(gpu.get("name", ""))),
        "date": today(),
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "microarchitecture": microarchitecture(fields),
        "cores": cores(),
        "simd": _simd(fields.get("flags", "")),
        "last_level_cache": last_level_cache(),
        "threads": threads,
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "seqloom": str(getattr(library, "__version__", "")) or version_of("seqloom"),
        "peers": installed_peers(),
    }
    if gpu:
        block["gpu"] = gpu
    return block


def _gpu(library: Any) -> dict[str, Any]:
    try:
        properties = library.cuda.get_device_properties(0)
    except Exception as error:  # the answer names what is missing: driver, device or build
        return {"name": "", "error": str(error)}
    names = ("name", "major", "minor", "multi_processor_count", "total_memory", "l2_cache_size")
    return {n: getattr(properties, n) for n in names if hasattr(properties, n)}


def describe(block: dict[str, Any]) -> list[str]:
    """The env block in lines of at most 100 columns for people."""
    where = f"{block['machine']}: {block['cpu']}"
    if block.get("microarchitecture"):
        where += f" ({block['microarchitecture']})"
    where += f", {block['cores']} cores, {block['last_level_cache'] >> 20} MiB last-level cache"
    first = f"seqloom {block['seqloom'] or '(not installed)'}, {block['threads']} threads"
    gpu = []
    if block.get("gpu"):
        facts = block["gpu"]
        gpu = [f"{facts['name'] or 'no GPU'}: " + (facts.get("error") or (
            f"compute capability {facts['major']}.{facts['minor']}, "
            f"{facts['multi_processor_count']} multiprocessors, {facts['total_memory'] >> 30} GiB, "
            f"{facts['l2_cache_size'] >> 20} MiB L2"))]  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in block["peers"].items())
    load = " ".join(f"{value:.2f}" for value in block["load"])
    busy = []
    if block["load"] and block["load"][0] > 0.5 * block["cores"]:
        busy = ["this machine was busy when the run began: disturbed rows are marked *"]
    return [
        f"{first}, Python {block['python']}, {block['date']}, load {load}",
        where,
        *gpu,
        f"peers: {versions or 'none installed'}",
        *busy,
    ]
