"""Which models may answer a request."""

from forecasting.bundle import POPULATION
from forecasting.errors import InvalidInput, InvalidSetting
from forecasting.registry import model_name


def references_for(patient_id: str, model: str, namespace: str) -> tuple[str, ...]:
    """References to try, best first: the model that was named, else the patient's own, else the population's.

    Raises InvalidInput for a patient id that is missing or cannot name a model.
    """
    if not patient_id:
        raise InvalidInput("the request has no patient_id; say whose readings these are", "patient_id")
    try:
        personal = model_name(namespace, patient_id)
    except InvalidSetting as error:
        raise InvalidInput(str(error), "patient_id") from error
    return (model,) if model else (personal, model_name(namespace))


def is_for_another_patient(model: str, patient_id: str, namespace: str) -> bool:
    """Was this model made for one person, and is that somebody else? Ids of other data sets are other people's."""
    _, _, owner = model.partition("-")  # a data set's name holds no '-'
    return owner != POPULATION and model != model_name(namespace, patient_id)
