"""Labelled data: one schema of records, its validation, and the curation of public data sets into it."""
