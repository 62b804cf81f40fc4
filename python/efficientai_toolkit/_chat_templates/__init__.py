"""The process that renders chat templates with Jinja.

The engine starts it and sends conversations to it, so that a template, which is code from a checkpoint, can
neither end the engine's process nor fill its memory. Nothing here imports the engine.
"""
