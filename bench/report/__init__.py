"""Says which methods differ according to the results, by how much, and how certain this is.

In: results, from a folder of JSON files or the Parquet file of a study.
Out: typed rows, columns and cells with means, intervals and comparisons; a data frame; the agreement of two studies. paper/ turns
them into text and figures.

results     typed results; the scores that tables know        rows        a row for each recipe of a pre-training
aggregate   rows, columns and cells of a report               names       what tells two recipes apart
statistics  comparisons over test records and runs            checks      what must not stand in one table
frame       a data frame, a row for each evaluation           reproduction  two executions of one study
"""
