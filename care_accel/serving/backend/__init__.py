"""What the models inside the server share."""
