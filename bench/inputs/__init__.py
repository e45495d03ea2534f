"""What several suites measure with: real texts, care-mini, networks of given sizes, embeddings."""
