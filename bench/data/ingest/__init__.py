"""How a published corpus becomes a store: download, prepare, and the reading of WFDB files.

In: a `Corpus` to download, or a `CorpusFolder` that `open_corpus` opened.
Out: verified files in a folder; a store with a report of every record that was refused or changed.
"""
