"""Names of kernels that say nothing else."""

from __future__ import annotations

import pytest

from kaasq_workers.devices.kernel_names import is_kernel_name


@pytest.mark.parametrize(
    "name",
    [
        "k",
        "_k1",
        "::k",
        "a::b::k",
        "k<float>",
        "k <float, 3>",
        "ns::k<std::pair<float, int>, -1, (3 > 2)>",
        "k<unsigned long long*, &f, float[4], sizeof(float) == 4>",
        "k<>",
    ],
)
def test_names_and_instances_of_templates(name: str) -> None:
    assert is_kernel_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "<float>",
        "3k",
        "k k",
        "k)",
        "k(1)",
        "&k",
        "k, k",
        "k<float",
        "k<float>>",
        "k<1>(f())",
        "k<a> b <c>",
        "k<(>)",
        "k<(1>",
        "k<1)>(2>",
        "k<'a'>",
        'k<"a">',
        "k<[]{ return 1; }()>",
        "k<1>; int x",
        "k<1>\n",
        "k\n",
        "k\\",
        "k<float>); __global__ void other(); (",
        "k), nullptr, false, false>((const char*)0, (abort(), 1)), (const char*)(k",
    ],
)
def test_what_would_be_more_than_a_name(name: str) -> None:
    assert not is_kernel_name(name)
