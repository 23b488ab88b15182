"""How much pages may look like scans: a range for each effect, of which every page draws its own value."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from components.shared.programs.step_config import StepConfig

# The limits keep what is labelled readable: beyond them a person cannot read the page either.
Angle = Annotated[float, Field(ge=-20, le=20, allow_inf_nan=False)]
Sigma = Annotated[float, Field(ge=0, le=8, allow_inf_nan=False)]
NoiseLevels = Annotated[float, Field(ge=0, le=128, allow_inf_nan=False)]
TextureLevels = Annotated[float, Field(ge=0, le=32, allow_inf_nan=False)]
LostLight = Annotated[float, Field(ge=0, le=0.8, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
JpegQuality = Annotated[int, Field(ge=1, le=100)]


class AugmentationSettings(StepConfig):
    """What is done to a drawn page; a range ``[low, high]`` is drawn from uniformly, ``[0, 0]`` is off."""

    share: Share = 1.0
    """share of the pages that are augmented at all, 0 to 1; the others stay as they were drawn"""
    rotation_degrees: tuple[Angle, Angle] = (0.0, 0.0)
    """rotation, in degrees, anticlockwise where positive; less of it where the ink would leave the page"""
    skew_degrees: tuple[Angle, Angle] = (0.0, 0.0)
    """lean of the verticals against the horizontals, in degrees, to the right where positive; lessened likewise"""
    blur_sigma: tuple[Sigma, Sigma] = (0.0, 0.0)
    """standard deviation of a Gaussian blur, in pixels"""
    noise_std: tuple[NoiseLevels, NoiseLevels] = (0.0, 0.0)
    """standard deviation of Gaussian noise on every pixel, in grey levels"""
    jpeg_quality: tuple[JpegQuality, JpegQuality] | None = None
    """quality of a JPEG file that the page is sent through, 1 to 100; none: it is sent through none"""
    ink_bleed: tuple[Share, Share] = (0.0, 0.0)
    """how far ink soaks into the paper: 0 not at all, 1 one pixel in every direction, here more and there less"""
    shadow: tuple[LostLight, LostLight] = (0.0, 0.0)
    """share of the light that is lost at the page's darkest edge or corner, 0 to 0.8"""
    paper_texture: tuple[TextureLevels, TextureLevels] = (0.0, 0.0)
    """standard deviation of the paper's grain and clouds, in grey levels"""

    @property
    def is_off(self) -> bool:
        """Whether no page is ever changed."""
        return self.share == 0 or (self.jpeg_quality is None and not any(map(any, self.effect_ranges().values())))

    def effect_ranges(self) -> dict[str, tuple[float, float]]:
        """Return each effect's range by name, in the fields' order; ``jpeg_quality`` only where it is on."""
        ranges = {name: getattr(self, name) for name in type(self).model_fields if name != "share"}
        return {name: span for name, span in ranges.items() if span is not None}

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for name, (low, high) in self.effect_ranges().items():
            if low > high:
                raise ValueError(f"{name}: the first number must not be above the second, it is [{low:g}, {high:g}]")
        return self
