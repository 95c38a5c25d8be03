"""The images of collections and their rows.

``caption`` writes one output file, which the next run continues (:mod:`captioner.collection.record`). ``bulk`` cuts a
source of any size into parts, and each part becomes one file (:mod:`captioner.collection.run`). Both read images by
:mod:`captioner.collection.items` and caption them by :mod:`captioner.collection.captioned`.
"""
