"""Durations as mergeable histograms: percentiles of any rows together, each within 5 % of the truth.

Buckets grow by a factor G = (1 + e) / (1 - e) with e = 0.05, the relative error bound of DDSketch (Masson,
Rim and Lee 2019, "DDSketch: a fast and fully-mergeable quantile sketch"). Bucket i holds (G^(i-1), G^i]
milliseconds, bucket 0 all up to 1 ms. Stored sparsely: one integer per bucket in use, bucket * 2^40 + count.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import ceil, log
from typing import Final

RELATIVE_ERROR: Final = 0.05
_GROWTH: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GROWTH: Final = log(_GROWTH)
COUNT_BITS: Final = 40
COUNT_MASK: Final = (1 << COUNT_BITS) - 1
# Six days in milliseconds; a longer duration counts as that long.
_LONGEST: Final = 5 * 10**8


@lru_cache(maxsize=16_384)
def bucket_of(milliseconds: int) -> int:
    if milliseconds <= 1:
        return 0
    # The smallest i with G^i >= value; rounding first keeps exact powers in their own bucket.
    return ceil(round(log(min(milliseconds, _LONGEST)) / _LOG_GROWTH, 9))


def estimate(bucket: int) -> float:
    """The value that is within the error bound of every value in the bucket, milliseconds."""
    if bucket == 0:
        return 1.0
    return float(2 * _GROWTH**bucket / (_GROWTH + 1))


def encode(buckets: Counter[int]) -> list[int]:
    return [(bucket << COUNT_BITS) + count for bucket, count in sorted(buckets.items())]


def decode(entries: Iterable[int]) -> Counter[int]:
    """Merge encoded entries, of one histogram or of many."""
    merged: Counter[int] = Counter()
    for entry in entries:
        merged[entry >> COUNT_BITS] += entry & COUNT_MASK
    return merged


def percentile(buckets: Mapping[int, int], percent: float) -> float | None:
    """The value that `percent` of the counted ones do not exceed, milliseconds; None without values."""
    total = sum(buckets.values())
    if not total:
        return None
    wanted = max(ceil(total * percent / 100), 1)
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= wanted:
            return estimate(bucket)
    return None
