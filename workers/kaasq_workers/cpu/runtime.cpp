// The CPU device's runtime: compiled once, loaded before any module. Runs the blocks of a launch on a pool of OS
// threads; a kernel with barriers gets one fiber per CUDA thread, all fibers of a block on one OS thread.
#include "kaasq_runtime.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

using kaasq::BlockVote;
using kaasq::Exchange;
using kaasq::Index;
using kaasq::Kernel;
using kaasq::Launch;

extern "C" {
__thread __attribute__((tls_model("initial-exec"))) const kaasq::Thread* kaasq_thread;
__thread __attribute__((tls_model("initial-exec"))) char* kaasq_shared;
void kaasq_switch(void** save_stack_pointer, void* stack_pointer);
}

namespace {

constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned NOWHERE = ~0u;
constexpr unsigned MAX_WARPS = MAX_THREADS / WARP;
constexpr size_t PAGE = 4096;  // a larger page size only makes the guard coarser: STACK_BYTES is a multiple of 64 KiB
constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t SHARED_BYTES = 256 << 10;  // above the 227 KiB a block may ask for, so the address never changes
constexpr auto ALONE = std::chrono::microseconds(20);  // about what waking another OS thread costs

std::string text(Index i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

struct Failure : std::exception {
    std::string message;
    explicit Failure(std::string text) : message(std::move(text)) {}
    const char* what() const noexcept override { return message.c_str(); }
};

}  // namespace

// ------------------------------------------------------------------------------------------------ switching stacks
// Saves what the calling convention says a callee must preserve, on the old stack, and restores it from the new one.
#if defined(__x86_64__)
asm(R"(
    .text
    .p2align 4
    .globl kaasq_switch
    .hidden kaasq_switch
    .type kaasq_switch, @function
kaasq_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
    .size kaasq_switch, .-kaasq_switch
)");
namespace {
// The stack as kaasq_switch would have left it, were `entry` the place to return to.
void* prepared_stack(char* top, void (*entry)()) {
    void** sp = reinterpret_cast<void**>(top);
    *--sp = nullptr;  // a function starts with its return address on the stack: there is none
    *--sp = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; saved++) *--sp = nullptr;
    return sp;
}
}  // namespace
#elif defined(__aarch64__)
asm(R"(
    .text
    .p2align 4
    .globl kaasq_switch
    .hidden kaasq_switch
    .type kaasq_switch, %function
kaasq_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size kaasq_switch, .-kaasq_switch
)");
namespace {
void* prepared_stack(char* top, void (*entry)()) {
    void** sp = reinterpret_cast<void**>(top - 160);
    memset(sp, 0, 160);
    sp[11] = reinterpret_cast<void*>(entry);  // x30, the link register: `ret` goes there
    return sp;
}
}  // namespace
#else
#error "kaasq's CPU device runs on x86-64 and aarch64"
#endif

// --------------------------------------------------------------------------------------- one block, with barriers
namespace {

struct Fiber : kaasq::Thread {
    void* stack_pointer = nullptr;  // null: it has to start afresh
    char* stack = nullptr;
    Exchange* held = nullptr;           // the collective whose values it may still be reading
    unsigned converging = NOWHERE;  // the __activemask() it waits at
    unsigned converged = 0;
};

struct Warp {
    uint32_t live = 0;
    uint32_t used = 0;     // exchanges in use
    uint32_t filling = 0;  // of those, the ones that still wait for lanes
    Exchange exchanges[WARP];
};

// Runs blocks whose threads wait for each other. One per OS thread; a fiber never leaves its OS thread, so that
// compiled code may keep addresses of thread-local variables across a barrier.
class BlockRunner {
  public:
    BlockRunner() : fibers(new Fiber[MAX_THREADS]), warps(new Warp[MAX_WARPS]) {}
    ~BlockRunner() {
        for (unsigned i = 0; i < MAX_THREADS; i++)
            if (fibers[i].stack) munmap(fibers[i].stack, STACK_BYTES);
    }
    BlockRunner(const BlockRunner&) = delete;

    void run(const Kernel* kernel, const Launch* launch, Index block);
    BlockVote sync_block(bool vote);
    const Exchange* exchange(unsigned mask, uint64_t value);
    unsigned converged_lanes(unsigned place);

  private:
    static void fiber_main();
    void start_stack(unsigned i);
    void finish();
    void wait();
    void release_block();
    void release_exchange(Warp& warp, unsigned slot, unsigned first_thread);
    bool converge();
    [[noreturn]] void abandon(std::string why);
    std::string standstill() const;

    std::unique_ptr<Fiber[]> fibers;
    std::unique_ptr<Warp[]> warps;
    unsigned char ready[MAX_THREADS], alive[MAX_THREADS], at_barrier[MAX_THREADS];
    const Kernel* kernel = nullptr;
    const Launch* launch = nullptr;
    Index block{};
    unsigned count = 0, live = 0, current = 0;
    unsigned arrived = 0, generation = 0;
    BlockVote votes[2] = {};  // two, because a thread may vote again before the last one has read the result
    void* home = nullptr;
    std::string failure;
};

thread_local std::unique_ptr<BlockRunner> runner_owner;
__thread __attribute__((tls_model("initial-exec"))) BlockRunner* runner;

void BlockRunner::start_stack(unsigned i) {
    Fiber& fiber = fibers[i];
    if (!fiber.stack) {
        void* stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (stack == MAP_FAILED) throw Failure("no memory for the stacks of " + std::to_string(count) + " threads");
        fiber.stack = static_cast<char*>(stack);
        // A guard page turns an overflow into a crash instead of a scribble over the neighbour's stack. Where the
        // process is at its limit of mappings this fails, and the stack goes without.
        (void)mprotect(stack, PAGE, PROT_NONE);
    }
    // Stacks are a power of two apart: staggering their tops keeps the hot parts out of each other's cache sets.
    fiber.stack_pointer = prepared_stack(fiber.stack + STACK_BYTES - ((i * 17 % 61) << 8), &BlockRunner::fiber_main);
}

void BlockRunner::run(const Kernel* of_kernel, const Launch* of_launch, Index at) {
    kernel = of_kernel;
    launch = of_launch;
    block = at;
    const Index size = launch->block;
    count = live = size.x * size.y * size.z;
    arrived = generation = 0;
    votes[0] = votes[1] = {};
    unsigned i = 0;
    for (unsigned z = 0; z < size.z; z++)
        for (unsigned y = 0; y < size.y; y++)
            for (unsigned x = 0; x < size.x; x++, i++) {
                Fiber& fiber = fibers[i];
                fiber.index = {x, y, z};
                fiber.linear = i;
                fiber.held = nullptr;
                fiber.converging = NOWHERE;
                if (!fiber.stack_pointer) start_stack(i);
            }
    memset(ready, 1, count);
    memset(alive, 1, count);
    memset(at_barrier, 0, count);
    for (unsigned w = 0; w * WARP < count; w++) {
        const unsigned lanes = std::min(count - w * WARP, WARP);
        warps[w].live = lanes == WARP ? ~0u : (1u << lanes) - 1;
        warps[w].used = warps[w].filling = 0;
    }
    kernel->run_block(launch, block);
    current = 0;
    kaasq_thread = &fibers[0];
    kaasq_switch(&home, fibers[0].stack_pointer);
    kaasq_thread = nullptr;
    if (!failure.empty()) {
        for (unsigned k = 0; k < count; k++) fibers[k].stack_pointer = nullptr;  // they stopped in mid-kernel
        std::string message;
        message.swap(failure);
        throw Failure(message);
    }
}

void BlockRunner::fiber_main() {
    for (;;) {  // once per block: a fiber that finished a block starts the next one here
        BlockRunner* self = runner;
        try {
            self->kernel->run_thread(self->launch, self->fibers[self->current].index);
        } catch (const Failure& failed) {
            self->abandon(failed.message);
        } catch (const std::exception& failed) {
            self->abandon(failed.what());
        } catch (...) {
            self->abandon("an exception left the kernel");
        }
        self->finish();
    }
}

void BlockRunner::abandon(std::string why) {
    failure = why.empty() ? "failed" : std::move(why);
    void* dead;
    kaasq_switch(&dead, home);
    __builtin_unreachable();
}

// Go on with the next thread that can run. Threads run in turn, so that a barrier costs one switch per thread.
void BlockRunner::wait() {
    Fiber& self = fibers[current];
    for (;;) {
        const unsigned from = current + 1;
        const void* found = from < count ? memchr(ready + from, 1, count - from) : nullptr;
        if (!found) found = memchr(ready, 1, std::min(from, count));
        if (found) {
            const unsigned next = static_cast<const unsigned char*>(found) - ready;
            if (next == current) return;
            current = next;
            kaasq_thread = &fibers[next];
            kaasq_switch(&self.stack_pointer, fibers[next].stack_pointer);
            return;
        }
        if (!converge()) abandon(standstill());
    }
}

void BlockRunner::finish() {
    Fiber& self = fibers[current];
    ready[current] = alive[current] = 0;
    Warp& warp = warps[current / WARP];
    warp.live &= ~(1u << current % WARP);
    if (--live == 0) {
        kaasq_switch(&self.stack_pointer, home);
        return;
    }
    // An exited thread counts as arrived: whoever waited only for it may go on.
    if (arrived == live) release_block();
    for (uint32_t rest = warp.filling; rest; rest &= rest - 1) {
        const unsigned slot = __builtin_ctz(rest);
        const Exchange& each = warp.exchanges[slot];
        if ((each.members & warp.live) == (each.mask & warp.live))
            release_exchange(warp, slot, current / WARP * WARP);
    }
    wait();
}

void BlockRunner::release_block() {
    arrived = 0;
    generation++;
    votes[generation & 1] = {};  // everybody has read that one: they all arrived here since
    memcpy(ready, alive, count);
    memset(at_barrier, 0, count);
}

BlockVote BlockRunner::sync_block(bool vote) {
    BlockVote& result = votes[generation & 1];
    result.in_favour += vote;
    result.voters++;
    if (++arrived == live) {
        release_block();
    } else {
        ready[current] = 0;
        at_barrier[current] = 1;
        wait();
    }
    return result;
}

void BlockRunner::release_exchange(Warp& warp, unsigned slot, unsigned first_thread) {
    Exchange& each = warp.exchanges[slot];
    warp.filling &= ~(1u << slot);
    each.pending = each.members;
    for (uint32_t rest = each.members & warp.live; rest; rest &= rest - 1)
        ready[first_thread + __builtin_ctz(rest)] = 1;
}

// Lanes that name the same mask meet. Lanes with different masks do not disturb each other: each mask has its own
// exchange, of which a warp can never need more than it has lanes.
const Exchange* BlockRunner::exchange(unsigned mask, uint64_t value) {
    Fiber& self = fibers[current];
    Warp& warp = warps[current / WARP];
    const unsigned lane = current % WARP, bit = 1u << lane;
    if (Exchange* held = self.held) {
        held->pending &= ~bit;
        if (!held->pending) warp.used &= ~(1u << (held - warp.exchanges));
    }
    Exchange* mine = nullptr;
    for (uint32_t rest = warp.filling; rest && !mine; rest &= rest - 1) {
        Exchange& each = warp.exchanges[__builtin_ctz(rest)];
        if (each.mask == mask) mine = &each;
    }
    if (!mine) {
        const unsigned slot = __builtin_ctz(~warp.used);
        warp.used |= 1u << slot;
        warp.filling |= 1u << slot;
        mine = &warp.exchanges[slot];
        mine->mask = mask;
        mine->members = mine->pending = 0;
    }
    mine->members |= bit;
    mine->values[lane] = value;
    self.held = mine;
    if ((mine->members & warp.live) == ((mask | bit) & warp.live)) {
        release_exchange(warp, mine - warp.exchanges, current - lane);
    } else {
        ready[current] = 0;
        wait();
    }
    return mine;
}

// __activemask() waits until nothing else in the block can move; then the lanes that stand at the same place in the
// program are the active ones. So a divergent branch sees only its own lanes, and straight code sees the whole warp.
unsigned BlockRunner::converged_lanes(unsigned place) {
    Fiber& self = fibers[current];
    self.converging = place;
    ready[current] = 0;
    wait();
    return self.converged;
}

bool BlockRunner::converge() {
    bool any = false;
    for (unsigned first = 0; first < count; first += WARP) {
        const unsigned end = std::min(first + WARP, count);
        for (unsigned i = first; i < end; i++) {
            const unsigned place = fibers[i].converging;
            if (place == NOWHERE) continue;
            unsigned lanes = 0;
            for (unsigned k = i; k < end; k++)
                if (fibers[k].converging == place) lanes |= 1u << k % WARP;
            for (unsigned k = i; k < end; k++)
                if (lanes >> k % WARP & 1) {
                    fibers[k].converging = NOWHERE;
                    fibers[k].converged = lanes;
                    ready[k] = 1;
                }
            any = true;
            break;  // one place per warp at a time: others may catch up with it meanwhile
        }
    }
    return any;
}

std::string BlockRunner::standstill() const {
    unsigned block_waiters = 0, first_other = count;
    for (unsigned i = 0; i < count; i++) {
        if (at_barrier[i]) block_waiters++;
        else if (alive[i] && first_other == count) first_other = i;
    }
    return "divergent barrier: " + std::to_string(block_waiters) + " threads wait at __syncthreads and " +
           std::to_string(live - block_waiters) + " at a warp barrier, shuffle or vote whose mask names threads that " +
           "never get there (the first is thread " + text(fibers[std::min(first_other, count - 1)].index) + ")";
}

BlockRunner* own_runner() {
    if (!runner) {
        runner_owner = std::make_unique<BlockRunner>();
        runner = runner_owner.get();
    }
    return runner;
}

}  // namespace

BlockVote kaasq_sync_block(bool vote) { return runner->sync_block(vote); }
const Exchange* kaasq_exchange(unsigned mask, uint64_t value) { return runner->exchange(mask, value); }
unsigned kaasq_converged_lanes(unsigned place) { return runner->converged_lanes(place); }
void kaasq_fail(const char* message) { throw Failure(message); }

// ------------------------------------------------------------------------------------------- all blocks of a launch
namespace {

struct Job {
    const Kernel* kernel;
    const Launch* launch;
    const uint64_t blocks;
    uint64_t chunk = 1;
    std::atomic<uint64_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex lock;
    std::string message;

    Job(const Kernel* kernel, const Launch* launch)
        : kernel(kernel), launch(launch), blocks(uint64_t(launch->grid.x) * launch->grid.y * launch->grid.z) {}

    // Runs blocks [first, last). False once any block, here or on another OS thread, has failed.
    bool run(uint64_t first, uint64_t last) {
        const Index grid = launch->grid;
        Index block{static_cast<unsigned>(first % grid.x), static_cast<unsigned>(first / grid.x % grid.y),
                    static_cast<unsigned>(first / grid.x / grid.y)};
        try {
            for (uint64_t i = first; i < last && !failed.load(std::memory_order_relaxed); i++) {
                if (kernel->uses_fibers) runner->run(kernel, launch, block);
                else kernel->run_block(launch, block);
                if (++block.x == grid.x) {
                    block.x = 0;
                    if (++block.y == grid.y) block.y = 0, block.z++;
                }
            }
        } catch (const std::exception& error) {
            std::lock_guard<std::mutex> hold(lock);
            if (!failed.exchange(true)) message = "block " + text(block) + ": " + error.what();
        }
        return !failed.load(std::memory_order_relaxed);
    }

    void run_shared() {
        for (;;) {
            const uint64_t first = next.fetch_add(chunk);
            if (first >= blocks || !run(first, std::min(first + chunk, blocks))) return;
        }
    }
};

void prepare_thread(const Kernel* kernel) {
    if (!kaasq_shared) {
        void* memory = mmap(nullptr, SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw Failure("no memory for a block's shared memory");
        kaasq_shared = static_cast<char*>(memory);
    }
    if (kernel->uses_fibers) own_runner();
}

// One pool for all modules and devices of the process; it grows to the most threads that a launch asked for.
class Pool {
  public:
    // Helps with the job until it is done. Another launch may hold the pool: then the caller works alone.
    void run(Job& shared, unsigned helpers) {
        std::unique_lock<std::mutex> exclusive(users, std::try_to_lock);
        if (!exclusive) return shared.run_shared();
        {
            std::lock_guard<std::mutex> hold(lock);
            while (threads < helpers) {
                try {
                    std::thread([this, index = threads] { serve(index); }).detach();
                } catch (const std::system_error&) {
                    break;  // the process may have no more threads: those there are will do
                }
                threads++;
            }
            job = &shared;
            wanted = std::min(helpers, threads);
            working = wanted;
            turn++;
        }
        wake.notify_all();
        shared.run_shared();
        std::unique_lock<std::mutex> hold(lock);
        done.wait(hold, [this] { return working == 0; });
        job = nullptr;
    }

  private:
    void serve(unsigned index) {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> hold(lock);
        for (;;) {
            wake.wait(hold, [&] { return turn != seen && job; });
            seen = turn;
            if (index >= wanted) continue;
            Job* mine = job;
            hold.unlock();
            try {
                prepare_thread(mine->kernel);
                mine->run_shared();
            } catch (const std::exception&) {
                // This thread cannot help (no memory for stacks); the others do its share.
            }
            hold.lock();
            if (--working == 0) done.notify_one();
        }
    }

    std::mutex users, lock;
    std::condition_variable wake, done;
    Job* job = nullptr;
    unsigned threads = 0, wanted = 0, working = 0;
    uint64_t turn = 0;
};

// Never destroyed: its threads outlive static destructors. A forked child has none of them and starts a new pool.
std::atomic<Pool*> pool{nullptr};

Pool* the_pool() {
    static std::once_flag once;
    std::call_once(once, [] {
        pool = new Pool;
        pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
    });
    return pool;
}

void run_all(Job& job, unsigned threads) {
    using Clock = std::chrono::steady_clock;
    prepare_thread(job.kernel);
    if (threads <= 1 || job.blocks == 1) {
        job.run(0, job.blocks);
        return;
    }
    // A small launch is over before another thread has woken up: begin alone, and call for help when it takes longer.
    const auto deadline = Clock::now() + ALONE;
    uint64_t first = 0;
    for (uint64_t step = 1; first < job.blocks; step = std::min<uint64_t>(step * 2, 16)) {
        const uint64_t last = std::min(first + step, job.blocks);
        if (!job.run(first, last)) return;
        first = last;
        if (Clock::now() >= deadline) break;
    }
    if (first == job.blocks) return;
    job.next = first;
    job.chunk = std::max<uint64_t>(1, (job.blocks - first) / (threads * 16));
    const uint64_t chunks = (job.blocks - first + job.chunk - 1) / job.chunk;
    the_pool()->run(job, static_cast<unsigned>(std::min<uint64_t>(threads, chunks)) - 1);
}

}  // namespace

// Runs a kernel to its end. Returns 0, or 1 with what went wrong in `message`.
extern "C" int kaasq_launch(const Kernel* kernel, void** arguments, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                            unsigned block_x, unsigned block_y, unsigned block_z, size_t shared_bytes,
                            unsigned threads, char* message, size_t message_size) {
    const Launch launch{arguments, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes};
    Job job(kernel, &launch);
    try {
        run_all(job, threads);
    } catch (const std::exception& error) {
        job.failed = true;
        job.message = error.what();
    }
    if (kernel->prints) fflush(stdout);
    if (!job.failed) return 0;
    snprintf(message, message_size, "%s", job.message.c_str());
    return 1;
}
