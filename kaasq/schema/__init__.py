"""The messages described for other languages: JSON Schemas and an AsyncAPI document, generated from the types."""
