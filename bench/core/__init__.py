"""How files, YAML, errors, signals, random numbers and processes are handled.

In: paths, values, numbers. Out: files that are written atomically, typed configs, one-line errors, seeds, progress.
This code does not know what an ECG is, and it imports no other folder of bench/.

files      written whole or not at all, locked                errors     UserError: one line, exit code 2
yaml       YAML with the line of each key                     models     typed configs; errors with file, line and nearest name
progress   bars, lines in a log, files for watchers           outline    one display for work of several steps
rng        random numbers of a step                           interrupt  SIGTERM, SIGINT and SIGUSR2
processes  several processes that train one model             energy     joules of packages and devices
"""
