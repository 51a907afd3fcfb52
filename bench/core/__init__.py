"""How files, YAML, errors, signals, random numbers and processes are handled.

In: paths, values, numbers. Out: files that are written atomically, typed configs, one-line errors, seeds, progress.
This code does not know what an ECG is, and it imports no other folder of bench/.
"""
