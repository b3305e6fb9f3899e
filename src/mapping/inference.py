"""From a batch of windows to class probabilities on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from src.errors import UserError
from src.models.folding import fold_batch_norms
from src.models.lanes import Copies, Lanes
from src.models.network import Network
from src.models.precision import autocast, place

Turn = Callable[[torch.Tensor], torch.Tensor]


class Predictor:
    """A network on its device, with or without averaging over flips and rotations."""

    def __init__(
        self,
        network: Network,
        device: torch.device,
        average_turns: bool = False,
        chip_size: tuple[int, int] | None = None,
        processes: int = 1,
    ) -> None:
        """Move the network to the device.

        Args:
            network: A trained network.
            device: Where to compute.
            average_turns: Average the probabilities over the eight flips and rotations of a window (over the four
                that keep its shape where it is not square).
            chip_size: Width and height in pixels of an image that the network takes, to fold its batch norms and to
                compare copies by; None leaves it as it is, without copies.
            processes: How many share this machine's memory.
        """
        self._placed = place(network, device).eval()
        self.network = self._placed if chip_size is None else fold_batch_norms(self._placed, chip_size)
        self.device = device
        self._turns = _TURNS if average_turns else _TURNS[:1]
        self._copies = Copies(self.network, chip_size, processes)

    def lanes(self, pixels: int, threads: int | None = None) -> Lanes:
        """Return what computes batches of so many pixels, several at once on a CPU; see :meth:`Copies.lanes`."""
        return self._copies.lanes(pixels, threads)

    def leave(self) -> None:
        """Give a GPU back what it holds for this network, for others to compute there; a new predictor returns."""
        if self.device.type == "cuda":
            for network in (self.network, self._placed):
                network.cpu()
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def __call__(
        self,
        image: npt.NDArray[Any] | torch.Tensor,
        fed: npt.NDArray[np.bool_] | torch.Tensor,
        network: Network | None = None,
    ) -> torch.Tensor:
        """Return class probabilities B × n × H × W, float32, on the device.

        Args:
            image: B × C × H × W in the file's own numbers.
            fed: B × H × W, False for pixels that the network is to see as blank.
            network: One of a lane.

        Raises:
            UserError: The device's memory does not take as many windows of this size.
        """
        network = network or self.network
        try:
            numbers = torch.as_tensor(image).to(self.device, non_blocking=True)
            mask = torch.as_tensor(fed).to(self.device, non_blocking=True)[:, None]
            square = numbers.shape[-1] == numbers.shape[-2]
            turns = [(turn, back) for turn, back, keeps_shape in self._turns if square or keeps_shape]
            with autocast(self.device):
                logits = (back(network(turn(numbers), turn(mask))) for turn, back in turns)
                probabilities = next(logits).float().softmax(1)
                for more in logits:
                    probabilities += more.float().softmax(1)
        except torch.OutOfMemoryError as error:
            side, count = image.shape[-1], len(image)
            raise UserError(
                f"{count} windows of {side} px at once are too many for the memory of {self.device}; expected a batch "
                f"that fits. Lower batch_size to {max(1, count // 2)}, or the window to {side // 2}."
            ) from error
        return probabilities / len(turns) if len(turns) > 1 else probabilities


def _turn(quarters: int, flip: bool) -> Turn:
    return lambda image: torch.rot90(image.flip(-1) if flip else image, quarters, (-2, -1))


def _back(quarters: int, flip: bool) -> Turn:
    def back(image: torch.Tensor) -> torch.Tensor:
        image = torch.rot90(image, -quarters, (-2, -1))
        return image.flip(-1) if flip else image

    return back


_TURNS = [(_turn(k, flip), _back(k, flip), k % 2 == 0) for flip in (False, True) for k in range(4)]
"""The eight flips and rotations with their inverses; the first is none. Whether height and width stay what they are."""
