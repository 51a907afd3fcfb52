"""How files, YAML, errors, signals, random numbers and processes are handled, whatever the product is about.

In: paths, values, numbers. Out: files that are written whole, typed configs, one-line errors, seeds, progress.
Nothing here knows what an ECG is, and nothing here imports another room.
"""
