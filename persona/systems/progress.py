"""What a training shows while it runs."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class LossBar(RichProgressBar):
    """Progress, the time left and the loss of the last logged step.

    Lightning's own bar is given its values by ``log(prog_bar=True)``, which waits for the device in
    every step from then on, bar or not.
    """

    def __init__(self) -> None:
        super().__init__(leave=False)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:
        """The loss, once there is one."""
        loss = getattr(pl_module, "last_loss", None)
        return {} if loss is None else {"train/loss": f"{loss:.4g}"}
