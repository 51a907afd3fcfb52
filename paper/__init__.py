"""How results become text: tables, figures, the page, the manuscript. Text is rendered here and nowhere else.

In: a Report of bench.report. Out: Markdown, CSV, LaTeX, HTML, PDF, SVG, PNG.

report        writes everything                               tables        table.md and the sheets in tables/
families      all methods: ranks, cost, scores                training      curves of pre-trainings as a table
reproduction  the published tables beside measured scores     published     what others published
inventory     corpora and encoders                            columns       the columns of a table
labels        names of rows and columns                       commands      the commands that fill missing cells
typeset       a sheet as Markdown, LaTeX, HTML                figures/      one file for each kind of figure
page          the page's files; page_data: what they show     looks         colours and markers of methods
macros        the numbers in the manuscript's text
"""
