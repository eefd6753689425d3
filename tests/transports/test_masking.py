from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from preview_proxy.transports.masking import apply_mask, new_key


def test_a_message_masked_twice_is_the_message() -> None:
    key = new_key()
    assert apply_mask(apply_mask(b"hello", key), key) == b"hello"


def test_keys_are_four_bytes_and_not_given_twice_to_any_thread() -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda _: new_key(), range(2_000)))
    assert {len(key) for key in keys} == {4}
    assert len(set(keys)) > 1_990  # of 2 ** 32, two may be alike by chance
