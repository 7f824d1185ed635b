"""Money on the wire: an integer of nano-USD, and the same figure as decimal USD for people."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kairos_budget.domain.money import MAX_NANO, NotAnAmount, nano_from_usd, usd

NanoAmount = Annotated[int, Field(ge=0, le=MAX_NANO)]


def _decimal(text: str) -> str:
    try:
        if nano_from_usd(text) < 0:
            raise ValueError("an amount is not negative")
    except NotAnAmount as error:
        raise ValueError("a decimal amount in USD with at most nine decimals") from error
    return text


UsdAmount = Annotated[str, Field(max_length=24), AfterValidator(_decimal)]


class Amount(BaseModel):
    model_config = ConfigDict(frozen=True)

    nano_usd: int
    usd: str

    @classmethod
    def of(cls, nano: int) -> "Amount":
        return cls(nano_usd=nano, usd=usd(nano))
