"""Self-ViT-MIL: global attention over embeddings of a self-supervised vision transformer.

Gul, Cetin, Reich, Flinner, Prangemeier, Koeppl, "Histopathological image classification based on
self-supervised vision transformer and weak labels", Medical Imaging 2022 (SPIE 12039),
arXiv 2210.09021. New is the embedding: the class tokens and the mean patch token of a vision
transformer trained by DINO on the tiles (`models.backbones.dino_embedding`, 5 times the
transformer's width D). The aggregator is `models.mil.dsmil` with a linear query and a linear value:

    A_nc = softmax_n( (Q h_n + p) . (Q h_(m_c) + p) / sqrt(L) )
    z_c  = sum_n A_nc (V h_n + u)           V is (E, E)

with the loss of both streams, and the prediction of the bag stream.

Letters as in `models.mil.dsmil`; E = 5 D.
"""

from __future__ import annotations

from models.mil.dsmil import DSMIL
from structures import MILTask


class SelfViTMIL(DSMIL):
    """DSMIL with linear query and value on embeddings of a vision transformer.

    Args:
        in_features: E.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        attention_dim: L.

    Raises:
        ValueError: a width is not positive, or a binary task has other than two classes.
    """

    def __init__(
        self, in_features: int, num_classes: int, task: MILTask, *, attention_dim: int = 128
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            task,
            attention_dim=attention_dim,
            query="linear",
            value="linear",
            orthogonal_init=False,
        )
