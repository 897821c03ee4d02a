"""The report: the files of a run in; figures, tables, samples and one page out."""
