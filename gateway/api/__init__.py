"""The REST API, its description, and its pages."""
