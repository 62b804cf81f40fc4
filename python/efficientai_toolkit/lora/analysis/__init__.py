"""Selection of a rank for each layer from data statistics, gradient spectra and short runs.

>>> import efficientai_toolkit as eat
>>> analysis = eat.lora.analyze(eat.lora.TrainingConfig(iters=500))  # doctest: +SKIP
>>> analysis.choice.ranks, analysis.choice.parameters  # doctest: +SKIP
"""

from efficientai_toolkit.lora.analysis.allocation import Layer, allocate
from efficientai_toolkit.lora.analysis.candidates import Candidate
from efficientai_toolkit.lora.analysis.config import AnalysisConfig
from efficientai_toolkit.lora.analysis.run import Analysis, analyze
from efficientai_toolkit.lora.analysis.short_run import ShortRun

__all__ = ["Analysis", "AnalysisConfig", "Candidate", "Layer", "ShortRun", "allocate", "analyze"]
