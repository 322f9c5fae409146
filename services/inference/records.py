"""What of a forecast will be compared with the truth."""

from forecasting.context import Context
from services.inference.batcher import Row
from services.inference.forecast_ids import Claim, Record
from services.inference.models import Served


def record_of(served: Served, context: Context, row: Row) -> Record | None:
    """The record of one forecast; None where it reaches no horizon that is compared."""
    compared = served.opened.compared
    if compared is None:
        return None
    low, high = compared.interval
    claims = [
        Claim(minutes, row.outputs[k, 0], row.outputs[k, 1 + low], row.outputs[k, 1 + high], row.below_low[k])
        for minutes, k in compared.steps
    ]
    version = served.opened.version.version
    return Record(
        compared.public_name,
        version,
        served.alias,
        context.origin,
        compared.sampling_minutes,
        context.glucose_mg_dl[-1],
        tuple(claims),
    )
