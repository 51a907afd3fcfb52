"""Pictures of ECG, of views and masks, of training curves, of labels and of embeddings.

In: a store, a WFDB file, a config, the folder of a run, a file of embeddings. Out: a .png, .svg or .pdf file.
One file per subject. A function plot_... gives a matplotlib figure; a function draw_... reads what it needs and writes a file.
"""
