"""A network and how it learns, as a project would say it: small, and made of every block of the library."""

from collections.abc import Sequence

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from tabm import LinearEnsemble
from torch import Tensor, nn

from notebento.core.config import TrainerConfig
from notebento.models.base import Inputs, Trainer
from notebento.models.network import TableNetwork
from notebento.models.tabm import Embedding, Members, answer_loss, first_codes, known_loss, members_loss
from notebento.training.callbacks import MovingAverage, one_cycle_schedule


class Network(nn.Module):
    """Scaled numbers (n, F), flags (n, G), codes (n, C) -> each member's outputs (n, k, outputs)."""

    start: Tensor

    def __init__(self, model: "TabM", features: int, flags: int, sizes: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.embedding = Embedding(features, model.bins, 4) if features else None
        self.words = nn.Embedding(sum(sizes), 8) if sizes else None
        self.register_buffer("start", first_codes(sizes))
        parts = [1] * flags + [4] * features + [8] * len(sizes)
        layers = [Members(model.k, parts, model.width), nn.ReLU(), nn.Dropout(model.dropout)]
        for _ in range(model.blocks - 1):
            layers += [nn.Linear(model.width, model.width), nn.ReLU(), nn.Dropout(model.dropout)]
        self.shared = nn.Sequential(*layers)
        self.output = LinearEnsemble(model.width, outputs, k=model.k)

    def forward(self, scaled: Tensor, flags: Tensor, codes: Tensor) -> Tensor:
        parts = [flags]
        if self.embedding is not None:
            parts.append(self.embedding(scaled))
        if self.words is not None:
            parts.append(self.words(codes + self.start).flatten(1))
        outputs: Tensor = self.output(self.shared(torch.cat(parts, 1)))
        return outputs


class Learner(LightningModule):
    """AdamW on the members' losses, with the trainer's schedule and moving average."""

    def __init__(self, model: "TabM", network: nn.Module, inputs: Inputs, trainer: TrainerConfig) -> None:
        super().__init__()
        self.settings, self.network, self.inputs, self.training_settings = model, network, inputs, trainer

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = self.network(batch["scaled"], batch["flags"], batch["codes"])
        return outputs

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        logits, n = self(batch), self.inputs.outputs
        loss = members_loss(self.inputs.task, logits[..., :n], batch["target"])
        return loss + known_loss(logits[..., n:], batch["auxiliary"]) if "auxiliary" in batch else loss

    def validation_step(self, batch: dict[str, Tensor]) -> Tensor:
        return answer_loss(self.inputs.task, self(batch)[..., : self.inputs.outputs], batch["target"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        adamw, s = torch.optim.AdamW(self.parameters(), lr=self.settings.lr, weight_decay=1e-2), self.training_settings
        if s.schedule == "constant":
            return adamw
        return one_cycle_schedule(adamw, int(self.trainer.estimated_stepping_batches), s.warmup)

    def configure_callbacks(self) -> list[Callback]:
        decay = self.training_settings.ema_decay
        return [MovingAverage(decay)] if decay else []


class TabM(TableNetwork, frozen=True, kw_only=True):
    """The settings of both."""

    k: int = 4
    blocks: int = 2
    width: int = 128
    dropout: float = 0.2
    bins: int = 16
    lr: float = 2.5e-3

    def network(self, features: int, flags: int, sizes: Sequence[int], outputs: int) -> nn.Module:
        return Network(self, features, flags, sizes, outputs)

    def learner(self, network: nn.Module, inputs: Inputs, trainer: Trainer) -> LightningModule:
        return Learner(self, network, inputs, trainer.settings)
