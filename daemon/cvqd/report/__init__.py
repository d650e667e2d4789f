"""Reading a log back: what moved, how long it took, what was odd.

Lines come from files of any origin and are trusted for nothing: what is no
line of ours is counted, what is one is still only text.  ``reader`` opens
files, everything else is values to values.
"""
