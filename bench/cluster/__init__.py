"""Several machines: encoding a corpus, shards, kills."""
