"""Labels: candidate pooling, LLM judgements, votes, inter-annotator agreement, expert samples, false negatives."""
