"""Encoders: the networks that are trained.

In: normalised ECG (records, leads, samples) and the indices of the visible tokens. Out: tokens (records, tokens, width).
One file per encoder; vit.py is the one that all methods share.
"""
