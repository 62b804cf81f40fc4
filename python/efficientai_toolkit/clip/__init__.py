"""CLIP and SigLIP: features of images and texts, zero-shot classification and retrieval.

>>> import efficientai_toolkit as eat
>>> model, processor = eat.clip.load("openai/clip-vit-base-patch32")  # doctest: +SKIP
>>> model.encode_image("cat.jpg").shape, model.encode_text("a photo of a cat").shape  # doctest: +SKIP
((1, 512), (1, 512))
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.clip.config import ClipConfig
    from efficientai_toolkit.clip.data import ImageTexts, read_pairs
    from efficientai_toolkit.clip.evaluation import (
        RetrievalResult,
        ZeroShotResult,
        evaluate_retrieval,
        evaluate_zero_shot,
    )
    from efficientai_toolkit.clip.index import ImageIndex, Match
    from efficientai_toolkit.clip.loading import load
    from efficientai_toolkit.clip.model import ClipModel
    from efficientai_toolkit.clip.nearest import search
    from efficientai_toolkit.clip.processor import ClipProcessor
    from efficientai_toolkit.clip.result import ClipResult
    from efficientai_toolkit.clip.trainer import ClipTrainer
    from efficientai_toolkit.clip.zero_shot import build_classifier, classify

__all__ = [
    "ClipConfig",
    "ClipModel",
    "ClipProcessor",
    "ClipResult",
    "ClipTrainer",
    "ImageIndex",
    "ImageTexts",
    "Match",
    "RetrievalResult",
    "ZeroShotResult",
    "build_classifier",
    "classify",
    "evaluate_retrieval",
    "evaluate_zero_shot",
    "load",
    "read_pairs",
    "search",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "ClipConfig": "clip.config:ClipConfig",
            "ClipModel": "clip.model:ClipModel",
            "ClipProcessor": "clip.processor:ClipProcessor",
            "ClipResult": "clip.result:ClipResult",
            "ClipTrainer": "clip.trainer:ClipTrainer",
            "ImageIndex": "clip.index:ImageIndex",
            "ImageTexts": "clip.data:ImageTexts",
            "Match": "clip.index:Match",
            "RetrievalResult": "clip.evaluation:RetrievalResult",
            "ZeroShotResult": "clip.evaluation:ZeroShotResult",
            "build_classifier": "clip.zero_shot:build_classifier",
            "classify": "clip.zero_shot:classify",
            "evaluate_retrieval": "clip.evaluation:evaluate_retrieval",
            "evaluate_zero_shot": "clip.evaluation:evaluate_zero_shot",
            "load": "clip.loading:load",
            "read_pairs": "clip.data:read_pairs",
            "search": "clip.nearest:search",
        },
    )
