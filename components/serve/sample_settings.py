"""Whether, where and how long the service keeps pages that it has read."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from components.shared.programs.step_config import StepConfig

S3 = "s3://"


class SampleSettings(StepConfig):
    """Keep some requests' pages and readings; by default nothing is kept."""

    allowed: bool = False
    """pages of clients may be kept; without it ``store`` is an error"""
    store: str | None = None
    """where pages and readings are kept: a folder, or ``s3://BUCKET/PREFIX`` with the credentials and the endpoint of
    the variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"""
    share: float = Field(default=0.01, ge=0, le=1)
    """share of the requests that are kept, from 0 to 1; a hash of the request's id decides"""
    retention_days: float | None = Field(default=None, gt=0)
    """days after which the service deletes what it kept"""
    audit_file: Path | None = None
    """file to which each access to the store adds a JSON line: when, who, what was done, which request"""
    max_queued_pages: int = Field(default=64, ge=1)
    """pages that may wait to be written; those beyond are not kept"""

    @field_validator("store")
    @classmethod
    def _is_a_folder_or_a_bucket(cls, store: str | None) -> str | None:
        if store is not None and "://" in store and not store.removeprefix(S3).strip("/").partition("/")[0]:
            raise ValueError("the bucket is missing: write s3://BUCKET/PREFIX")
        if store is not None and "://" in store and not store.startswith(S3):
            raise ValueError("neither a folder nor s3://BUCKET/PREFIX")
        return store

    @model_validator(mode="after")
    def _a_store_is_allowed_limited_and_watched(self) -> Self:
        if self.store is None:
            return self
        if not self.allowed:
            raise ValueError("store keeps pages of clients: set allowed to true if that is permitted, or leave it out")
        if self.retention_days is None:
            raise ValueError("store needs retention_days: after how many days is a page deleted?")
        if self.audit_file is None:
            raise ValueError("store needs audit_file: the file that records each access to the store")
        return self
