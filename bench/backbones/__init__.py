"""How is a trained backbone used elsewhere? In: a finished run, an exported folder, a published checkpoint, new ECG records.
Out: a module that takes ECG in physical units, a folder for others, embeddings, probabilities.
"""
