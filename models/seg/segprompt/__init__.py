"""Prompts of known categories beside the queries of a class-agnostic Mask2Former."""

from models.seg.segprompt.segprompt import SegPrompt

__all__ = ["SegPrompt"]
