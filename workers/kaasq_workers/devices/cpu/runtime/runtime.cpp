// The CPU device's runtime: compiled once, loaded before any module. Runs the blocks of a launch on a pool of OS threads;
// a kernel with barriers through block_runner.h.
#undef _FORTIFY_SOURCE  // its longjmp takes a jump from a fiber's stack for an attack
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>

#include "block_runner.h"
#include "fault.h"
#include "kaasq_runtime.h"

extern "C" {
__thread __attribute__((tls_model("initial-exec"))) const kaasq::Thread* kaasq_thread;
__thread __attribute__((tls_model("initial-exec"))) char* kaasq_shared;
}

BlockVote kaasq_sync_block(bool vote) { return runner->sync_block(vote); }
const Exchange* kaasq_exchange(unsigned mask, uint64_t value) { return runner->exchange(mask, value); }
unsigned kaasq_converged_lanes(unsigned place) { return runner->converged_lanes(place); }
void kaasq_fail(const char* message) { throw Failure(message); }

namespace {

constexpr int FAILED = 1, FAULTED = 2;
constexpr size_t SHARED_BYTES = 256 << 10;  // above the 227 KiB a block may ask for, so the address never changes
constexpr auto ALONE = std::chrono::microseconds(20);  // about what waking another OS thread costs

struct Job {
    const Kernel* kernel;
    const Launch* launch;
    const uint64_t blocks;
    uint64_t chunk = 1;
    std::atomic<uint64_t> next{0};
    std::atomic<bool> failed{false};
    const bool guard;
    const CodeRange code;
    std::mutex lock;
    int result = 0;
    std::string message;
    std::atomic<uint64_t> fault{0};

    Job(const Kernel* kernel, const Launch* launch, bool guard)
        : kernel(kernel), launch(launch), blocks(uint64_t(launch->grid.x) * launch->grid.y * launch->grid.z),
          guard(guard), code(guard ? code_around(reinterpret_cast<const void*>(kernel->run_block)) : CodeRange{}) {}

    void run_block(Index block) {
        if (kernel->uses_fibers) runner->run(kernel, launch, block);
        else kernel->run_block(launch, block);
    }

    void run_guarded(Index block) {
        run_caught(
            code, [&] { run_block(block); },
            [&](uint64_t address, const std::string& did) {
                return kernel->uses_fibers ? runner->dropped(address, did) : Fault("a thread " + did, address);
            });
    }

    // Runs blocks [first, last). False once any block, here or on another OS thread, has failed.
    bool run(uint64_t first, uint64_t last) {
        const Index grid = launch->grid;
        Index block{static_cast<unsigned>(first % grid.x), static_cast<unsigned>(first / grid.x % grid.y),
                    static_cast<unsigned>(first / grid.x / grid.y)};
        try {
            // Not in guard mode, which tells the block that failed.
            if (kernel->run_strided && !guard && kernel->run_strided(launch, first, last)) return true;
            for (uint64_t i = first; i < last && !failed.load(std::memory_order_relaxed); i++) {
                if (guard) run_guarded(block);
                else run_block(block);
                if (++block.x == grid.x) {
                    block.x = 0;
                    if (++block.y == grid.y) block.y = 0, block.z++;
                }
            }
        } catch (const Fault& found) {
            fail(found, block, FAULTED);
            fault = found.address;
        } catch (const std::exception& error) {
            fail(error, block, FAILED);
        }
        return !failed.load(std::memory_order_relaxed);
    }

    // The first failure is the one that is told, except that a fault must not go unnoticed.
    void fail(const std::exception& error, Index block, int how) {
        std::lock_guard<std::mutex> hold(lock);
        if (how <= result) return;
        result = how;
        message = "block " + text(block) + ": " + error.what();
        failed = true;
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
    // A grid-stride loop goes through memory in pieces of as many blocks as are run together: the more the better.
    const unsigned parts = threads * (job.kernel->run_strided ? 2 : 16);
    job.chunk = std::max<uint64_t>(1, (job.blocks - first) / parts);
    const uint64_t chunks = (job.blocks - first + job.chunk - 1) / job.chunk;
    the_pool()->run(job, static_cast<unsigned>(std::min<uint64_t>(threads, chunks)) - 1);
}

}  // namespace

// Runs a kernel to its end. Returns 0, or FAILED with what went wrong in `message`; with `guard`, FAULTED if it went for
// unmapped memory, and the address in `fault`, as far as it is known.
extern "C" int kaasq_launch(const Kernel* kernel, void** arguments, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                            unsigned block_x, unsigned block_y, unsigned block_z, size_t shared_bytes,
                            unsigned threads, int guard, uint64_t* fault, char* message, size_t message_size) {
    const Launch launch{arguments, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes};
    if (guard) catch_faults();
    Job job(kernel, &launch, guard);
    try {
        run_all(job, threads);
    } catch (const std::exception& error) {
        job.result = FAILED;
        job.message = error.what();
    }
    if (kernel->prints) fflush(stdout);
    if (job.result) snprintf(message, message_size, "%s", job.message.c_str());
    *fault = job.fault;
    return job.result;
}
