// What a compiled module and the runtime library know of each other: the only declarations that both sides include.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace kaasq {

struct Index {
    unsigned x, y, z;
};

struct Launch {
    void** arguments;  // one pointer per parameter, to its value
    Index grid, block;
    size_t shared_bytes;
};

struct Parameter {
    uint32_t offset, size, is_pointer;
};

// One launchable kernel of a module. Python reads this table through ctypes: devices/cpu/module.py mirrors it.
struct Kernel {
    const char* name;
    const Parameter* parameters;
    uint32_t parameter_count;
    uint32_t threads_per_block;
    uint32_t uses_fibers;  // it has a barrier, so each CUDA thread needs a stack of its own
    uint32_t prints;       // it calls printf: flush after the launch
    // A kernel without barriers: run the whole block as a loop. With barriers: only set the block's index.
    void (*run_block)(const Launch*, Index block);
    void (*run_thread)(const Launch*, Index thread);
    // Where a grid-stride loop can be run round by round: runs blocks [first, last), or says that this launch cannot.
    bool (*run_strided)(const Launch*, uint64_t first, uint64_t last);
};

// A CUDA thread that has a fiber.
struct Thread {
    Index index;
    unsigned linear;  // its number within the block; its lane is the last five bits
};

// What the lanes of a warp gave to one collective (shuffle, vote), readable until a lane's next collective.
struct Exchange {
    uint32_t mask;     // the lanes that the caller named
    uint32_t members;  // those of them that arrived; the others have exited
    uint32_t pending;  // members that have not yet gone on to their next collective
    uint64_t values[32];
};

// How a block voted at a barrier.
struct BlockVote {
    unsigned in_favour, voters;
};

}  // namespace kaasq

// Thread-local state lives in the runtime, not in each module: the space for initial-exec variables is scarce.
extern "C" {
extern __thread __attribute__((tls_model("initial-exec"))) const kaasq::Thread* kaasq_thread;
extern __thread __attribute__((tls_model("initial-exec"))) char* kaasq_shared;

kaasq::BlockVote kaasq_sync_block(bool vote);
const kaasq::Exchange* kaasq_exchange(unsigned mask, uint64_t value);
unsigned kaasq_converged_lanes(unsigned place);
[[noreturn]] void kaasq_fail(const char* message);
}
