from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from engine.store.encoding import compress, decompress

TEXTS = [random.Random(n).randbytes(500_000).hex().encode() for n in range(8)]


def test_threads_do_not_spoil_each_others_bodies() -> None:
    def there_and_back(text: bytes) -> bool:
        packed, compressed = compress(text)
        return compressed and decompress(packed, len(text)) == text

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(there_and_back, TEXTS * 8))
