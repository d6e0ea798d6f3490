"""What clients ask for most, in the plain case: one statement each, or one for many who ask at once.

    plain? ──yes──▶ done, in one round trip
       └────no────▶ None: the verbs of `messages`, `runs` and `threads` decide, and word what is wrong

Every rule is the verbs'. What is asked here is only whether the case is so plain that none of them has anything to say:
the thread is there and nobody has locked it, no run is active, no file is named, no place is scarce. A statement that
finds anything else changes nothing.
"""
