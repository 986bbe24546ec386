from clusterdns.table import Answer

def drain(
    fd: int,
    lasting: dict[bytes, Answer],
    passing: dict[bytes, Answer],
    limits: dict[bytes, int],
    hits: list[int],
    now: float,
    /,
) -> tuple[int, int, list[tuple[bytes, tuple[str, int]]]]: ...
