// Runs the kernels of aarch64_check.py on the CPU device's runtime and checks what they give. Built for aarch64.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kaasq_runtime.h"

extern "C" {
extern const kaasq::Kernel kaasq_kernels[];
int kaasq_launch(const kaasq::Kernel*, void** arguments, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                 size_t shared_bytes, unsigned threads, int guard, uint64_t* fault, char* message, size_t size);
}

namespace {
char said[1024];
uint64_t fault;

int launch(const char* name, unsigned grid, unsigned block, std::vector<void*> arguments, int guard = 0) {
    const kaasq::Kernel* kernel = kaasq_kernels;
    while (kernel->name && strcmp(kernel->name, name)) kernel++;
    if (!kernel->name) printf("no kernel %s\n", name), exit(1);
    fault = 0;
    return kaasq_launch(kernel, arguments.data(), grid, 1, 1, block, 1, 1, 1024, 3, guard, &fault, said, sizeof said);
}
void expect(bool right, const char* what) {
    printf("%s: %s\n", what, right ? "right" : "WRONG");
    if (!right) exit(1);
}
}  // namespace

int main() {
    constexpr int N = 100003;
    std::vector<float> x(N), y(N), out(N);
    for (int i = 0; i < N; i++) x[i] = static_cast<float>(i % 100), y[i] = 1;
    float *px = x.data(), *py = y.data(), *po = out.data(), a = 2;
    int n = N;
    for (const char* name : {"saxpy", "strided"}) {
        out.assign(N, 0);
        bool right = launch(name, name[1] == 'a' ? (N + 255) / 256 : 7, 256, {&a, &px, &py, &po, &n}) == 0;
        for (int i = 0; i < N; i++) right &= out[i] == 2 * x[i] + 1;
        expect(right, name);
    }
    double total = 0;
    for (float each : x) total += each;
    for (const char* name : {"tree_sum", "shuffle_sum", "group_sum"}) {
        float sum = 0, *ps = &sum;
        bool right = launch(name, 9, 128, {&px, &ps, &n}) == 0;
        expect(right && std::fabs(sum / total - 1) < 1e-5, name);
    }
    int m = 64;
    std::vector<uint16_t> halves(m);
    uint16_t* ph = halves.data();
    expect(launch("halves", 1, 64, {&px, &ph}) == 0 && halves[1] == 0x3e00 && halves[3] == 0x4480, "halves");
    expect(launch("diverges", 4, 64, {&po}) == 1 && strstr(said, "divergent barrier"), "divergent barrier");
    expect(launch("asserts", 4, 64, {&po}) == 1 && strstr(said, "assertion failed"), "assertion");
    float* nowhere = reinterpret_cast<float*>(4096);
    for (const char* name : {"stray", "stray_together"}) {
        const bool right = launch(name, 2, 64, {&nowhere}, 1) == 2 && fault == 4096 + 4 * 7;
        expect(right && strstr(said, "went for address 0x101c"), name);
    }
    expect(launch("saxpy", 1, 256, {&a, &px, &py, &po, &n}, 1) == 0, "a launch after a fault");
}
