"""Subcommands of `evaluate.py`, one a file; those that begin with ``_`` are shared.

A module ``my_command.py`` is the command ``my-command``. It has ``SUMMARY``, one line of help;
``add_arguments(parser)``; and ``run(args)``, which does the work and returns the record that
``--out`` writes, where ``passed`` False makes exit code 2. With ``TAKES_OVERRIDES = True``, unknown
arguments are left in ``args.overrides`` as flags of a recipe; otherwise they are refused. At its
top it imports only the standard library and ``commands._*``, so that help answers immediately.
"""
