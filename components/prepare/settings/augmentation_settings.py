"""How much pages may look like scans: a range for each effect; every page gets its own random value."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from components.shared.programs.step_config import StepConfig

# Within these limits a person can still read the page.
Angle = Annotated[float, Field(ge=-20, le=20, allow_inf_nan=False)]
Sigma = Annotated[float, Field(ge=0, le=8, allow_inf_nan=False)]
NoiseLevels = Annotated[float, Field(ge=0, le=128, allow_inf_nan=False)]
TextureLevels = Annotated[float, Field(ge=0, le=32, allow_inf_nan=False)]
LostLight = Annotated[float, Field(ge=0, le=0.8, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
JpegQuality = Annotated[int, Field(ge=1, le=100)]


class AugmentationSettings(StepConfig):
    """Effects on a drawn page; a value is picked uniformly from ``[low, high]``, ``[0, 0]`` is off."""

    share: Share = 1.0
    """share of the pages that are augmented, 0 to 1; the others stay as drawn"""
    rotation_degrees: tuple[Angle, Angle] = (0.0, 0.0)
    """rotation in degrees, positive is anticlockwise; reduced if ink would leave the page"""
    skew_degrees: tuple[Angle, Angle] = (0.0, 0.0)
    """horizontal shear in degrees, positive leans to the right; reduced if ink would leave the page"""
    blur_sigma: tuple[Sigma, Sigma] = (0.0, 0.0)
    """standard deviation of a Gaussian blur, in pixels"""
    noise_std: tuple[NoiseLevels, NoiseLevels] = (0.0, 0.0)
    """standard deviation of Gaussian noise, in grey levels"""
    jpeg_quality: tuple[JpegQuality, JpegQuality] | None = None
    """quality, 1 to 100, of a JPEG compression that the page goes through; null: no compression"""
    ink_bleed: tuple[Share, Share] = (0.0, 0.0)
    """how far ink soaks into the paper, unevenly: 0 not at all, 1 one pixel in every direction"""
    shadow: tuple[LostLight, LostLight] = (0.0, 0.0)
    """share of light lost at the page's darkest edge or corner, 0 to 0.8"""
    paper_texture: tuple[TextureLevels, TextureLevels] = (0.0, 0.0)
    """standard deviation of the paper's grain and clouds, in grey levels"""

    @property
    def is_off(self) -> bool:
        """Whether no page is changed at all."""
        return self.share == 0 or (self.jpeg_quality is None and not any(map(any, self.effect_ranges().values())))

    def effect_ranges(self) -> dict[str, tuple[float, float]]:
        """Return effect -> range, in the order of the fields; ``jpeg_quality`` only if it is on."""
        ranges = {name: getattr(self, name) for name in type(self).model_fields if name != "share"}
        return {name: span for name, span in ranges.items() if span is not None}

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for name, (low, high) in self.effect_ranges().items():
            if low > high:
                raise ValueError(f"{name}: the first number must not be above the second, it is [{low:g}, {high:g}]")
        return self
