"""Dialects: bytes ↔ EmbedRequest and EmbedResult. Only these files know a vendor's field names and error types."""
