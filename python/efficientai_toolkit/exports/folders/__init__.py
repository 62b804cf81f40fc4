"""Folders in Hugging Face format with weights as vLLM and transformers read them."""
