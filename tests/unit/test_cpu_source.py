"""Reading CUDA C++: comments and strings, kernels, which of them wait, what a CPU cannot run, the rewriting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq.errors import ModuleRejected
from kaasq_workers.devices.cpu.source import Source
from kaasq_workers.devices.cpu.syntax import strip
from kaasq_workers.devices.cpu.translation import check_name, translate_options, translation_unit


@pytest.mark.parametrize(
    ("source", "stripped"),
    [
        ("a // b\nc", "a     \nc"),
        ("a /* b\n c */ d", "a     \n      d"),
        ('s = "a // b";', 's = "      ";'),
        (r's = "\"//"; // x', 's = "    ";     '),
        ("c = '\"'; d", 'c = " "; d'),
        ("n = 1'000'000; // x", "n = 1'000'000;     "),
        ("x = 0x1p-3f; 'a'", 'x = 0x1p-3f; " "'),
        ('R"x(" // )x" y', '"          " y'),
        ("a // b \\\n still\nc", "a       \n      \nc"),
        ("/* never ends", "             "),
    ],
)
def test_comments_and_strings_are_blanked_out(source: str, stripped: str) -> None:
    assert strip(source) == stripped


@given(st.text(alphabet="ab\"'/*\\\n R(){};#<>_0.", max_size=60))
def test_stripping_keeps_every_line_where_it_was(source: str) -> None:
    stripped = strip(source)
    assert [len(line) for line in stripped.split("\n")] == [len(line) for line in source.split("\n")]
    Source(source).kernels()


KERNELS = r"""
// __global__ void in_a_comment(int x);
#define SYNC() __syncthreads()
#define PLAIN(x) ((x) + 1)
struct Line { float a; };
const char* text = "__global__ void in_a_string()";

extern "C" __global__ void plain(float* x) { x[0] = PLAIN(x[0]); }
extern "C" {
__global__ void
__launch_bounds__(128, 2)
bounded(float* __restrict__ x, Line line) { SYNC(); }
}
template <typename T, int n = 4>
__global__ void templated(T* x) { if (n) { x[0] = T(); } }
namespace outer { namespace inner {
    static __global__ void nested(float* x);
}
namespace again::deeper { __launch_bounds__(64) __global__ void twice(float* x) {} }
}
__device__ void helper(float* x) { __syncwarp(); }
__device__ float bystander(float x) { return x; }
__global__ void indirect(float* x) { helper(x); }
__global__ void unaffected(float* helper_like) { bystander(*helper_like); }

template <class T> struct Reducer {
    T shared[4];
    __device__ T run(T x) { return __shfl_sync(~0u, x, 0); }
};
using FloatReducer = Reducer<float>;
__global__ void through_a_type(float* x) { FloatReducer r; *x = r.run(*x); }
__global__ __attribute__((noinline)) void with_attribute(float (*x)[4], int (*f)(int)) {}
"""


def test_kernels_are_listed_with_namespaces_templates_and_bounds() -> None:
    found = {each.name: each for each in Source(KERNELS).kernels()}
    assert list(found) == [
        "plain", "bounded", "templated", "outer::inner::nested", "outer::again::deeper::twice", "indirect",
        "unaffected", "through_a_type", "with_attribute",
    ]  # fmt: skip
    assert [name for name, each in found.items() if each.template] == ["templated"]
    assert found["bounded"].threads_per_block == 128
    assert found["outer::again::deeper::twice"].threads_per_block == 64
    assert found["plain"].threads_per_block is None


def test_a_kernel_waits_if_a_barrier_can_be_reached_from_it() -> None:
    waiting = {each.name for each in Source(KERNELS).kernels() if each.waits}
    assert waiting == {"bounded", "indirect", "through_a_type"}


def test_a_template_waits_if_its_argument_does() -> None:
    source = Source("""
        struct Quiet { __device__ void operator()() {} };
        struct Waiting { __device__ void operator()() { __syncthreads(); } };
        template <class F> __global__ void apply(F f) { f(); }
    """)
    assert not source.waits("apply<Quiet>")
    assert source.waits("apply<Waiting>")


def test_recursion_is_followed_once() -> None:
    source = Source("__device__ void a(); __device__ void b() { a(); } void a() { b(); } __global__ void k() { a(); }")
    assert not source.waits("k")


@pytest.mark.parametrize(
    ("qualifiers", "kind"),
    [
        ("extern __shared__ float", "float"),
        ("extern __shared__ unsigned long long", "unsigned long long"),
        ("extern __shared__ __align__(16) unsigned char", "unsigned char"),
        ("extern __shared__ alignas(sizeof(float4)) T", "T"),
        ("extern volatile __shared__ int", "volatile int"),
        ("__shared__ extern int", "int"),
        ("extern __shared__ std::pair<int, int>", "std::pair<int, int>"),
    ],
)
def test_dynamic_shared_memory_becomes_a_pointer(qualifiers: str, kind: str) -> None:
    pointer = f"{kind}* const s = kaasq_dynamic_shared<{kind}>();"
    inside = "template <class T> __global__ void k() {{ {} s[0] = 1; }}"
    assert Source(inside.format(f"{qualifiers} s[];")).rewritten() == inside.format(pointer)
    outside = "namespace n {{ {} }}\n__global__ void k() {{}}"
    at_file_scope = outside.format(f"static thread_local {pointer}")
    assert Source(outside.format(f"{qualifiers} s[ ];")).rewritten() == at_file_scope


def test_dynamic_shared_memory_of_rows_and_over_several_lines() -> None:
    source = "void k() {\nextern __shared__\n float\n s[][32];\n}"
    assert Source(source).rewritten() == "void k() {\nfloat (*const s)[32] = (float (*)[32])kaasq_shared;\n\n\n}"


def test_nothing_else_is_rewritten() -> None:
    source = (
        'extern "C" __global__ void k() { __shared__ float s[4]; /* extern __shared__ float t[]; */ }\nextern int x[];'
    )
    assert Source(source).rewritten() == source


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ('asm volatile("mov.u32 %0, %laneid;" : "=r"(x));', "inline assembly (PTX)"),
        ("wmma::fragment<wmma::accumulator, 16, 16, 16, float> c;", "tensor core operations (wmma)"),
        ("texture<float, 2> t;", "textures"),
        ("cudaTextureObject_t t;", "textures"),
        ("surf2Dwrite(v, s, x, y);", "surfaces"),
        ("__global__ void __cluster_dims__(2) k() {}", "thread block clusters"),
        ("auto g = this_grid();", "barriers of a whole grid"),
        ("nvcuda::wmma::mma_sync(c, a, b, c);", "tensor core operations (wmma)"),
        ("float v = tex1Dfetch<float>(t, 0);", "textures"),
        ("auto c = cg::this_cluster();", "thread block clusters"),
        ("cg::grid_group g;", "barriers of a whole grid"),
        ("cg::memcpy_async(block, s, x, 4);", "asynchronous copies to shared memory"),
        ("__pipeline_commit();", "asynchronous copies to shared memory"),
        ("auto p = cuda::make_pipeline();", "asynchronous copies to shared memory"),
        ("__global__ void k(const __grid_constant__ CUtensorMap map) {}", "tensor memory copies (TMA)"),
        ("cde::cp_async_bulk_commit_group();", "tensor memory copies (TMA)"),
        ("cudaLaunchKernelEx(&c, f, x);", "launches from a kernel"),
        ("cudaLaunchCooperativeKernel(f, 1, 1, 0);", "launches from a kernel"),
        ("child<<<1, 1>>>();", "launches from a kernel (<<< >>>)"),
    ],
)
def test_what_a_cpu_cannot_run_is_found_with_its_line(code: str, what: str) -> None:
    (first, *_) = Source(f'// asm\nconst char* s = "asm <<<";\n{code}').unsupported()
    assert (first.what, first.line, first.conditional) == (what, 3, False)
    error = first.rejection()
    assert isinstance(error, ModuleRejected)
    assert error.message == f"kernel.cu:3: {what} cannot run on the cpu device; it needs a GPU"


def test_words_that_only_look_unsupported() -> None:
    assert not Source("float texture = 1; int surface(int); x << 3; a <<= 2; b >>= 1; int asmx;").unsupported()


def test_what_stands_within_a_condition_may_not_be_compiled() -> None:
    source = Source('#if __CUDA_ARCH__ >= 800\nasm("x");\n#else\n;\n#endif\nasm("y");')
    assert [(each.line, each.conditional) for each in source.unsupported()] == [(2, True), (6, False)]


@pytest.mark.parametrize(
    "name", ["absent", "plain; int x", 'plain"', "", "<float>", "templated", "plain), (f(), plain"]
)
def test_names_that_no_kernel_can_have(name: str) -> None:
    source = Source(KERNELS)
    with pytest.raises(ModuleRejected) as caught:
        check_name(name, source, source.kernels())
    assert "outer::inner::nested" in caught.value.kernels


def test_options() -> None:
    assert translate_options(()) == ([], ["-std=c++17", "-ffp-contract=fast"])
    defines, flags = translate_options(("-DN=3", "-DFLAG", "--std=c++20", "-fmad=false", "-use_fast_math"))
    assert defines == ["#define N 3", "#define FLAG 1"]
    assert flags[:2] == ["-std=c++20", "-ffp-contract=off"]
    assert "-ffast-math" not in flags
    assert "-ffinite-math-only" not in flags


def test_the_users_source_keeps_its_line_numbers() -> None:
    source = Source("first\nextern __shared__\nfloat s[];\nfourth __global__ void div() {}\n")
    unit = translation_unit(source, source.kernels(), ("div",), ["#define N 1"], second_forms=False).split("\n")
    start = unit.index('#line 1 "kernel.cu"')
    assert unit[start + 1] == "first"
    assert unit[start + 4].startswith("fourth")
    assert "#define div kaasq_kernel_div" in unit[:start]
    assert any('describe<(div), (nullptr), false, false>("div", 1024)' in line for line in unit[start:])


def test_a_specialisation_is_a_kernel_that_may_wait_where_the_template_does_not() -> None:
    source = Source("""
        template <class T, int n> __global__ void k(T* x) { x[0] = n; }
        template <> __global__ void k<float, 3>(float* x) { __syncthreads(); }
        __global__ void other() {}
    """)
    assert {each.name: each.waits for each in source.kernels()} == {"k": True, "other": False}


def test_a_barrier_that_an_option_names_is_seen() -> None:
    text = "__global__ void k() { SYNC(); }"
    assert not Source(text).waits("k")
    assert Source(text, ["#define SYNC __syncthreads"]).waits("k")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ('extern "C" void k(float* x) {}', "k"),
        ("void k(float* x);\nvoid k(float* x) {}", "k"),
        ("__device__ void k(float* x) {}", "k"),
        ("namespace a { void k(float* x) {} }\n__global__ void k(float* x) {}", "a::k"),
        ("template <class T> void k(T* x) {}", "k<float>"),
    ],
)
def test_a_function_without_global_is_no_kernel_as_on_a_gpu(source: str, name: str) -> None:
    read = Source(source)
    with pytest.raises(ModuleRejected, match="a function without __global__"):
        check_name(name, read, read.kernels())


@pytest.mark.parametrize(
    "source",
    [
        "__global__ void k(float* x);\nvoid k(float* x) {}",
        "#define KERNEL __global__ void\nKERNEL k(float* x) {}",
        "#define KERNEL(name) __global__ void name(float* x)\nKERNEL(k) {}",
        "void k(int x) {}\n__global__ void k(float* x) {}",
    ],
)
def test_what_may_be_a_kernel_is_left_to_the_compiler(source: str) -> None:
    read = Source(source)
    check_name("k", read, read.kernels())
