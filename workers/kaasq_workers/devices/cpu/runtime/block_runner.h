// Runs one block whose threads wait for each other: a fiber for every thread, all on the OS thread that runs the block.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

#include "failure.h"
#include "kaasq_runtime.h"
#include "stack_switch.h"

namespace {

using kaasq::BlockVote;
using kaasq::Exchange;
using kaasq::Index;
using kaasq::Kernel;
using kaasq::Launch;

constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned NOWHERE = ~0u;
constexpr unsigned MAX_WARPS = MAX_THREADS / WARP;
constexpr size_t GUARD_BYTES = 64 << 10;  // the largest page that aarch64 systems have
constexpr size_t STACK_BYTES = GUARD_BYTES + (128 << 10);

struct Fiber : kaasq::Thread {
    void* stack_pointer = nullptr;  // null: it has to start afresh
    char* stack = nullptr;
    Exchange* held = nullptr;       // the collective whose values it may still be reading
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
    Fault dropped(uint64_t address, const std::string& did);

  private:
    static void fiber_main();
    void start_stack(unsigned i);
    void finish();
    void forget_stacks();
    void wait();
    void release_block();
    void release_exchange(Warp& warp, unsigned slot, unsigned first_thread);
    bool converge();
    [[noreturn]] void abandon();
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
        (void)mprotect(stack, GUARD_BYTES, PROT_NONE);
    }
    // Stacks lie at regular distances: staggering their tops keeps the hot parts out of each other's cache sets.
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
        forget_stacks();
        std::string message;
        message.swap(failure);
        throw Failure(message);
    }
}

// The threads stopped in mid-kernel: they have to start afresh.
void BlockRunner::forget_stacks() {
    for (unsigned k = 0; k < count; k++) fibers[k].stack_pointer = nullptr;
}

// After a jump out of a fiber that hit unmapped memory there: forgets the block, and says which thread did what.
Fault BlockRunner::dropped(uint64_t address, const std::string& did) {
    forget_stacks();
    kaasq_thread = nullptr;
    const Fiber& fiber = fibers[current];
    const uint64_t stack = reinterpret_cast<uint64_t>(fiber.stack);
    const std::string who = "thread " + text(fiber.index) + " ";
    if (address < stack || address >= stack + GUARD_BYTES) return Fault(who + did, address);
    return Fault(who + "overflowed its stack of " + std::to_string((STACK_BYTES - GUARD_BYTES) >> 10) + " KiB", 0);
}

void BlockRunner::fiber_main() {
    for (;;) {  // once per block: a fiber that finished a block starts the next one here
        BlockRunner* self = runner;
        try {
            self->kernel->run_thread(self->launch, self->fibers[self->current].index);
        } catch (const std::exception& failed) {
            self->failure = failed.what();
        }
        if (!self->failure.empty()) self->abandon();  // not from within the handler, which it would never leave
        self->finish();
    }
}

// Leaves all threads of the block where they are and goes back to run(), which reports the failure.
void BlockRunner::abandon() {
    void* dead;
    kaasq_switch(&dead, home);
    __builtin_unreachable();
}

// Go on with the next thread that can run. Threads run in turn, so that a barrier costs one switch per thread.
void BlockRunner::wait() {
    Fiber& self = fibers[current];
    for (;;) {
        const unsigned from = current + 1;
        const void* found = nullptr;
        if (from < count) found = ready[from] ? ready + from : memchr(ready + from, 1, count - from);
        if (!found) found = memchr(ready, 1, std::min(from, count));
        if (found) {
            const unsigned next = static_cast<const unsigned char*>(found) - ready;
            if (next == current) return;
            current = next;
            kaasq_thread = &fibers[next];
            // The stacks of a block are more than the nearest cache holds: fetch the one after while this one runs.
            __builtin_prefetch(fibers[next + 1 < count ? next + 1 : 0].stack_pointer);
            kaasq_switch(&self.stack_pointer, fibers[next].stack_pointer);
            return;
        }
        if (!converge()) {
            failure = standstill();
            abandon();
        }
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
