"""Steps of training: time and memory."""
