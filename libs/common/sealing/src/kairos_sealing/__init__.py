from kairos_sealing.keys import UnusableKey, derived_key
from kairos_sealing.sealer import Sealer

__all__ = ["Sealer", "UnusableKey", "derived_key"]
