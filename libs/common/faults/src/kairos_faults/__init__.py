from kairos_faults.faults import (
    Action,
    Faults,
    FaultSyntaxError,
    InjectedFault,
    UndeclaredPoint,
    apoint,
    arm,
    arm_all,
    armed,
    disarm,
    parse,
    point,
)
from kairos_faults.points import POINTS

__all__ = [
    "POINTS",
    "Action",
    "FaultSyntaxError",
    "Faults",
    "InjectedFault",
    "UndeclaredPoint",
    "apoint",
    "arm",
    "arm_all",
    "armed",
    "disarm",
    "parse",
    "point",
]
