"""How a backbone is judged: a protocol trains a head, or all weights, on a task, and test records are scored once.

In: the checkpoint of a pre-training, stores with labels, configs (protocols.yaml and what overrides it).
Out: a result with scores and intervals for each evaluation, and its predictions and weights in its folder.
"""
