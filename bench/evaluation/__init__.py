"""How a backbone is judged: a protocol trains a head, or all weights, on a task, and test records are scored once.

In: the checkpoint of a pre-training, stores with labels, configs (protocols.yaml with its overrides).
Out: a result with scores and intervals for each evaluation, and its predictions and weights in its folder.

runner        runs what is missing: locks, resume, results      inputs       checkpoint, task, leak guard: what it starts from
tasks         what is predicted, on which records               job          the test fold, kept apart (HeldOut) from what trains
protocols     settings of each protocol, and configs            artifacts    weights and predictions on disk
frozen        heads on a frozen backbone, all at once: reader (tokens of crops), stack (heads of many seeds), train_heads
neighbours    nearest neighbours                                finetune     all weights train
heads, crops  networks from tokens to logits; crops of records  diagnostics  rank and spectrum of features
metrics       scores of classes, with resamples                 regression   scores of values
external      test sets of other stores                         fractions    shares of the labels

No head can see the test fold: what trains and chooses receives a TrainingTask, which has none (tasks.Task.without_test).
"""
