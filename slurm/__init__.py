"""How a sweep is submitted to Slurm, and how it is watched.

In: the runs of a sweep (bench.sweeps), a cluster file, what lies in the work folder, Slurm's queue.
Out: arrays of jobs whose workers run what is missing, and tables that say what each run is doing.
"""
