"""Loading of language models and text generation."""
