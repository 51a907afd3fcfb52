"""What the results say: which methods differ, by how much, and how sure that is.

In come the results of runs, a folder of JSON files or the Parquet file of a study; out go typed rows, columns and cells with
means, intervals and comparisons, a data frame, and the agreement of two studies. paper/ turns them into text and figures.
"""
