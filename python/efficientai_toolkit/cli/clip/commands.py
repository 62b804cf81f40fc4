"""Summaries of the commands."""

COMMANDS = {
    "train": "fine-tune CLIP or SigLIP on image–text pairs: LoRA, DoRA or all weights",
    "evaluate": "measure retrieval and zero-shot classification on image–text pairs",
    "embed": "compute the features of images and save them as an index",
    "search": "search an index of images by text or image",
    "validate": "check environment, model, settings and data before a run",
    "info": "explain fine-tuning of image–text models, its commands and defaults",
}
