"""Says which methods differ according to the results, by how much, and how certain this is.

In: results, from a folder of JSON files or the Parquet file of a study.
Out: typed rows, columns and cells with means, intervals and comparisons; a data frame; the agreement of two studies. paper/ turns
them into text and figures.
"""
