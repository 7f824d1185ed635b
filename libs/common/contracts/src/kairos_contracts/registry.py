"""Every message type of the suite, by its type name."""

from kairos_contracts.auth import v1 as auth
from kairos_contracts.budget import v1 as budget
from kairos_contracts.conversation import v1 as conversation
from kairos_contracts.llm import v1 as llm
from kairos_contracts.message import Message
from kairos_contracts.ops import v1 as ops

MESSAGES: dict[str, type[Message]] = {
    model.TYPE: model
    for model in (
        auth.AccessChangedV1,
        auth.AuditEntryRecordedV1,
        auth.OrganisationCreatedV1,
        budget.BudgetChangedV1,
        budget.LeaseSuspendedV1,
        budget.ThresholdReachedV1,
        conversation.BotLifecycleChangedV1,
        conversation.MessageReceivedV1,
        conversation.ReplyFailedV1,
        conversation.ReplySentV1,
        conversation.TurnAnsweredV1,
        conversation.TurnOpenedV1,
        llm.CacheTtlChangedV1,
        llm.CatalogueChangedV1,
        llm.CircuitChangedV1,
        llm.CompletionCompletedV1,
        llm.CompletionFailedV1,
        llm.CompletionRequestV1,
        llm.QuotaChangedV1,
        llm.UsageBatchRecordedV1,
        llm.UsageRecordedV1,
        ops.ServiceHealthChangedV1,
    )
}


class UnknownMessageType(LookupError):  # noqa: N818 - reads as the fact it states
    """The message type is not in the registry; the message goes to the dead letters."""


def model_for(type_name: str) -> type[Message]:
    try:
        return MESSAGES[type_name]
    except KeyError as error:
        raise UnknownMessageType(type_name) from error
