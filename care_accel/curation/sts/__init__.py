"""STS sentence pairs: LLM rewrites of sentences with terms of a synonym table."""
