"""Where buffers lie: apart, aligned, all that starts as zeros in one piece, and the same for the same inputs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kaasq.model import Buffer, Role
from kaasq_workers.executor.layout import ALIGNMENT, lay_out

ROLES: list[Role] = ["input", "output", "inout", "temp"]
GIVEN = {"input", "inout"}
drawn = st.lists(st.tuples(st.sampled_from(ROLES), st.integers(0, 3000), st.booleans(), st.booleans()), max_size=12)


@given(drawn)
def test_buffers_lie_apart_and_aligned_and_what_starts_as_zeros_in_one_piece(wanted):
    buffers = [Buffer(name=f"b{index}", role=role, nbytes=nbytes) for index, (role, nbytes, _, _) in enumerate(wanted)]
    elsewhere = {f"b{index}" for index, (role, _, shared, _) in enumerate(wanted) if shared and role == "input"}
    overwritten = {f"b{index}" for index, (_, _, _, chosen) in enumerate(wanted) if chosen}
    layout = lay_out(buffers, elsewhere, overwritten)
    assert layout.places.keys() == {each.name for each in buffers} - elsewhere
    end = 0
    for offset, nbytes in sorted(layout.places.values()):
        assert offset >= end
        assert offset % ALIGNMENT == 0
        end = offset + max(nbytes, 1)  # an empty buffer has an address of its own
    assert end <= layout.nbytes
    start, zeroed = layout.zeroed
    for each in buffers:
        if each.name in layout.places:
            offset, nbytes = layout.places[each.name]
            within = start <= offset and offset + nbytes <= start + zeroed
            if each.role in GIVEN:
                assert offset + nbytes <= start
            elif each.name in overwritten:
                assert offset >= start + zeroed
            else:
                assert within
    assert set(layout.given) == {each.name for each in buffers if each.role in GIVEN} - elsewhere
    assert lay_out(buffers, elsewhere, overwritten) == layout
