"""Turns a published corpus into a store: downloads it, reads its WFDB files, prepares the store.

In: a `Corpus` to download, or a `CorpusFolder` that `open_corpus` opened.
Out: verified files in a folder; a store with a report of every record that was refused or changed.
"""
