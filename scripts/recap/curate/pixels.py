"""An image processor in two halves: resize in a worker, normalise on the model's device.

An eight-bit channel has 256 values, so what rescaling and normalising make of
it is a table of 256 numbers. The table comes from the processor itself, which
makes the pixels equal bit for bit to the processor's own.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

# Sizes (width, height) the halves are compared on with the whole processor, when it is loaded.
_PROBES = ((97, 64), (61, 142), (640, 479))


class Pixels:
    """The pixels of one model: ``finish(stack(shrink(image)))``.

    Where the two halves do not give the processor's own result on probe images,
    for instance since it pads, ``shrink`` runs the whole processor instead.
    """

    def __init__(self, folder: str | Path) -> None:
        """Load the PIL image processor of a model folder.

        Raises:
            RecapError: if there is none, or images of unequal size stay so.
        """
        from transformers import AutoImageProcessor

        try:
            # Chosen explicitly: pixels must not depend on torchvision being there.
            self._processor: Any = AutoImageProcessor.from_pretrained(
                folder, backend="pil", local_files_only=True
            )
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise RecapError(f"{folder} has no loadable image processor: {error}") from error
        self._table: NDArray[Any] | None = None
        probes = [_probe(size) for size in _PROBES]
        whole = [self._whole(probe) for probe in probes]
        if len({pixels.shape for pixels in whole}) > 1:
            raise RecapError(
                f"{folder}: its image processor leaves images of different sizes, which cannot "
                "share a batch; set a fixed size in preprocessor_config.json"
            )
        self._size, self._crop = self._geometry()
        if self._size:
            self._split(probes, whole)
        # Bytes of one image between the halves.
        self.nbytes: int = self.shrink(probes[0]).nbytes

    def shrink(self, image: "Image") -> "NDArray[Any]":
        """Return an RGB image resized and cropped, uint8 (H, W, 3).

        Or, where the halves are not equal to the whole, its final pixels,
        float32 (3, H, W).
        """
        import numpy as np

        if self._table is None:
            return self._whole(image)
        return np.asarray(self._resized(image))

    def finish(self, images: "list[NDArray[Any]]", device: "torch.device") -> "torch.Tensor":
        """Return a batch's final pixels, float32 (B, 3, H, W), on the device."""
        import numpy as np
        import torch

        return self.values(torch.from_numpy(np.stack(images)).to(device))

    def values(self, stacked: "torch.Tensor") -> "torch.Tensor":
        """Return the final pixels, float32 (B, 3, H, W), of stacked results of ``shrink``."""
        import torch

        if self._table is None:
            return stacked
        table = torch.from_numpy(self._table).to(stacked.device)
        channels = [table[c][stacked[..., c].int()] for c in range(3)]
        return torch.stack(channels, dim=1)

    def _whole(self, image: "Image") -> "NDArray[Any]":
        pixels: NDArray[Any] = self._processor(images=image, return_tensors="np")["pixel_values"][0]
        return pixels

    def _geometry(self) -> tuple[dict[str, int] | None, dict[str, int] | None]:
        """Return how the processor resizes and crops, or nothing where it does more."""
        settings = self._processor.to_dict()
        size, crop = settings.get("size") or {}, None
        if not (settings.get("do_resize") and settings.get("do_rescale")):
            return None, None
        if settings.get("do_center_crop"):
            crop = settings["crop_size"]
            if min(size.values(), default=0) < max(crop["height"], crop["width"]):
                return None, None
        known = set(size) in ({"height", "width"}, {"shortest_edge"})
        return (size, crop) if known else (None, None)

    def _split(self, probes: "list[Image]", whole: "list[NDArray[Any]]") -> None:
        """Adopt the two halves if they give the processor's pixels on every probe."""
        import numpy as np
        import torch
        from PIL import Image

        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
        options = {"do_resize": False, "return_tensors": "np"}
        if self._crop:
            options["do_center_crop"] = False
        grey = Image.fromarray(np.stack([ramp] * 3, axis=-1))
        table = self._processor(images=grey, **options)["pixel_values"][0]
        self._table = np.ascontiguousarray(table.reshape(3, 256))
        halves = self.finish([self.shrink(probe) for probe in probes], torch.device("cpu"))
        if not np.array_equal(halves.numpy(), np.stack(whole)):
            self._table = None

    def _resized(self, image: "Image") -> "Image":
        import numpy as np
        from transformers.image_transforms import get_resize_output_image_size

        assert self._size is not None  # noqa: S101
        width, height = self._size.get("width", 0), self._size.get("height", 0)
        if "shortest_edge" in self._size:
            shape = np.broadcast_to(np.uint8(0), (3, image.height, image.width))
            height, width = get_resize_output_image_size(
                shape,
                size=self._size["shortest_edge"],
                default_to_square=False,
                input_data_format="channels_first",
            )
        small = image.resize((width, height), self._processor.resample)
        if self._crop is None:
            return small
        left = (width - self._crop["width"]) // 2
        top = (height - self._crop["height"]) // 2
        return small.crop((left, top, left + self._crop["width"], top + self._crop["height"]))


def _probe(size: tuple[int, int]) -> "Image":
    """Return an RGB image whose every pixel differs from its neighbours."""
    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[: size[1], : size[0]]
    channels = [(rows * 37 + columns * step) % 256 for step in (11, 53, 101)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
