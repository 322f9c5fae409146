"""Which models may answer a request, and who is asked beside them."""

import hashlib
import random
from dataclasses import dataclass
from functools import lru_cache

from forecasting.bundle import POPULATION
from forecasting.errors import InvalidInput, InvalidSetting
from forecasting.references import CHALLENGER, CHAMPION, model_name

UNFIT_ID = (
    "the patient_id cannot name a model: use up to 64 letters, digits, '.', '_' or '-' (no '--', no '-' beside a slash)"
)


@dataclass(frozen=True, slots=True)
class Route:
    """references: those to try, best first; with_shadow: let the challenger forecast too, unseen."""

    references: tuple[str, ...]
    with_shadow: bool = False


@dataclass(frozen=True)
class Routing:
    """Routes within a namespace, the data set whose models are meant where a request names none.

    canary_share: of the patients, whom the challenger answers; shadow_share: of the forecasts of the others
    """

    namespace: str
    canary_share: float = 0.0
    shadow_share: float = 0.0

    def route(self, patient_id: str, model: str) -> Route:
        """The model that was named, else the patient's own, else the population's; of each, who is tried and then
        who is champion for a patient of the canary share, the champion alone for others.

        A patient is in the share or not for as long as the share lasts, by a hash of the id. A model that was named
        is asked alone. Raises InvalidInput for a patient id that is missing or cannot name a model.
        """
        personal = self.personal_name(patient_id)
        if model:
            return Route((model,))
        names = personal, model_name(self.namespace)
        if self.canary_share and _place_of(self.namespace, patient_id) < self.canary_share:
            return Route(tuple(f"{name}@{alias}" for name in names for alias in (CHALLENGER, CHAMPION)))
        champions = tuple(f"{name}@{CHAMPION}" for name in names)
        return Route(champions, bool(self.shadow_share) and random.random() < self.shadow_share)

    def personal_name(self, patient_id: str) -> str:
        """The patient's own model; raises InvalidInput for an id that is missing or cannot name one."""
        if not patient_id:
            raise InvalidInput("the request has no patient_id; say whose readings these are", "patient_id")
        try:
            return _personal_name(self.namespace, patient_id)
        except InvalidSetting:
            raise InvalidInput(UNFIT_ID, "patient_id") from None  # without the id: it names a person

    def listed(self, patient_id: str) -> tuple[str, ...]:
        """References of the models that a caller may be told of: the population's, and the patient's own."""
        names = (model_name(self.namespace), *((self.personal_name(patient_id),) if patient_id else ()))
        return tuple(f"{name}@{alias}" for name in names for alias in (CHAMPION, CHALLENGER))

    def is_for_another_patient(self, model: str, patient_id: str) -> bool:
        """Was this model made for one person, and is that somebody else? Ids of other data sets are other people's."""
        _, _, owner = model.partition("-")  # a data set's name holds no '-'
        return owner != POPULATION and model != self.personal_name(patient_id)


@lru_cache(maxsize=10_000)
def _personal_name(namespace: str, patient_id: str) -> str:
    return model_name(namespace, patient_id)


@lru_cache(maxsize=10_000)
def _place_of(namespace: str, patient_id: str) -> float:
    """A place in [0, 1) that is a patient's own."""
    digest = hashlib.blake2b(f"{namespace}\0{patient_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
