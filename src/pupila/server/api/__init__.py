"""Routes, request bodies, errors, authentication and rate limits, OpenAPI, the web page."""
