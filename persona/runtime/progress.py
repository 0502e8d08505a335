"""What a training shows while it runs."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class LossBar(RichProgressBar):
    """Progress, the time left and the loss of the last logged step.

    Lightning's own way to show a value, ``log(prog_bar=True)``, makes every step wait for the
    device, even without a bar.
    """

    def __init__(self) -> None:
        super().__init__(leave=False)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The loss, once there is one."""
        loss = getattr(pl_module, "last_loss", None)
        return {} if loss is None else {"train/loss": f"{loss:.4g}"}
