# SPDX-License-Identifier: Apache-2.0
"""The subcommands of ``seqloom``, one module each, imported when they are called.

A module has ``main(arguments: list[str]) -> int``. It builds its parser with
`seqloom.cli.command_parser` and raises `seqloom.cli.CommandError` for files and models that
cannot be used. Its line in the overview stands in `seqloom.cli.COMMANDS`.
"""
