"""The perceptual hashes of *imagededup*, bit for bit, without its torchvision.

Names and interface are those that Data-Juicer's ``image_deduplicator`` calls.
Source: imagededup 0.3.3, ``methods/hashing.py`` and ``utils/image_utils.py``
(Apache-2.0); tests hold hashes that its own code computed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Hash:
    """A 64-bit hash of a small grey version of a picture."""

    size: tuple[int, int] = (8, 8)  # width, height in pixels

    def encode_image(self, image_array: "NDArray[Any]") -> str:
        """Return 16 hexadecimal digits.

        Args:
            image_array: RGB ``(height, width, 3)``, uint8.
        """
        import numpy as np
        from PIL import Image

        picture = Image.fromarray(image_array.astype("uint8"))
        # Shrunk in colour first, then turned grey, as imagededup does.
        small = picture.resize(self.size, Image.Resampling.LANCZOS).convert("L")
        bits = self._bits(np.array(small).astype("uint8"))
        return "".join(f"{byte:02x}" for byte in np.packbits(bits))

    def _bits(self, grey: "NDArray[Any]") -> "NDArray[Any]":
        raise NotImplementedError


class PHash(Hash):
    """Low frequencies of the cosine transform against their median."""

    size = (32, 32)

    def _bits(self, grey: "NDArray[Any]") -> "NDArray[Any]":
        import numpy as np
        from scipy.fftpack import dct

        low = dct(dct(grey, axis=0), axis=1)[:8, :8]
        return low >= np.median(low.flatten()[1:])  # the first one is the mean


class AHash(Hash):
    """Pixels against their mean."""

    def _bits(self, grey: "NDArray[Any]") -> "NDArray[Any]":
        import numpy as np

        return grey >= np.mean(grey)


class DHash(Hash):
    """Each pixel against its left neighbour."""

    size = (9, 8)

    def _bits(self, grey: "NDArray[Any]") -> "NDArray[Any]":
        return grey[:, 1:] > grey[:, :-1]


class WHash(Hash):
    """The coarsest Haar approximation, five levels down, against its median."""

    size = (256, 256)

    def _bits(self, grey: "NDArray[Any]") -> "NDArray[Any]":
        import numpy as np

        coarse = grey.astype("float64")
        for _ in range(5):
            # A Haar step sums 2 x 2 pixels and halves, so that a level keeps its energy.
            height, width = coarse.shape
            coarse = coarse.reshape(height // 2, 2, width // 2, 2).sum(axis=(1, 3)) / 2
        return coarse >= np.median(coarse.flatten())
