"""Augmentation's ranges: what is refused, and which setting the error names."""

from typing import Any

import pytest
from pydantic import ValidationError

from components.prepare.settings.augmentation_settings import AugmentationSettings


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rotation_degrees", (3, -3), "rotation_degrees: the first number must not be above the second"),
        ("rotation_degrees", (-30, 0), "greater than or equal to -20"),
        ("skew_degrees", (0, 21), "less than or equal to 20"),
        ("blur_sigma", (-1, 0), "greater than or equal to 0"),
        ("noise_std", (0, 129), "less than or equal to 128"),
        ("noise_std", (0, float("nan")), "finite number"),
        ("jpeg_quality", (0, 50), "greater than or equal to 1"),
        ("jpeg_quality", (90, 60), "jpeg_quality: the first number must not be above"),
        ("ink_bleed", (0, 1.5), "less than or equal to 1"),
        ("shadow", (0, 0.9), "less than or equal to 0.8"),
        ("paper_texture", (0,), "Field required"),
        ("share", 1.2, "less than or equal to 1"),
        ("blurr_sigma", (0, 1), "Extra inputs are not permitted"),
    ],
)
def test_ranges_out_of_order_or_bounds_are_refused_by_name(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        AugmentationSettings(**{field: value})
    assert field in str(caught.value)


def test_off_is_known_without_a_page() -> None:
    assert AugmentationSettings().is_off
    assert AugmentationSettings(share=0.0, noise_std=(5, 5)).is_off
    assert not AugmentationSettings(jpeg_quality=(90, 90)).is_off
    assert not AugmentationSettings(rotation_degrees=(-1, 0)).is_off
