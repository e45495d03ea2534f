"""Model repositories: configurations, and what writes them."""
