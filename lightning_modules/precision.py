"""Which of the trainer's precisions our batches can be converted to."""

from __future__ import annotations


def check_precision(precision: str) -> None:
    """Refuse a precision in which Lightning converts the batches themselves.

    Batches are frozen, and coordinates and labels must keep their type, so the weights stay in
    single precision, and mixed precision converts within the layers alone.

    Args:
        precision: ``trainer.precision``, such as ``32-true`` or ``bf16-mixed``.

    Raises:
        ValueError: the precision is ``16-true``, ``bf16-true`` or ``64-true``.
    """
    if precision == "64-true":
        raise ValueError(
            "trainer.precision 64-true would convert batches to double precision, which is not "
            "supported; set 32-true"
        )
    if precision.endswith("-true") and precision != "32-true":
        raise ValueError(
            f"trainer.precision {precision} would convert batches to half precision; "
            f"set {precision.replace('true', 'mixed')}"
        )
