"""The OpenAPI description of the gateway, and a page of it."""
