"""Documents to chunks: at ends of sentences, by the tokens of an encoder."""
