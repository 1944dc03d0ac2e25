"""Subcommands of `evaluate.py`, one per module; modules with a leading ``_`` are shared helpers.

The module ``my_command.py``, here or in a subfolder, implements the command ``my-command``. It
defines ``SUMMARY``, a line of help; ``add_arguments(parser)``; and ``run(args)``, which returns the
record that ``--out`` writes. A record with ``passed`` False sets exit code 2. With
``TAKES_OVERRIDES = True``, unknown arguments are kept in ``args.overrides`` as flags of a recipe;
otherwise they are an error. Modules import only the standard library and ``commands._*`` at the
top, which keeps ``--help`` fast.
"""
