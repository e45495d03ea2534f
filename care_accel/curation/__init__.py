"""Curation: how a benchmark and its training data are made, with several judges (needs the extra ``curate``)."""
