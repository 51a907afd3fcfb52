"""How a backbone is trained: the trainer and its parts (optimiser, checkpoints, metrics, monitor of collapse).

In: a pre-training config, stores and a workspace. Out: the backbone's checkpoints, its metrics and its result.
Whatever kills a run, the same call continues it bit for bit.
"""
