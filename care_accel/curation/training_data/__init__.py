"""Training data: triplets with judged hard negatives."""
