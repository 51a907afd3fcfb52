"""How ECG gets from published files into the batches of a training or an evaluation.

In: corpora as they were published or recorded (WFDB, HDF5, NumPy files), with labels, patients and folds.
Out: stores (int16 on disk, see store.py), batches of crops on the device (loader.py), views (views.py), the leak guard.
"""
