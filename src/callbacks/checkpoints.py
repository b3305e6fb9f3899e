"""Checkpoints with the highest validation IoU, and the last one."""

from __future__ import annotations

from lightning.pytorch.callbacks import ModelCheckpoint

LAST = "last.ckpt"


class BestCheckpoints(ModelCheckpoint):
    """Keeps ``00026-val_iou_0.7115.ckpt`` of the best epochs, and ``last.ckpt`` always.

    Args:
        dirpath: Folder of the checkpoints.
        save_top_k: How many of the best to keep; −1 for all, 0 for none but the last.
    """

    CHECKPOINT_NAME_LAST = "last"

    def __init__(self, dirpath: str, save_top_k: int = 1) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="{epoch:05d}-val_iou_{val_iou:.4f}",
            auto_insert_metric_name=False,
            monitor="val_iou",
            mode="max",
            save_top_k=save_top_k,
            save_last=True,
            enable_version_counter=False,
        )
