"""How a backbone is trained: the trainer and its parts. After a kill, the same call continues a run bit for bit.

In: a pre-training config, stores and a workspace. Out: the backbone's checkpoints, its log and its result.

trainer     the loop, and what a state holds                  optim     AdamW and the schedules of lr and weight decay
checkpoint  states to continue from, backbones to evaluate    log       metrics.jsonl, a line every so often
monitor     RankMe and feature sd, which show a collapse      inputs    fingerprints, batches, shares of processes
summary     what the result says                              source    whether the method's code has changed
"""
