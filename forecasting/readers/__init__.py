"""Readers: one file a format, one common result, a `GlucoseSeries` for every patient."""
