"""Which kernels get a second form that runs their grid-stride loop round by round, and which must not."""

from __future__ import annotations

import pytest

from kaasq_workers.devices.cpu.source import Source
from kaasq_workers.devices.cpu.translation import translation_unit

ME, ALL = "blockIdx.x * blockDim.x + threadIdx.x", "gridDim.x * blockDim.x"
KERNEL = 'extern "C" __global__ void k(const float* x, float* out, int n, float a) {{ {} }}'


def forms(body: str, *, before: str = "") -> int:
    return len(Source(before + "\n" + KERNEL.format(body)).strided())


@pytest.mark.parametrize(
    "body",
    [
        f"for (int i = {ME}; i < n; i += {ALL}) out[i] = a * x[i];",
        f"for (int i = {ME}; i <= n - 1; i += {ALL}) {{ if (x[i] < 0) continue; out[i] = x[i]; }}",
        f"for (size_t i = {ME}; n > i; i = i + {ALL}) {{ float v = x[i]; out[i] = v * v; }}",
        f"int i = {ME}; int stride = {ALL}; for (; i < n; i += stride) out[i] = x[i];",
        f"int i = {ME}, s = {ALL}; while (i < n) {{ out[i] = x[i]; i += s; }}",
        f"const unsigned tid = {ME}; for (unsigned i = tid; i < n; i += {ALL}) out[tid] += x[i];",
        f"const float4* y = (const float4*)x; for (auto i = {ME}; i < n / 4; i += {ALL}) out[i] = y[i].x;",
        f"for (int i = {ME}; i < n; i += {ALL}) for (int j = 0; j < 4; j++) out[i] += j;",
        "for (int i = threadIdx.x; i < n; i += blockDim.x) { atomicAdd(out, x[i]); }",
    ],
)
def test_a_kernel_that_is_one_grid_stride_loop_has_a_second_form(body: str) -> None:
    assert forms(body) == 1


@pytest.mark.parametrize(
    "body",
    [
        f"for (int i = {ME}; i < n; i += {ALL}) {{ if (x[i] < 0) break; out[i] = 1; }}",
        f"for (int i = {ME}; i < n; i += {ALL}) {{ if (x[i] < 0) return; out[i] = 1; }}",
        f"for (int i = {ME}; i < n; i += {ALL}) {{ LEAVE; out[i] = 1; }}",
        f"float sum = 0; for (int i = {ME}; i < n; i += {ALL}) {{ sum += x[i]; }} out[0] = sum;",
        f"float sum = 0; for (int i = {ME}; i < n; i += {ALL}) {{ sum += x[i]; out[i] = sum; }}",
        f"float first = x[0]; for (int i = {ME}; i < n; i += {ALL}) {{ out[i] = first; }}",
        f"float first = *x; for (int i = {ME}; i < n; i += {ALL}) {{ out[i] = first; }}",
        f"int m = LIMIT; for (int i = {ME}; i < m; i += {ALL}) {{ out[i] = 1; }}",
        f"int m = count; for (int i = {ME}; i < m; i += {ALL}) {{ out[i] = 1; }}",
        f"int m = next(); for (int i = {ME}; i < m; i += {ALL}) {{ out[i] = 1; }}",
        f"for (int i = {ME}; i < n; i += {ALL}) {{ __syncthreads(); out[i] = 1; }}",
        f"for (int i = {ME}; i < n; i += {ALL}) {{ static int calls = 0; out[i] = calls++; }}",
        f"for (int i = {ME}; i < n; i += {ALL}) {{ out[i] = 1; }} out[0] = 2;",
        f"out[0] = 1; for (int i = {ME}; i < n; i += {ALL}) {{ out[i] = 1; }}",
        f"if (n < 4) {{ out[0] = 1; }} for (int i = {ME}; i < n; i += {ALL}) {{ out[i] = 1; }}",
        f"for (int i = {ME}; i < x[0]; i += {ALL}) {{ out[i] = 1; }}",
        f"for (int i = {ME}; i < n && a > 0; i += {ALL}) {{ out[i] = 1; }}",
        f"for (int i = {ME}; i != n; i += {ALL}) {{ out[i] = 1; }}",
        f"for (int i = {ME}; i < n; i *= 2) {{ out[i] = 1; }}",
        f"for (int i = {ME}; i < n; i += i) {{ out[i] = 1; }}",
        f"for (int i = n; i > 0; i -= {ALL}) {{ out[i] = 1; }}",
        f"int i = {ME}; while (i < n) {{ i += {ALL}; if (i == 3) continue; out[i - {ALL}] = 1; }}",
        "out[threadIdx.x] = 1;",
    ],
)
def test_a_kernel_in_which_anything_else_happens_has_none(body: str) -> None:
    macros = "#define LEAVE if (threadIdx.x == 3) break\n#define LIMIT next()\n"
    assert forms(body, before=macros + "__device__ int count; __device__ int next();") == 0


def test_plain_macros_are_looked_into() -> None:
    macros = f"#define ME ({ME})\n#define STEP (gridDim.x * SIZE)\n#define SIZE blockDim.x\n#define READ x[0]\n"
    assert forms("for (int i = ME; i < n; i += STEP) out[i] = 1;", before=macros) == 1
    assert forms("for (int i = ME; i < READ; i += STEP) out[i] = 1;", before=macros) == 0
    assert forms("for (int i = ME; i < n; i += STEP) out[i] = 1;", before=macros + "#define SIZE 3\n") == 0


def test_an_option_is_a_definition_too() -> None:
    source = "#ifndef SIZE\n#define SIZE 64\n#endif\n" + KERNEL.format(
        f"for (int i = {ME}; i < SIZE; i += 64) out[i] = END;"
    )
    assert len(Source(source, ["#define SIZE 500", "#define END 1"]).strided()) == 1
    assert not Source(source, ["#define SIZE next()"]).strided()
    assert not Source(source, ["#define END ({ break; 1; })"]).strided()


def test_the_second_form_leaves_macros_to_the_compiler_which_knows_what_holds_where() -> None:
    (form,) = Source(
        "#define n 5\n#undef n\n" + KERNEL.format(f"for (int i = {ME}; i < n; i += {ALL}) out[i] = 1;")
    ).strided()
    assert "i < n" in form.text
    assert "5" not in form.text


@pytest.mark.parametrize(
    ("before", "body"),
    [
        ("", "(float&)a += x[i];"),
        ("", "*(float*)&a += x[i];"),
        ("", "((float*)&(a))[0] = x[i];"),
        ("", "const_cast<float&>(a) += x[i];"),
        ("#define AT(v) ((float*)&v)\n", "*AT(a) += x[i];"),
        ("__device__ void add(const float& sum, float x) { (float&)sum += x; }", "add(a, x[i]);"),
        ("template <class T> __device__ void add(const T& a, T x) { const_cast<T&>(a) += x; }", "add(a, x[i]);"),
        ("struct Sum { mutable float value; };", "out[i] = 1;"),
        ("#define JOIN(a, b) a##b\n", "JOIN(bre, ak);"),
        ("", "bre\\\nak;"),
        ("extern __shared__ float mine[];", "mine[threadIdx.x] += x[i];"),
        ("__shared__ float mine[64];", "mine[threadIdx.x] += x[i];"),
        ("__device__ float& mine() { __shared__ float all[64]; return all[threadIdx.x]; }", "mine() += x[i];"),
    ],
)
def test_what_goes_from_round_to_round_in_disguise_is_seen(before: str, body: str) -> None:
    assert forms(f"for (int i = {ME}; i < n; i += {ALL}) {{ {body} }}", before=before) == 0


def test_addresses_of_elements_and_bits_in_common_are_no_disguise() -> None:
    body = "if (i > 0 && n > 3) continue; float4 v = *(float4*)&x[i]; out[i & n] = v.x; atomicAdd(&out[n & i], 1);"
    assert forms(f"for (int i = {ME}; i < n; i += {ALL}) {{ {body} }}") == 1


def test_a_template_with_a_specialisation_has_no_second_form_that_would_stand_for_both() -> None:
    loop = f"{{ for (int i = {ME}; i < n; i += {ALL}) x[i] = 1; }}"
    template = f"template <class T> __global__ void k(T* x, int n) {loop}\n"
    assert len(Source(template).strided()) == 1
    assert not Source(template + "template <> __global__ void k<float>(float* x, int n) { x[0] = 2; }").strided()


def test_directives_within_a_kernel_leave_it_alone() -> None:
    assert forms(f"\n#if 1\nfor (int i = {ME}; i < n; i += {ALL}) out[i] = 1;\n#endif\n") == 0


def test_the_second_form_is_named_in_the_table_and_lines_stay_where_they_were() -> None:
    loop = f"for (int i = {ME}; i < n; i += {ALL}) out[i] = 1;"
    text = f"namespace deep {{ template <class T, int m>\n__global__ void k(T* out, int n)\n{{ {loop} }}\n}}\nlast"
    source = Source(text)
    unit = translation_unit(source, source.kernels(), ("deep::k<float, 2>",), [], second_forms=True).split("\n")
    entry = "describe<(deep::k<float, 2>), (deep::kaasq_strided_k<float, 2>), false, false>"
    assert any(entry in each for each in unit)
    resumed = unit.index('#line 3 "kernel.cu"')
    assert unit[resumed + 1 : resumed + 4] == ["", "}", "last"]
