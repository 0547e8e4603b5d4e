# SPDX-License-Identifier: Apache-2.0
"""``seqloom info``: the build, the processor, the devices and the peers for benchmarks."""

from __future__ import annotations

import importlib
from typing import Any

from seqloom._version import __version__
from seqloom.bench import environment
from seqloom.cli import command_parser


def main(arguments: list[str]) -> int:
    parser = command_parser("info", example="seqloom info")
    parser.parse_args(arguments)
    seqloom: Any = importlib.import_module("seqloom")
    configuration = getattr(seqloom, "show_config", None)
    if configuration is None:
        print(f"seqloom {__version__}")
    else:
        text = configuration()
        if isinstance(text, str):  # it prints unless it returns what it has to say
            print(text)
    fields = environment.cpu_info()
    architecture = environment.microarchitecture(fields)
    print(f"machine: {environment.machine_name(fields, environment.cores())}")
    print(
        f"cpu: {fields.get('model name', 'unknown')}" + (f" ({architecture})" * bool(architecture))
    )
    print(f"cores: {environment.cores()}")
    print(f"devices: {', '.join(_devices(seqloom))}")
    peers = environment.installed_peers()
    listed = ", ".join(f"{name} {version}" for name, version in peers.items())
    print(f"peers for `seqloom bench`: {listed or 'none installed'}")
    return 0


def _devices(seqloom: Any) -> list[str]:
    try:
        cuda = seqloom.cuda
        count = cuda.device_count() if cuda.is_available() else 0
        names = [f"cuda:{k} {cuda.get_device_properties(k).name}" for k in range(count)]
    except (ImportError, AttributeError, RuntimeError):
        names = []
    return ["cpu", *names]
