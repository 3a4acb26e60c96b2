"""What views mean, from lists of events in plain Python: slow, obvious, and sharing no code with `notebento`."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

MINUTE = timedelta(minutes=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LENGTHS = {"7m": 7 * MINUTE, "30m": 30 * MINUTE, "ever": timedelta(days=9999)}
HALF_LIVES = {"4m": 4 * MINUTE, "20m": 20 * MINUTE}


def in_force(events, now):
    """Of each event the newest version known by `now`; an event that is not `there` any more is none."""
    newest = {}
    for event in sorted(events, key=lambda e: (e["known"], e.get("version", 0))):
        if event["known"] <= now:
            newest[event["id"]] = event
    return [e for e in newest.values() if e.get("there", True)]


def windows(events, now):
    """Every aggregate of events that are in force, by its definition."""
    answer = {}
    for name, length in LENGTHS.items():
        inside = [e for e in events if now - length < e["known"] <= now]
        told = [e["v"] for e in inside if e["v"] is not None]
        answer |= {
            f"x_n_{name}": len(inside),
            f"x_sum_{name}": float(sum(told)),
            f"x_mean_{name}": sum(told) / len(told) if told else None,
            f"x_big_{name}": sum(v > 0 for v in told) / len(told) if told else None,
            f"x_least_{name}": min(told, default=None),
            f"x_most_{name}": max(told, default=None),
            f"x_kinds_{name}": len(set(told)),
        }
    for name, length in HALF_LIVES.items():
        answer[f"y_aged_{name}"] = aged(events, now, length)
    return answer


def aged(events, now, half_life):
    """The mean with weights that halve at every full half-life since 1970, and follow 2^x within one, in steps."""
    amount = number = Fraction(0)
    for event in events:
        age = (now - EPOCH) // half_life - (event["known"] - EPOCH) // half_life
        if event["v"] is None or event["known"] > now or age > 10:
            continue
        step = ((event["known"] - EPOCH) % half_life) * 256 // half_life
        weight = Fraction(round(1024 * 2 ** (step / 256)), 2**age)
        amount, number = amount + weight * event["v"], number + weight
    return float(amount) / float(number) if number else None


def newest(events, now, expiry):
    """What is taken from the last event."""
    found = max(events, key=lambda e: (e["known"], e["id"]), default=None)
    if found is None or now - found["known"] >= expiry:
        return {"x_last": None, "x_late": None, "x_ago": None}
    late = found["w"] if found["told"] is not None and found["told"] <= now else None
    return {"x_last": found["v"], "x_late": late, "x_ago": (now - found["at"]) / MINUTE}


def features(events, who, now, everything=False):
    """All features of the entity `who`; null for no entity."""
    if who is None and not everything:
        return None
    mine = [e for e in in_force(events, now) if everything or e["who"] == who]
    return windows(mine, now) | newest(mine, now, 20 * MINUTE)
