"""How ECG gets from published files into the batches of a training or an evaluation.

In: corpora as they were published or recorded (WFDB, HDF5, NumPy files), with labels, patients and folds.
Out: stores (int16 on disk), batches of crops on the device, views, and the leak guard.

corpora    a file for each published corpus                   ingest     download, prepare, read WFDB
store      the prepared form on disk                          loader     batches of crops
views      augmentations by name                              signal     leads, gaps, resampling, filters
leak       what must not have been seen                       synthetic  ECG that is drawn
"""
