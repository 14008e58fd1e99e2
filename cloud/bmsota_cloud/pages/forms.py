"""What forms send."""

from typing import Annotated

from fastapi import Form
from pydantic import AfterValidator

from bmsota_cloud.domain.texts import expect_no_nul

__all__ = ["Text"]

Text = Annotated[str, Form(), AfterValidator(expect_no_nul)]
