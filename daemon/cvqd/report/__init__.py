"""Reading a log back: what moved, how long it took, what was odd.

Lines come from files of any origin and are not trusted: foreign lines are
counted, and the fields of our own are only text.  ``reader`` opens files,
everything else turns values into values.
"""
