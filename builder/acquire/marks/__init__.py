"""Marks: statements put into the kernel's source, from a place and expressions in the user's own words.

    words -> MarkPlace -> MarkSpot -> edits, checked by the compiler -> a source patch

Nothing here knows the kernel's image: what a structure holds is asked of `Layouts`.
"""
