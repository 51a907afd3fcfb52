"""Synthetic 12-lead ECG, to try and test everything without a download.

In: a number of records and a seed.
Out: records with known diagnoses (generator.py), or a folder in PTB-XL's layout (ptbxl_layout.py). Never real patients.
"""
