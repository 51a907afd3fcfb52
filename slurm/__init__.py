"""How a sweep is submitted to Slurm, and how it is watched.

In: the runs of a sweep (bench.sweeps), a cluster file, what lies in the work folder, Slurm's queue.
Out: arrays of jobs whose workers run what is missing, and tables that say what each run is doing.

cluster   the cluster file                                    plan      runs -> arrays of jobs; cost: what they will cost
states    the state of each run                               status    the table of `sweep status`; page: the same as HTML
submit    arrays -> sbatch; snapshot: a copy of the code      worker    what a job executes; perform: the run itself
lease     who works on which run                              local     the same on this machine, without Slurm
shared    files that jobs share: submissions, logs, failures  commands  squeue, scontrol, sbatch
"""
