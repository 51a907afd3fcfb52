"""Uses trained backbones outside the benchmark: load, export, import, embed, predict.

In: a finished run, an exported folder, a published checkpoint, new ECG records.
Out: a module that takes ECG in physical units, a folder to share, embeddings, probabilities.
"""
